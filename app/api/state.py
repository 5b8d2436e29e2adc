"""What every route needs, made once by `create_app` and handed to routes by dependency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.lifecycle.messages import Wake
from app.settings import Settings
from app.store.engine import Sessions


@dataclass(frozen=True, slots=True)
class State:
    """`sessions` are about the project of whoever calls."""

    settings: Settings
    sessions: Sessions
    wake: Wake


def _state(request: Request) -> State:
    state: State = request.app.state.bitbudget
    return state


Service = Annotated[State, Depends(_state)]
