"""Errors for people: whoever asked for a page gets a page that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from app.errors import problem
from app.pages.rendering import is_fragment, render

_NO_PAGES = ("/v1/", "/healthz", "/readyz", "/metrics", "/static/")


def wants_page(request: Request) -> bool:
    """Whether a person looks at the answer: a browser that asks for HTML at an address that is none of the API's."""
    accepts = "text/html" in request.headers.get("accept", "") or is_fragment(request)
    return accepts and not request.url.path.startswith(_NO_PAGES)


def problem_page(request: Request, code: str, detail: str, extra: Mapping[str, Any] | None = None) -> Response:
    """The page, or for htmx the part of a page, of an error of the catalogue; for a missing key the way to sign in."""
    if code in ("key_missing", "key_invalid"):
        to = f"/sign-in?to={quote(_page_of(request), safe='')}"
        if is_fragment(request):
            return Response(status_code=204, headers={"HX-Redirect": to})
        return RedirectResponse(to, 303)
    shown = problem(code, detail, extra=extra)
    template = "problem_part.html" if is_fragment(request) else "problem.html"
    return render(request, template, status=shown["status"], problem=shown)


def _page_of(request: Request) -> str:
    """The page, with its query, that the browser shows or asked for; `/` where that is not known."""
    address = request.url
    if is_fragment(request):
        try:
            shown = urlsplit(request.headers.get("hx-current-url", ""))
        except ValueError:  # htmx sends none of these
            return "/"
        return _relative(shown.path, shown.query) if shown.netloc == address.netloc else "/"
    return _relative(address.path, address.query) if request.method == "GET" else "/"


def _relative(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path
