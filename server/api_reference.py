"""`/docs`: the API reference, rendered here from the OpenAPI description, so that it needs no script and no
other machine.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Template

from server.responses import Pages

router = APIRouter()

MAIN = """{% extends "base.html" %}
{% block title %}API reference · Lexiscope{% endblock %}
{% block main %}
<h1>API reference</h1>
<p>Every page has a twin that ends in <code>.json</code>: the same address, the same record. Features are
<code>model/source/index</code> everywhere. The machine-readable description is <a href="/openapi.json">/openapi.json</a>.</p>
{% for operation in operations %}
<section aria-labelledby="{{ operation.anchor }}">
<h2 id="{{ operation.anchor }}"><code>{{ operation.method }} {{ operation.path }}</code></h2>
<p>{{ operation.description }}</p>
{% if operation.parameters %}
<div class="scroll" tabindex="0"><table class="list"><caption>Parameters</caption>
<thead><tr><th scope="col">Name</th><th scope="col">In</th><th scope="col">Type</th><th scope="col">Meaning</th></tr></thead>
<tbody>{% for p in operation.parameters %}
<tr><th scope="row"><code>{{ p.name }}</code></th><td>{{ p.place }}</td><td>{{ p.type }}</td><td>{{ p.description }}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}
<p>{% if operation.body %}Takes <a href="#{{ operation.body }}">{{ operation.body }}</a>. {% endif %}
{% if operation.answer %}Answers <a href="#{{ operation.answer }}">{{ operation.answer }}</a>;{% endif %}
errors are <a href="#ErrorRecord">ErrorRecord</a>.</p>
</section>
{% endfor %}
<h2>Records</h2>
{% for record in records %}
<section aria-labelledby="{{ record.name }}">
<h3 id="{{ record.name }}">{{ record.name }}</h3>
<p>{{ record.description }}</p>
<div class="scroll" tabindex="0"><table class="list">
<thead><tr><th scope="col">Field</th><th scope="col">Type</th><th scope="col">Meaning</th></tr></thead>
<tbody>{% for field in record.fields %}
<tr><th scope="row"><code>{{ field.name }}</code></th><td>{{ field.type }}</td><td>{{ field.description }}</td></tr>
{% endfor %}</tbody></table></div>
</section>
{% endfor %}
{% endblock %}
"""


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The reference as one page."""
    pages: Pages = request.app.state.pages
    template: Template = pages.environment.from_string(MAIN)
    description = request.app.openapi()
    context = {
        "operations": _operations(description),
        "records": _records(description),
        "json_url": "/openapi.json",
        "path": "/docs",
    }
    return HTMLResponse(template.render(**context))


def _operations(description: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "anchor": operation["operationId"],
            "method": method.upper(),
            "path": path,
            "description": operation.get("description", operation.get("summary", "")),
            "parameters": [
                {
                    "name": parameter["name"],
                    "place": parameter["in"],
                    "type": _type(parameter["schema"]),
                    "description": parameter.get("description", ""),
                }
                for parameter in operation.get("parameters", [])
            ],
            "body": _named(_json_schema(operation.get("requestBody", {}))),
            "answer": _named(_json_schema(operation["responses"].get("200", {}))),
        }
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


def _records(description: dict[str, Any]) -> list[dict[str, Any]]:
    schemas = description.get("components", {}).get("schemas", {})
    return [
        {
            "name": name,
            "description": schema.get("description", ""),
            "fields": [
                {"name": field, "type": _type(entry), "description": entry.get("description", "")}
                for field, entry in schema.get("properties", {}).items()
            ],
        }
        for name, schema in sorted(schemas.items())
        if name not in ("HTTPValidationError", "ValidationError")
    ]


def _json_schema(content: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = content.get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _named(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words: `integer`, `list of Token`, `reads | predicts`."""
    if "$ref" in schema:
        return _named(schema)
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
