"""HEAD for every call that answers GET and has no HEAD of its own: the same answer without its body."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.routing import Match, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ASKED = "bitbudget.head"
_ENDLESS = ("/events", "/live")
"""The end of addresses whose answers have no end, and so no length that HEAD could tell."""


def asks_for_head(request: HTTPConnection) -> bool:
    """Whether nobody will see the body: a route need not read what it would be made of."""
    return _ASKED in request.scope


def has_head(path: str) -> bool:
    """Whether a call at this address that answers GET answers HEAD too."""
    return not path.endswith(_ENDLESS)


class AnswerHead:
    """ASGI middleware that passes HEAD on as GET and drops the body.

    Args:
        router: the application's; a route that takes HEAD itself gets it.
    """

    def __init__(self, app: ASGIApp, router: Router) -> None:
        self._app = app
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or not self._is_missing(scope):
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})

        # A copy: the server looks at the method to know that no body follows.
        inner = {**scope, "method": "GET", _ASKED: True}
        try:
            await self._app(inner, receive, without_body)
        finally:
            if "route" in inner:
                scope["route"] = inner["route"]

    def _is_missing(self, scope: Scope) -> bool:
        return has_head(scope["path"]) and all(
            route.matches(scope)[0] is not Match.FULL for route in self._router.routes
        )
