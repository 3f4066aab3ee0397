"""The document in a row: a text, or the turns of a conversation."""

from typing import Any

from lexiscope.errors import TextError

Conversation = list[dict[str, Any]]
"""[{role, content}, …]"""
TURNS = ("messages", "conversations", "conversation")
"""Fields that hold a conversation, where no field is named and there is no `text`."""
DOCUMENT_FIELDS = ("text", *TURNS)
"""Fields that hold the document, where none is named; the first that is there."""
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}


def document_in(row: Any, field: str | None, where: str) -> str | Conversation | None:
    """The document, None where the row has no text (null, or no turns). Raises TextError: no such field, or a
    field that is neither text nor a conversation.
    """
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        raise TextError(f"{where}: {_kind(row)}, not an object with a `{field or 'text'}` field.")
    name = field or next((name for name in DOCUMENT_FIELDS if name in row), DOCUMENT_FIELDS[0])
    value = _value(row, name, where)
    if isinstance(value, bytes):  # a column of Parquet that does not say that it is text
        value = _decoded(value, name, where)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(_is_turn(each) for each in value):
        return [_turn(each) for each in value] or None
    raise TextError(f"{where}: `{name}` is {_kind(value)}, not text.{_hint(name, value)}")


def _value(row: dict[str, Any], name: str, where: str) -> Any:
    """A field by name, or by the names on the way to it with dots between."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            fields = ", ".join(map(str, row)) or "none"
            raise TextError(f"{where}: no `{name}` field; the fields are {fields}. Name one with --field.")
        value = value[part]
    return value


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and (
        value.keys() >= {"role", "content"} or value.keys() >= {"from", "value"}
    )


def _turn(value: dict[str, Any]) -> dict[str, Any]:
    """One turn with `role` and `content`, whatever the data set calls them; content parts of text joined."""
    role = str(value.get("role", value.get("from")))
    content = value.get("content", value.get("value"))
    if isinstance(content, list):
        content = "".join(
            str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content
        )
    rest = {name: each for name, each in value.items() if name not in ("role", "content", "from", "value")}
    return rest | {"role": ROLES.get(role, role), "content": content or ""}


def _decoded(value: bytes, name: str, where: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise TextError(f"{where}: `{name}` is bytes that are not UTF-8 text.") from error


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "a truth value"
    return "a number" if isinstance(value, int | float) else f"a {type(value).__name__}"


def _hint(name: str, value: Any) -> str:
    if isinstance(value, dict) and value:
        first = next(iter(value))
        return f" Its fields are {', '.join(map(str, value))}: name one, for example --field {name}.{first}."
    if isinstance(value, list):
        return " Give one text a row, or a list of {role, content} objects."
    return " Name a field of text with --field."
