"""The OpenAPI description, with the records that no route returns alone: errors, and events of a steer."""

from typing import Any, get_args

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lexiscope.records import ErrorRecord
from lexiscope.records.live import SteerEvent

STEER_EVENTS: tuple[type[BaseModel], ...] = get_args(get_args(SteerEvent)[0])
REFERENCE = "#/components/schemas/{model}"


def server_sent(record: dict[str, Any], description: str) -> dict[str, Any]:
    """The schema of one server-sent event, whose data is a record as JSON."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": record}
    return {"type": "object", "description": description, "properties": {"data": data}, "required": ["data"]}


EVENT_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": server_sent(
            {"oneOf": [{"$ref": REFERENCE.format(model=event.__name__)} for event in STEER_EVENTS]},
            "Server-sent events. The `data` of each is one of these records as JSON, which its `event` tells "
            "apart.",
        )
    }
}
"""the content of a response that streams a steer"""


def install(app: FastAPI) -> None:
    """Add the records to what FastAPI describes."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = described()
            records: list[type[BaseModel]] = [ErrorRecord, *STEER_EVENTS]
            _, extra = models_json_schema(
                [(record, "serialization") for record in records], ref_template=REFERENCE
            )
            schemas = schema["components"]["schemas"]
            app.openapi_schema = schema
            for name, record in extra["$defs"].items():
                schemas.setdefault(name, record)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
