"""The web: pages, their JSON twins, the OpenAPI reference, static files. Enter through `create_app`."""

from server.app import create_app

__all__ = ["create_app"]
