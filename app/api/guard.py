"""Requests that a browser was made to send: refused before anything is read of them.

Where no keys are asked for, whoever reaches the API may use it; a page from elsewhere, open in the browser of somebody
who does, shall not. Such a page can send what a form can send (multipart, without asking first), which its `Origin`
betrays; and it can give its own name the address of this service (DNS rebinding), which `Host` betrays.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem_response
from app.settings import Settings

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
"""Always allowed: a foreign page cannot have one of these names, and commands and health checks use them."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


def allowed_hosts(settings: Settings) -> tuple[str, ...] | None:
    """The names, in lower case, by which this service may be addressed; None: any."""
    named = settings.allowed_hosts
    if named is None:
        return LOOPBACK_NAMES if is_loopback(settings.host) else None
    hosts = tuple(_without_brackets(host.strip().lower()) for host in named.split(","))
    return None if "*" in hosts else (*LOOPBACK_NAMES, *hosts)


class RefuseForeign:
    """ASGI middleware that answers requests from foreign pages with an error.

    Args:
        hosts: as `allowed_hosts` gives them.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            refusal = self._refusal(request)
            if refusal is not None:
                await problem_response(request, *refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, request: Request) -> tuple[str, str] | None:
        """Code and text of what is wrong; None: nothing is."""
        host = request.headers.get("host", "")
        if self._hosts is not None and _split("//" + host)[0] not in self._hosts:
            return (
                "host_refused",
                f"this service is not called {host!r}; it answers to {', '.join(self._hosts)}, with any port. Use one "
                "of these names, or have whoever runs it add the name to BITBUDGET_ALLOWED_HOSTS",
            )
        origin = request.headers.get("origin")
        if origin is None or request.method in _SAFE_METHODS or _is_origin_of(origin, host):
            return None
        return (
            "origin_refused",
            f"a page of {origin!r} may not change anything at {host!r}: only pages of the same host and port may. Send "
            "the request from a program, without the header Origin; a proxy in between must pass Host on unchanged",
        )


def _is_origin_of(origin: str, host: str) -> bool:
    scheme = origin.partition("://")[0].lower()
    # The scheme of the request itself is unknown behind a proxy that ends TLS: the port left out is that of the origin.
    default = _DEFAULT_PORTS.get(scheme)
    if default is None:  # "null", or an extension of the browser
        return False
    there, here = _split(origin), _split("//" + host)
    return bool(there[0]) and (there[0], there[1] or default) == (here[0], here[1] or default)


def _split(address: str) -> tuple[str, int | None]:
    """Name, in lower case, and port of an address; an empty name if it is invalid."""
    try:
        parts: SplitResult = urlsplit(address)
        plain = parts.username is None and not (parts.path or parts.query or parts.fragment)
        return (parts.hostname or "", parts.port) if plain else ("", None)
    except ValueError:
        return "", None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a service that listens on `host`."""
    try:
        return ipaddress.ip_address(_without_brackets(host)).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _without_brackets(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")
