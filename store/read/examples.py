"""Words to start from on the home page: content words that name features."""

import sqlalchemy as sa

from lexiscope.records import Token
from store import schema
from store.read.listing import HELD
from store.read.open_build import OpenBuild

SHOWN = 12
COMMONEST = 50
"""Tokens that are no examples: most are function words."""
FUNCTION_WORDS = frozenset(
    """
    about above according across after again against ahead almost along already also although always among
    another anyone anything around asked away back became because become been before began begin behind
    being below besides better between beyond both bring came cannot come could course does doing done
    down during each either else enough even ever every everything except far few first following for four
    from further gave give given gone had half has have having hence her here herself him himself his
    however if indeed instead into itself just keep kept knew know known last later least less let like
    likely little long made make many may maybe might mine more most much must myself near nearly neither
    never next none nothing now off often once one only onto other others otherwise ought our ours
    ourselves out over own past perhaps put quite rather really right said same saw say says second see
    seem seemed seems seen several shall she should since some someone something sometimes soon still such
    take taken tell than that the their theirs them themselves then there therefore these they thing
    things think this those though thought three through throughout thus till together told too took toward
    towards two under unless until unto upon used using usually very want was way well went were what whatever
    when where whether which while who whole whom whose why will with within without would yes yet you
    your yours yourself
    aren couldn didn doesn hadn hasn haven isn mustn shouldn wasn weren wouldn
    """.split()
)


def example_tokens(build: OpenBuild) -> list[Token]:
    """Content words that name features, those of specific features in the most dictionaries first, of the
    first model that has any; other words only where there is none.
    """
    return build.cached("examples", lambda: _examples(build))


def _examples(build: OpenBuild) -> list[Token]:
    for model in build.models:
        counts = sorted((entry.occurrences for entry in build.vocabulary(model).entries), reverse=True)
        for most in (counts[COMMONEST] if len(counts) > COMMONEST else 0, counts[0]):
            words = _naming_words(build, model, at_most=most)
            if found := [token for token, folded in words if folded not in FUNCTION_WORDS]:
                return found[:SHOWN]
    return []


def _naming_words(build: OpenBuild, model: str, *, at_most: int) -> list[tuple[Token, str]]:
    """(token, folded spelling) of whole words of four letters or more that occur, `at_most` so often, and
    name features whose name holds.
    """
    named, token = schema.by_name.c, schema.token.c
    specific = sa.func.count(sa.distinct(sa.case((named.verdict == "specific", named.dictionary_id))))
    held = sa.func.count(sa.distinct(named.dictionary_id))
    statement = (
        sa.select(token.token_id, token.folded)
        .join(schema.by_name, named.token == token.token_id)
        .where(
            token.model == model,
            named.dictionary_id.in_([entry.dictionary_id for entry in build.of_model(model)]),
            named.by_relation == 1,
            named.verdict.in_(HELD),
            sa.func.length(token.folded) >= 4,
            token.shown.like("␣%"),
            token.count.between(1, at_most),
        )
        .group_by(token.token_id, token.folded, token.count)
        .order_by(specific.desc(), held.desc(), token.count.desc(), token.token_id)
        .limit(SHOWN + len(FUNCTION_WORDS))
    )
    rows = build.rows(statement)
    return [(build.vocabulary(model).get(row.token_id), row.folded) for row in rows]
