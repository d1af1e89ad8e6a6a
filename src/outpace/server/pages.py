"""The page at `/`: a conversation with a model, and the trace of an answer. Files of the package as they are.

Nothing is fetched from elsewhere: the policy below lets a browser ask this server alone.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi import Request as Http
from fastapi.responses import Response

ROUTES = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).with_name("page")
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/answer.js": ("answer.js", "text/javascript"),
    "/api.js": ("api.js", "text/javascript"),
    "/elements.js": ("elements.js", "text/javascript"),
    "/trace.js": ("trace.js", "text/javascript"),
    "/view.js": ("view.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path: name of the file, and its kind."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def page(http: Http) -> Response:
    """A file of the page."""
    name, kind = FILES[http.scope["path"]]
    return Response((FOLDER / name).read_bytes(), media_type=kind, headers=HEADERS)


for _path in FILES:
    ROUTES.add_api_route(_path, page, methods=["GET"])
