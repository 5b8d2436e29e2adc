"""Sign in with a key: the browser keeps it in a cookie that scripts cannot read and other sites do not send."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from app.access.keys import authenticate
from app.api.state import KEY_COOKIE, Open
from app.errors import AppError
from app.pages.forms import local
from app.pages.rendering import render

router = APIRouter(include_in_schema=False)

_DAYS = 30


@router.get("/sign-in", response_class=Response)
def ask(request: Request, to: str = "/") -> Response:
    """The form."""
    return render(request, "sign_in.html", to=local(to), error=None)


@router.post("/sign-in", response_class=Response)
def sign_in(request: Request, service: Open, key: Annotated[str, Form()], to: Annotated[str, Form()] = "/") -> Response:
    """Check the key, keep it, and go on to where the browser wanted to go."""
    key = key.strip()
    try:
        authenticate(service.sessions, service.settings, key)
    except AppError as error:
        return render(request, "sign_in.html", status=401, to=local(to), error=error.detail)
    answer = RedirectResponse(local(to), 303)
    secure = _scheme(request) == "https"
    answer.set_cookie(KEY_COOKIE, key, max_age=_DAYS * 86400, path="/", secure=secure, httponly=True, samesite="strict")
    return answer


def _scheme(request: Request) -> str:
    """How the browser came: of several proxies the first stands before it."""
    return request.headers.get("x-forwarded-proto", request.url.scheme).split(",")[0].strip().lower()


@router.post("/sign-out", response_class=Response)
def sign_out() -> Response:
    """Forget the key."""
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(KEY_COOKIE, path="/", httponly=True, samesite="strict")
    return answer
