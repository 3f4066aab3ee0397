"""What a name is and is not, and every measure in words, from the tables of `lexiscope.measures`."""

from fastapi import Request
from fastapi.responses import Response

from lexiscope.measures import CHANCE, DERIVED, DICTIONARY, FEATURE, RUN, TRAINING
from lexiscope.records import RELATION_WORDS, VERDICT_WORDS
from lexiscope.records.about import AboutPage, MeasureDefinition, MeasureGroup
from server.page_router import PageRouter
from server.responses import PageContent, respond

GROUPS = (
    ("Of a feature, on the indexed text", FEATURE),
    ("Of a dictionary, on the indexed text", {**DICTIONARY, **DERIVED}),
    ("Of a dictionary, on held-out text", RUN),
    ("Of a run while it trains", TRAINING),
)

router = PageRouter()


@router.page("/about", AboutPage, api="/about", navigation="About", errors=())
def about(request: Request) -> Response:
    """What a name is and is not, and the definition of every measure."""
    return respond(request, PageContent(about_page(), "about.html"))


def about_page() -> AboutPage:
    """A measure that an earlier group has is left out of the later ones."""
    groups, known = [], set[int]()
    for title, measures in GROUPS:
        own = [measure for measure in measures.values() if id(measure) not in known]
        known |= {id(measure) for measure in own}
        definitions = [
            MeasureDefinition.of(measure, f"`{measure.chance}`: {CHANCE}" if measure.chance else "")
            for measure in own
        ]
        groups.append(MeasureGroup(title=title, measures=definitions))
    return AboutPage(relations=dict(RELATION_WORDS), verdicts=dict(VERDICT_WORDS), groups=groups)
