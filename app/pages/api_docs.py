"""GET /docs: the description of the API as a page to try it. All of it comes from here."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.pages.rendering import render

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def get_docs(request: Request) -> HTMLResponse:
    """Swagger UI on the description of this service."""
    return render(request, "api_docs.html")
