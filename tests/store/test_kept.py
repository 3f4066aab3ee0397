"""Labels, lists and keys stay when the index is made again, on both databases."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from lexiscope.records import LabelRequest
from lexiscope.records.collection import ListRequest
from lexiscope.settings import Settings
from store import (
    MOST_ID,
    ApiKeys,
    Conflict,
    KeptLists,
    KeyExists,
    KeyRefused,
    Labels,
    LimitReached,
    NotFound,
    Unreachable,
)
from tests.store import synthetic

NOW = {("tiny", "1-vasae"): "a"}


@pytest.fixture
def labels(place: Settings) -> Iterator[Labels]:
    opened = Labels(place)
    yield opened
    opened.close()


def add(labels: Labels, words: str, *, index: int = 6, **given: str) -> int:
    request = LabelRequest(label=words, note=given.get("note", ""))
    found = labels.add("tiny", "1-vasae", index, request, author=given.get("author", "ann"), identity="a")
    return found.id


def test_without_labels_there_is_nothing(labels: Labels) -> None:
    assert labels.state() == "" and labels.of_feature("tiny", "1-vasae", 6, NOW) == []
    assert labels.search(NOW, limit=5) == [] and list(labels.every(NOW)) == []
    with pytest.raises(NotFound, match="no label 1"):
        labels.remove("tiny", "1-vasae", 6, 1, author=None)


def test_labels_are_found_by_any_of_their_words_and_outlive_the_index(
    labels: Labels, place: Settings
) -> None:
    first = add(labels, "Capitals of Europe", note="100% of them")
    second = add(labels, "rivers", index=7, author="Bob")
    before = labels.state()
    synthetic.publish(place)
    synthetic.publish(place)
    again = Labels(place)
    assert again.state() == before != ""
    assert [one.id for one in again.every(NOW)] == [second, first]
    for query, ids in (("EUROPE", [first]), ("0% o", [first]), ("bob", [second]), ("%", [first]), ("_", [])):
        assert [one.id for one in again.search(NOW, query=query, limit=5)] == ids, query
    assert [one.id for one in again.search(NOW, author="Bob", limit=5)] == [second]
    assert [one.id for one in again.search(NOW, before=second, limit=5)] == [first]
    [own] = again.of_feature("tiny", "1-vasae", 7, NOW)
    assert (own.feature, own.label, own.outdated) == ("tiny/1-vasae/7", "rivers", False)
    [other] = again.of_feature("tiny", "1-vasae", 7, {("tiny", "1-vasae"): "b"})
    assert other.outdated and again.of_feature("tiny", "1-vasae", 7, {})[0].outdated
    again.close()


def test_a_label_is_removed_by_its_author_alone_where_one_is_asked_for(labels: Labels) -> None:
    number = add(labels, "a")
    state = labels.state()
    for index, author in ((7, None), (6, "bob")):
        with pytest.raises(NotFound):
            labels.remove("tiny", "1-vasae", index, number, author=author)
    labels.remove("tiny", "1-vasae", 6, number, author="ann")
    assert labels.state() == "" != state
    assert add(labels, "b") != number  # an id is not used again


def test_what_no_row_can_hold_is_found_nowhere(labels: Labels, place: Settings) -> None:
    made = add(labels, "a")
    assert labels.search(NOW, query="a\0", limit=5) == [] == labels.search(NOW, author="\0", limit=5)
    assert [one.id for one in labels.search(NOW, before=MOST_ID, limit=5)] == [made]
    lists = KeptLists(place)
    lists.put(asked("cities"), owner="ann")
    assert lists.every(owner="\0") == []
    with pytest.raises(NotFound):
        lists.get(MOST_ID)
    lists.close()
    for given in ({"label": "a\0"}, {"label": "a", "note": "\0b"}, {"label": "a", "author": "\0b"}):
        with pytest.raises(ValidationError, match="NUL"):
            LabelRequest.model_validate(given)
    with pytest.raises(ValidationError, match="NUL"):
        asked("a\0b")


def test_a_database_whose_connections_are_all_busy_is_one_that_does_not_answer(
    labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(labels, "a")

    def busy(_: object) -> None:
        raise sa.exc.TimeoutError("QueuePool limit reached")

    monkeypatch.setattr("sqlalchemy.Engine.begin", busy)
    with pytest.raises(Unreachable, match="limit reached"):
        labels.of_feature("tiny", "1-vasae", 6, NOW)
    with pytest.raises(Unreachable, match="limit reached"):
        add(labels, "b")


@pytest.fixture
def keys(place: Settings) -> Iterator[ApiKeys]:
    opened = ApiKeys(place, clock=lambda: 1_000_000_000.0)
    yield opened
    opened.close()


def test_a_key_is_known_by_its_hash_alone(keys: ApiKeys, place: Settings) -> None:
    assert not keys.on() and keys.list() == [] and not keys.remove("ann")
    key = keys.add("ann")
    assert keys.on() and keys.grant(key).name == "ann"
    for wrong in ("", key[:-1], key + "x", "lx_", "ü"):
        with pytest.raises(KeyRefused):
            keys.grant(wrong)
    with pytest.raises(KeyExists, match="'ann'"):
        keys.add("ann")
    for name in ("", " a", "a\nb", "x" * 81):
        with pytest.raises(KeyRefused, match="cannot name"):
            keys.add(name)
    kept = b"".join(file.read_bytes() for file in place.index.glob("keys.sqlite*"))
    assert key.encode() not in kept
    assert keys.remove("ann") and not keys.on()


def test_a_key_has_its_requests_a_minute_and_a_day_in_all_processes(place: Settings) -> None:
    now = 1_000_000_040.0  # 40 s before a minute ends
    one, other = (ApiKeys(place, clock=lambda: now) for _ in range(2))
    key = one.add("ann", per_minute=2, per_day=4)
    assert one.grant(key)[1:] == (2, 1, 40) and other.grant(key).remaining == 0
    with pytest.raises(LimitReached, match="2 requests a minute") as raised:
        one.grant(key)
    assert raised.value.retry_after == 40
    now += 60
    assert one.grant(key).remaining == 1
    with pytest.raises(LimitReached, match="4 requests a day") as raised:
        other.grant(key)
    assert raised.value.retry_after == 86_400 - now % 86_400
    [info] = one.list()
    assert (info.name, info.per_minute, info.per_day, info.used_today) == ("ann", 2, 4, 5)
    now += 86_400
    assert one.grant(key).remaining == 1
    one.close()
    other.close()


def asked(name: str, *ids: str, version: int = 0) -> ListRequest:
    return ListRequest.model_validate(
        {"name": name, "version": version, "features": [{"id": one, "note": f"note of {one}"} for one in ids]}
    )


def test_a_list_is_replaced_only_by_who_knows_its_version(place: Settings) -> None:
    lists = KeptLists(place)
    assert lists.every() == []
    with pytest.raises(NotFound, match="keeps no list 1"):
        lists.get(1)
    with pytest.raises(NotFound, match="keeps no list 1 of ann"):
        lists.remove(1, owner="ann")
    first = lists.put(asked("cities", "a/0-b/1"), owner="ann")
    other = lists.put(asked("cities", "a/0-b/7"), owner="bob")
    assert (first.version, first.n_features, other.version) == (1, 1, 1) and first.id != other.id
    for version in (0, 2):
        with pytest.raises(Conflict, match="at version 1 on the server"):
            lists.put(asked("cities", version=version), owner="ann")
    with pytest.raises(Conflict, match="no longer on the server: send it again as a new one"):
        lists.put(asked("rivers", version=1), owner="ann")
    second = lists.put(asked("cities", "a/0-b/2", "a/0-b/1", version=1), owner="ann")
    assert (second.id, second.version) == (first.id, 2)
    synthetic.publish(place)
    again = KeptLists(place)
    assert [one.note for one in again.get(first.id).features] == ["note of a/0-b/2", "note of a/0-b/1"]
    assert again.get(other.id).features[0].id == "a/0-b/7"
    assert again.every(owner="ann") == [second] and {one.id for one in again.every()} == {first.id, other.id}
    with pytest.raises(NotFound, match="of bob"):
        again.remove(first.id, owner="bob")
    again.remove(first.id, owner="ann")
    assert [one.id for one in lists.every()] == [other.id]
    for opened in (lists, again):
        opened.close()


@contextmanager
def overtaken(by: Callable[[], object]) -> Iterator[None]:
    """The first row that is inserted in the block is inserted after `by`."""
    waiting, execute = [by], sa.Connection.execute

    def after(connection: sa.Connection, statement: sa.Executable, *given: Any, **named: Any) -> object:
        if isinstance(statement, sa.Insert) and waiting:
            waiting.pop()()
        return execute(connection, statement, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sa.Connection, "execute", after)
        yield


def test_of_two_who_make_a_list_of_one_name_at_once_the_second_is_told(place: Settings) -> None:
    one, other = KeptLists(place), KeptLists(place)
    one.put(asked("rivers"), owner="ann")
    with (
        overtaken(lambda: other.put(asked("cities", "a/0-b/7"), owner="ann")),
        pytest.raises(Conflict, match="is at version 1 on the server"),
    ):
        one.put(asked("cities"), owner="ann")
    assert sorted(made.name for made in one.every()) == ["cities", "rivers"]
    for opened in (one, other):
        opened.close()


def test_of_two_who_make_a_key_of_one_name_at_once_the_second_is_told(place: Settings) -> None:
    one, other = ApiKeys(place), ApiKeys(place)
    one.add("ann")
    with overtaken(lambda: other.add("bob")), pytest.raises(KeyExists, match="'bob'"):
        one.add("bob")
    assert [key.name for key in one.list()] == ["ann", "bob"]
    for opened in (one, other):
        opened.close()


def test_an_owner_has_a_bounded_number_of_lists(place: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.kept.lists.MOST", 2)
    lists = KeptLists(place)
    for name in ("a", "b"):
        lists.put(asked(name), owner="ann")
    with pytest.raises(Conflict, match="ann has 2 lists"):
        lists.put(asked("c"), owner="ann")
    assert lists.put(asked("a", version=1), owner="ann").version == 2
    lists.close()
