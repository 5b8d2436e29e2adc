"""What a job reports, on its way to the worker: events as JSON, and progress no more often than anybody looks."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import timedelta

from pipeline.events import Event, Progress, StageBegan
from workers.wire import Wire

PROGRESS_SECONDS = 0.2


class Reporter:
    """A `pipeline.events.Report`; it never ends the job: the worker does that by ending this process.

    `stage` is the stage that runs, or ran last.
    """

    def __init__(self, wire: Wire) -> None:
        self.stage = "start"
        self._wire = wire
        self._progress_at = float("-inf")
        self._shown: Progress | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            now = time.monotonic()
            same_stage = self._shown is not None and self._shown.stage == event.stage
            if event == self._shown or (same_stage and now - self._progress_at < PROGRESS_SECONDS):
                return
            self._progress_at, self._shown = now, event
        elif isinstance(event, StageBegan):
            self.stage = event.stage
        fields = asdict(event)
        fields |= {name: value.total_seconds() for name, value in fields.items() if isinstance(value, timedelta)}
        self._wire.send({"do": "event", "kind": type(event).__name__, "fields": fields})
