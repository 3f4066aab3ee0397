"""The API reference at `/docs`, rendered from the OpenAPI description without scripts and without other
hosts.
"""

from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import HTMLResponse

from server.page_router import PageRouter
from server.responses import Templates

router = PageRouter()


class Parameter(NamedTuple):
    """One parameter of an operation."""

    name: str
    place: str
    """query or path"""
    type: str
    description: str


class Operation(NamedTuple):
    """One method at one path, and the JSON twin of a page beside it. `body` and `response` name records."""

    anchor: str
    method: str
    path: str
    description: str
    parameters: list[Parameter]
    body: str
    response: str
    twins: tuple["Operation", ...] = ()
    """further paths of the same handler, with the same parameters"""

    def same(self, other: "Operation") -> bool:
        return self._replace(anchor="", path="", twins=()) == other._replace(anchor="", path="", twins=())


class RecordField(NamedTuple):
    """One field of a record."""

    name: str
    type: str
    description: str


class RecordSchema(NamedTuple):
    """One record of the API."""

    name: str
    description: str
    fields: list[RecordField]


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The reference as one page."""
    templates: Templates = request.app.state.templates
    openapi = request.app.openapi()
    html = templates.html(
        "api_reference.html",
        operations=_operations(openapi),
        records=_records(openapi),
        json_url="/openapi.json",
    )
    return HTMLResponse(html)


def _operations(openapi: dict[str, Any]) -> list[Operation]:
    """Each handler once, by its address under /api where it has one."""
    every = [
        Operation(
            anchor=operation["operationId"],
            method=method.upper(),
            path=path,
            description=operation.get("description", operation.get("summary", "")),
            parameters=[
                Parameter(
                    parameter["name"],
                    parameter["in"],
                    _type(parameter["schema"]),
                    parameter.get("description", ""),
                )
                for parameter in operation.get("parameters", [])
            ],
            body=_record_name(_json_schema(operation.get("requestBody", {}))),
            response=_record_name(_json_schema(operation["responses"].get("200", {}))),
        )
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    found: list[Operation] = []
    for one in sorted(every, key=lambda operation: not operation.path.startswith("/api/")):
        first = next((other for other in found if one.path.endswith(".json") and one.same(other)), None)
        if first is None:
            found.append(one)
        else:
            found[found.index(first)] = first._replace(twins=(*first.twins, one))
    return found


def _records(openapi: dict[str, Any]) -> list[RecordSchema]:
    schemas = openapi.get("components", {}).get("schemas", {})
    return [
        RecordSchema(
            name,
            schema.get("description", ""),
            [
                RecordField(field, _type(entry), entry.get("description", ""))
                for field, entry in schema.get("properties", {}).items()
            ],
        )
        for name, schema in sorted(schemas.items())
        if name not in ("HTTPValidationError", "ValidationError")
    ]


def _json_schema(content: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = content.get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _record_name(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _type(schema: dict[str, Any]) -> str:
    """A schema's type in words: `integer`, `list of Token`, `reads | predicts`."""
    if "$ref" in schema:
        return _record_name(schema)
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
