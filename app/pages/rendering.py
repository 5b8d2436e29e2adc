"""From what the services say to HTML: the templates, their filters, and the headers of every page."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.access.roles import Role
from app.api.state import KEY_COOKIE, State
from app.pages.amounts import drop_text

HERE = Path(__file__).parent
STATIC = HERE / "static"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a browser may load for a page: only what this service itself gives, and no text of a page as a script."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "HX-Request",
}

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def render(
    request: Request, template: str, service: State | None = None, *, status: int = 200, **context: Any
) -> HTMLResponse:
    """A page, or a part of one, as an answer.

    Args:
        template: its name in `templates`.
        service: of whoever asked; None for pages that anybody may see.
        context: what the template shows.
    """
    known = {
        "request": request,
        "path": request.url.path,
        "caller": None if service is None else service.caller,
        "may_change": service is not None and service.caller.role is not Role.VIEWER,
        "is_admin": service is not None and service.caller.role is Role.ADMIN,
        "with_keys": service is not None and service.settings.auth == "keys",
        "signed_in": KEY_COOKIE in request.cookies,
    }
    text = _environment().get_template(template).render({**known, **context})
    return HTMLResponse(text, status_code=status, headers=HEADERS)


def part(template: str, **context: Any) -> str:
    """The text of a template that shows nothing of who asks."""
    return _environment().get_template(template).render(context)


def is_fragment(request: Request) -> bool:
    """Whether htmx asks for a part of a page, and not a browser for the whole."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-boosted") != "true"


def asset(name: str) -> str:
    """The address of a file in `static`; it changes with the contents, so that a browser may keep it for ever."""
    return assets()[name]


@cache
def assets() -> Mapping[str, str]:
    """The addresses of all files in `static`, by their names."""
    names = (path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())
    return {name: f"/static/{hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}/{name}" for name in names}


def size(count: float | None) -> str:
    """Bytes for people: at most four digits and a decimal unit."""
    if count is None:
        return "–"
    power = min(int(math.log10(max(abs(count), 1)) / 3), len(_UNITS) - 1)
    value = count / 1000**power
    return f"{value:.3g} {_UNITS[power]}" if power and value < 100 else f"{value:,.0f} {_UNITS[power]}"


def duration(seconds: float | None) -> str:
    """Seconds for people: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 1 or whole == 0 else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def age(moment: datetime | None) -> str:
    """How long ago something was: `just now`, `5 min ago`, `3 d ago`."""
    if moment is None:
        return "never"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if seconds < 5:
        return "just now"
    for limit, unit in ((60, "s"), (3600, "min"), (86400, "h")):
        if seconds < limit:
            return f"{int(seconds / (limit / {'s': 60, 'min': 60, 'h': 24}[unit]))} {unit} ago"
    return f"{int(seconds / 86400)} d ago"


def points(fraction: float | None, digits: int = 2) -> str:
    """A share in points (hundredths), with its sign: 0.0081 is `+0.81`."""
    return "–" if fraction is None else f"{100 * fraction:+.{digits}f}"


def _times_smaller(sizes: Mapping[str, Any]) -> str:
    before, after = sizes.get("float_size_bytes"), sizes.get("size_bytes")
    return f"{before / after:.1f} times smaller" if before and after else ""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"asset": asset, "version": version("bitbudget")}
    environment.filters |= {
        "size": size,
        "duration": duration,
        "age": age,
        "points": points,
        "times_smaller": _times_smaller,
        "drop_text": drop_text,
    }
    return environment
