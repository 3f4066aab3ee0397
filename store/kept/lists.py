"""Lists of features that people keep on the server. A list has an owner (an API key's name), a name, and a
version that grows with each change, so that nobody overwrites what they have not seen.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from lexiscope.records.collection import KeptListSummary, ListRequest, NotedFeature
from lexiscope.settings import Settings
from store.errors import Conflict, NotFound
from store.kept.database import SCHEMA, KeptDatabase, Row

metadata = sa.MetaData(schema=SCHEMA)
kept_list = sa.Table(
    "kept_list",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("features", sa.Text, nullable=False),
    sa.Column("n_features", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("changed", sa.Text, nullable=False),
    sa.UniqueConstraint("owner", "name"),
    sqlite_autoincrement=True,
)
SUMMARY = tuple(kept_list.c[name] for name in KeptListSummary.model_fields)
MOST = 500
"""lists of an owner"""


class KeptFeatures(NamedTuple):
    """A kept list."""

    summary: KeptListSummary
    features: list[NotedFeature]


class KeptLists:
    """All kept lists. Methods may raise Unreachable."""

    def __init__(self, settings: Settings) -> None:
        self._database = KeptDatabase(settings, "lists", metadata)

    def close(self) -> None:
        self._database.close()

    def every(self, *, owner: str | None = None) -> list[KeptListSummary]:
        """All lists, or those of an owner, the last changed first."""
        statement = sa.select(*SUMMARY).order_by(kept_list.c.changed.desc(), kept_list.c.id.desc())
        if owner is not None:
            statement = statement.where(kept_list.c.owner == owner)
        return [_summary(row) for row in self._database.read(statement)]

    def get(self, list_id: int) -> KeptFeatures:
        """Raises NotFound."""
        own = sa.select(*SUMMARY, kept_list.c.features).where(kept_list.c.id == list_id)
        for row in self._database.read(own):
            return KeptFeatures(
                _summary(row), [NotedFeature.model_construct(**one) for one in json.loads(row.features)]
            )
        raise NotFound(f"the server keeps no list {list_id}")

    def put(self, request: ListRequest, *, owner: str) -> KeptListSummary:
        """Keep a list under its name, in place of the version that the request names. Raises Conflict where
        the list has another version, or the owner has MOST lists.
        """
        own = (kept_list.c.owner == owner, kept_list.c.name == request.name)
        row = {
            "features": json.dumps([one.model_dump() for one in request.features]),
            "n_features": len(request.features),
            "version": request.version + 1,
            "changed": datetime.now(UTC).isoformat(timespec="seconds"),
        }

        def write(connection: sa.Connection) -> Row | int | None:
            """The list as it is now; its other version; None for an owner of too many."""
            if request.version:
                same = (*own, kept_list.c.version == request.version)
                statement = kept_list.update().where(*same).values(row).returning(*SUMMARY)
                if (changed := connection.execute(statement).first()) is not None:
                    return changed
            there = connection.execute(sa.select(kept_list.c.version).where(*own)).scalar()
            if there is not None or request.version:
                return int(there or 0)
            counted = sa.select(sa.func.count()).where(kept_list.c.owner == owner)
            if connection.execute(counted).scalar_one() >= MOST:
                return None
            made = kept_list.insert().values(owner=owner, name=request.name, **row).returning(*SUMMARY)
            return connection.execute(made).one()

        found = self._database.write(write)
        if found is None:
            raise Conflict(f"{owner} has {MOST} lists on the server: remove one first")
        if isinstance(found, int):
            own_list = f"{owner}'s list {request.name!r}"
            if not found:
                raise Conflict(
                    f"{own_list} is no longer on the server: send it again as a new one, with version 0"
                )
            raise Conflict(
                f"{own_list} is at version {found} on the server, not at version {request.version}: "
                "read it first, and send what both have"
            )
        return _summary(found)

    def remove(self, list_id: int, *, owner: str) -> None:
        """Remove a list of its owner. Raises NotFound."""
        statement = kept_list.delete().where(kept_list.c.id == list_id, kept_list.c.owner == owner)
        if not self._database.exists() or not self._database.write(
            lambda connection: connection.execute(statement).rowcount
        ):
            raise NotFound(f"the server keeps no list {list_id} of {owner}")


def _summary(row: Row | Sequence[object]) -> KeptListSummary:
    return KeptListSummary.model_validate(dict(zip(KeptListSummary.model_fields, row, strict=False)))
