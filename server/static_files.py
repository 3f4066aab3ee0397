"""`/static/`: the frontend's files, and Plotly from the installed package, so that pages need no other
host.
"""

from pathlib import Path

import plotly
from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from server.responses import FRONTEND

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def install(app: FastAPI) -> None:
    app.add_api_route("/static/plotly.min.js", _plotly, methods=["GET"], include_in_schema=False)
    app.mount("/static", StaticFiles(directory=FRONTEND / "static"), name="static")


def _plotly() -> FileResponse:
    return FileResponse(
        PLOTLY, media_type="text/javascript", headers={"cache-control": "public, max-age=86400"}
    )
