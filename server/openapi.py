"""The OpenAPI description, with the records that no route returns alone: errors, and events of a steer."""

from typing import Any, get_args

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lexiscope.records import ErrorRecord
from lexiscope.records.live import SteerEvent

STEER_EVENTS: tuple[type[BaseModel], ...] = get_args(get_args(SteerEvent)[0])
REFERENCE = "#/components/schemas/{model}"
EVENT_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "Server-sent events. The `data` of each is one of these records as JSON, which "
            "its `event` tells apart.",
            "contentMediaType": "application/json",
            "contentSchema": {
                "oneOf": [{"$ref": REFERENCE.format(model=event.__name__)} for event in STEER_EVENTS]
            },
        }
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
