"""What a name is and is not, and every measure in words, from the tables of `lexiscope.measures`."""

from fastapi import Request
from fastapi.responses import Response

from lexiscope.measures import CHANCE, LEVELS
from lexiscope.records import RELATION_WORDS, VERDICT_WORDS
from lexiscope.records.about import AboutPage, MeasureDefinition, MeasureGroup
from server.page_router import PageRouter
from server.responses import PageContent, respond

router = PageRouter()


@router.page("/about", AboutPage, api="/about", navigation="About", errors=())
def about(request: Request) -> Response:
    """What a name is and is not, and the definition of every measure."""
    return respond(request, PageContent(about_page(), "about.html"))


def about_page() -> AboutPage:
    """A measure that an earlier group has is left out of the later ones."""
    groups, known = [], set[int]()
    for title, measures, _ in LEVELS:
        own = [measure for measure in measures.values() if id(measure) not in known]
        known |= {id(measure) for measure in own}
        definitions = [
            MeasureDefinition.of(measure, f"`{measure.chance}`: {CHANCE}" if measure.chance else "")
            for measure in own
        ]
        groups.append(MeasureGroup(title=title, measures=definitions))
    return AboutPage(relations=dict(RELATION_WORDS), verdicts=dict(VERDICT_WORDS), groups=groups)
