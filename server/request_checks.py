"""What every route checks before its handler: parameters that do not exist, and bodies that are not JSON."""

import re

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from lexiscope.records import unknown_name

JSON = re.compile(r"application/([^/;]+\+)?json\s*(;.*)?", re.IGNORECASE)


async def check_request(request: Request) -> None:
    """Raises HTTPException: 422 for a query parameter that the route does not have, with the nearest, and 415
    for a body of another content type than JSON.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    known = query_parameters(route.dependant)
    for name in request.query_params:
        if name not in known:
            raise HTTPException(422, unknown_name("parameter", name, known))
    given = request.headers.get("content-type", "")
    if route.body_field is not None and not JSON.fullmatch(given.strip()):
        was = f"not {given[:80]!r}" if given else "but the request has none"
        raise HTTPException(
            415,
            f"the body must have the content type application/json, {was}",
            {"accept-post": "application/json"},
        )


def query_parameters(dependant: Dependant) -> list[str]:
    """The query parameters of a handler and of what it depends on; a record is a parameter for each field."""
    names: list[str] = []
    for field in dependant.query_params:
        record = field.field_info.annotation
        if isinstance(record, type) and issubclass(record, BaseModel):
            names += [own.alias or name for name, own in record.model_fields.items()]
        else:
            names.append(field.alias)
    for other in dependant.dependencies:
        names += query_parameters(other)
    return names
