"""`/static/`: the frontend's files, Plotly among them, so that pages need no other host."""

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from server.responses import FRONTEND


def install(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=FRONTEND / "static"), name="static")
