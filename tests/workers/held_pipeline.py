"""The fake pipeline, whose job stays at a step until a test lets it go on: what happens there races no clock.

The "model" names the steps in `hold`. A process that begins one of them waits, and listens, until there is a file
`<trace>.go <step>`, which the fixture `let_go` makes.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import fake_pipeline

_begin = fake_pipeline._step


def _begin_and_wait(context: Any, stage: str, step: str = "") -> None:
    _begin(context, stage, step)
    model, name = fake_pipeline._model(context), f"{stage}{step}"
    gate = Path(f"{model['trace']}.go {name}")
    while name in model.get("hold", ()) and not gate.exists():
        context.check()
        time.sleep(0.01)


fake_pipeline._step = _begin_and_wait
# No stage runs out of time while it is held.
TABLE = replace(
    fake_pipeline.TABLE,
    stages=tuple(replace(stage, time_limit=timedelta(days=1)) for stage in fake_pipeline.TABLE.stages),
)
