"""SQL on how long stages took, counted by upper bounds: a histogram that all workers add to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.statements import insert
from app.store.tables import StageSecondsRow

BOUNDS_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0)
LONGER_SECONDS = 1e9
"""The bound of all that took longer than the last of `BOUNDS_SECONDS`; infinity is no number in every database."""

MOST_STAGES = 64
_STAGE = re.compile(r"[a-z][a-z0-9_]{0,63}")


def add_stage_seconds(session: Session, stage: str, seconds: float) -> bool:
    """Count a run of `stage` that took `seconds`, at least 0.

    False, and nothing counted, for what no stage is called, and for more stages than there can be: the name comes from
    the process that runs models.
    """
    if not _STAGE.fullmatch(stage) or not _is_known_or_fits(session, stage):
        return False
    upper = next((bound for bound in BOUNDS_SECONDS if seconds <= bound), LONGER_SECONDS)
    session.execute(
        insert(session, StageSecondsRow)
        .values(stage=stage, upper_seconds=upper, runs=1, seconds=seconds)
        .on_conflict_do_update(
            index_elements=["stage", "upper_seconds"],
            set_={"runs": StageSecondsRow.runs + 1, "seconds": StageSecondsRow.seconds + seconds},
        )
    )
    return True


def stage_seconds(session: Session) -> Mapping[str, Sequence[StageSecondsRow]]:
    """What was counted, by stage, the smallest bound first."""
    rows = session.scalars(select(StageSecondsRow).order_by(StageSecondsRow.stage, StageSecondsRow.upper_seconds)).all()
    return {stage: list(of_stage) for stage, of_stage in groupby(rows, lambda row: row.stage)}


def _is_known_or_fits(session: Session, stage: str) -> bool:
    known = set(session.scalars(select(StageSecondsRow.stage).distinct()))
    return stage in known or len(known) < MOST_STAGES
