"""The fake pipeline without limits of time: no stage runs out of it while a test holds its job at a step."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import fake_pipeline

_STAGES = tuple(replace(stage, time_limit=timedelta(days=1)) for stage in fake_pipeline.TABLE.stages)
TABLE = replace(fake_pipeline.TABLE, stages=_STAGES)
