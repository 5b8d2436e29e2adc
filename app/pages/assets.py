"""Files of the pages: style, scripts, icon. Their addresses hold their digests."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import FileResponse

from app.errors import AppError
from app.pages.rendering import STATIC, assets

router = APIRouter(include_in_schema=False)

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
_FOR_EVER = "public, max-age=31536000, immutable"


@router.get("/static/{digest}/{name:path}", response_class=FileResponse)
def get_asset(digest: str, name: str) -> FileResponse:
    """A file of `static`, as `asset` addresses it."""
    if assets().get(name) != f"/static/{digest}/{name}":
        raise AppError(
            "not_found", f"no file of the pages is called {name[:100]!r} in this version; load the page anew"
        )
    path = STATIC / name
    return FileResponse(path, media_type=_TYPES.get(path.suffix), headers={"Cache-Control": _FOR_EVER})
