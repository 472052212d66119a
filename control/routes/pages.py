"""The dashboard's files: the built bundle when there is one, else a plain status page that needs no build."""

from __future__ import annotations

from pathlib import Path

from litestar import Response, get
from litestar.exceptions import NotFoundException

DASHBOARD = Path(__file__).resolve().parent.parent / "dashboard"
BUILT = DASHBOARD / "dist"
PLAIN = DASHBOARD / "plain"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".map": "application/json",
}


def _file(name: str) -> Response[bytes]:
    if "\0" in name:
        raise NotFoundException("no such file")
    for root in (BUILT, PLAIN):
        path = (root / name).resolve()
        if path.is_relative_to(root) and path.suffix in TYPES and path.is_file():
            hashed = name.startswith("assets/")
            caching = "public, max-age=31536000, immutable" if hashed else "no-cache"
            return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers={"Cache-Control": caching})
    raise NotFoundException("no such file")


@get("/", opt={"public": True}, include_in_schema=False, sync_to_thread=True)
def index() -> Response[bytes]:
    """Serve the page; it holds no data, and asks for a login before it shows any."""
    return _file("index.html")


@get("/static/{name:path}", opt={"public": True}, include_in_schema=False, sync_to_thread=True)
def static(name: str) -> Response[bytes]:
    """Serve one file of the page."""
    return _file(name.lstrip("/"))


HANDLERS = [index, static]
