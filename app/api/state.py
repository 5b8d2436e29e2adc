"""What every route needs, made once by `create_app`; and who calls, found out for every request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from app.access.keys import Caller, authenticate
from app.access.rates import Rates
from app.access.roles import Role
from app.lifecycle.messages import Wake
from app.renderer import Renderer
from app.settings import Settings
from app.store.engine import Sessions

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="key",
    description="A key as `bitbudget keys create` prints it. Where the service asks for no keys, leave it out.",
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
KEY_COOKIE = "bitbudget_key"
"""Where a browser keeps the key that somebody signed in with."""
_COOKIE = APIKeyCookie(
    name=KEY_COOKIE, auto_error=False, scheme_name="cookie", description="The key of whoever signed in on the page."
)
Cookie = Annotated[str | None, Security(_COOKIE)]


@dataclass(frozen=True, slots=True)
class Shared:
    """What all requests share; its `sessions` are about no project."""

    settings: Settings
    sessions: Sessions
    wake: Wake
    rates: Rates
    renderer: Renderer


@dataclass(frozen=True, slots=True)
class State:
    """What one request may use: `sessions` are about the project of whoever calls, and no other."""

    settings: Settings
    sessions: Sessions
    wake: Wake
    rates: Rates
    renderer: Renderer
    caller: Caller


def token_of(credentials: HTTPAuthorizationCredentials | None) -> str | None:
    """What stands after `Bearer` in the request's header."""
    return None if credentials is None else credentials.credentials


def _shared(request: Request) -> Shared:
    shared: Shared = request.app.state.bitbudget
    return shared


def _admitted(
    request: Request, credentials: HTTPAuthorizationCredentials | None, cookie: str | None, needed: Role
) -> State:
    shared = _shared(request)
    caller = authenticate(shared.sessions, shared.settings, token_of(credentials) or cookie)
    caller.role.require(needed)
    shared.rates.take(caller.project_id, caller.quotas.requests_per_minute)
    sessions = shared.sessions.of(caller.project_id, caller.key_id, caller.quotas)
    return State(shared.settings, sessions, shared.wake, shared.rates, shared.renderer, caller)


def _by_method(request: Request, credentials: Credentials, cookie: Cookie) -> State:
    return _admitted(request, credentials, cookie, Role.VIEWER if request.method in _READS else Role.MEMBER)


def _for_admins(request: Request, credentials: Credentials, cookie: Cookie) -> State:
    return _admitted(request, credentials, cookie, Role.ADMIN)


Service = Annotated[State, Depends(_by_method)]
"""For calls about the caller's project: viewers may read, members may change."""
AdminService = Annotated[State, Depends(_for_admins)]
"""For calls that only an admin of the project may make."""
Open = Annotated[Shared, Depends(_shared)]
"""For calls that anybody may make; whatever belongs to a project is out of reach."""
