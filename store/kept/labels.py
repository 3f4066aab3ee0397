"""People's own labels and notes of features. A label belongs to a feature's id, `model/source/index`; it
records the identity of the dictionary that it was written about, because another one may get the same name.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import sqlalchemy as sa

from lexiscope.records import Label, LabelRequest
from lexiscope.settings import Settings
from store.errors import NotFound
from store.kept.database import SCHEMA, KeptDatabase, Row

metadata = sa.MetaData(schema=SCHEMA)
label = sa.Table(
    "label",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("index", sa.BigInteger, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("dictionary_identity", sa.Text, nullable=False),
    sa.Column("folded", sa.Text, nullable=False),
    sa.Index("label_of_feature", "model", "source", "index"),
    sqlite_autoincrement=True,
)
EXPORT_PIECE = 500

Identities = Mapping[tuple[str, str], str]
"""(model, source) → identity of the dictionary's weights that the index holds now"""


class Labels:
    """All labels. Methods may raise Unreachable."""

    def __init__(self, settings: Settings) -> None:
        self._database = KeptDatabase(settings, "labels", metadata)

    def close(self) -> None:
        self._database.close()

    def state(self) -> str:
        """Differs whenever labels were added or removed; empty without labels."""
        for count, last in self._database.read(sa.select(sa.func.count(), sa.func.max(label.c.id))):
            return f"{count}-{last}" if count else ""
        return ""

    def add(
        self, model: str, source: str, index: int, request: LabelRequest, *, author: str, identity: str
    ) -> Label:
        row = {
            "model": model,
            "source": source,
            "index": index,
            "label": request.label,
            "note": request.note,
            "author": author,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "dictionary_identity": identity,
            "folded": "\n".join((request.label, request.note, author)).casefold(),
        }
        found = self._database.write(
            lambda connection: connection.execute(label.insert().values(row).returning(label)).one()
        )
        return _record(found, {(model, source): identity})

    def of_feature(self, model: str, source: str, index: int, identities: Identities) -> list[Label]:
        """The labels of one feature, the latest first."""
        own = (label.c.model == model, label.c.source == source, label.c.index == index)
        rows = self._database.read(sa.select(label).where(*own).order_by(label.c.id.desc()))
        return [_record(row, identities) for row in rows]

    def search(
        self,
        identities: Identities,
        *,
        query: str = "",
        model: str | None = None,
        source: str | None = None,
        author: str | None = None,
        before: int | None = None,
        limit: int,
    ) -> list[Label]:
        """At most `limit` labels that contain a text in their label, note or author, whatever its case; the
        latest first, and older than the one with the id `before`.
        """
        statement = sa.select(label).order_by(label.c.id.desc()).limit(limit)
        if query:
            statement = statement.where(label.c.folded.contains(query.casefold(), autoescape=True))
        for column, value in ((label.c.model, model), (label.c.source, source), (label.c.author, author)):
            if value is not None:
                statement = statement.where(column == value)
        if before is not None:
            statement = statement.where(label.c.id < before)
        return [_record(row, identities) for row in self._database.read(statement)]

    def every(self, identities: Identities) -> Iterator[Label]:
        """All labels, the latest first."""
        before = None
        while piece := self.search(identities, before=before, limit=EXPORT_PIECE):
            yield from piece
            before = piece[-1].id

    def remove(self, model: str, source: str, index: int, label_id: int, *, author: str | None) -> None:
        """Remove a label of a feature; with `author`, only one of theirs. Raises NotFound."""
        own = (label.c.model == model, label.c.source == source, label.c.index == index)
        statement = label.delete().where(*own, label.c.id == label_id)
        if author is not None:
            statement = statement.where(label.c.author == author)
        if not self._database.exists() or not self._database.write(
            lambda connection: connection.execute(statement).rowcount
        ):
            whose = "" if author is None else f" of {author}"
            raise NotFound(f"{model}/{source}/{index} has no label {label_id}{whose}")


def _record(row: Row, identities: Identities) -> Label:
    now = identities.get((row.model, row.source))
    known = row.dictionary_identity and now
    return Label(
        id=row.id,
        feature=f"{row.model}/{row.source}/{row.index}",
        label=row.label,
        note=row.note,
        author=row.author,
        created=row.created,
        outdated=now is None or bool(known and now != row.dictionary_identity),
    )
