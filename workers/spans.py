"""What a worker does about one job, as spans: its attempt or its help, the stages, and their chunks."""

from __future__ import annotations

import time
from typing import Any

from app.tracing import Span, begin
from pipeline import events

MOST_OPEN_CHUNKS = 1_000


class JobSpans:
    """Spans of what this worker does about a job, a part of the trace of the request that made it.

    Args:
        name: of the whole: `attempt`, or `help` with another worker's job.
        trace: the `traceparent` of that request; None: a trace of its own.
        attributes: `job_id`, `project_id`, `attempt`.
    """

    def __init__(self, name: str, trace: str | None, **attributes: Any) -> None:
        self._whole = begin(name, trace, **attributes)
        self._stage: Span | None = None
        self._began_ns: dict[str, int] = {}

    @property
    def traceparent(self) -> str | None:
        """The span of the whole as a parent; None: nothing is traced."""
        return self._whole.traceparent

    def event(self, event: events.Event) -> None:
        """A stage begins or ends; one whose result was there has no span."""
        match event:
            case events.StageBegan():
                self._end_stage(None)
                self._stage = begin(f"stage {event.stage}", self._whole.traceparent, stage=event.stage)
            case events.StageEnded():
                self._end_stage(None)

    def taken(self, key: str) -> None:
        """The chunk `key` is not there, or is taken to be computed: if it is stored from here, it began now."""
        if self.traceparent is not None and (key in self._began_ns or len(self._began_ns) < MOST_OPEN_CHUNKS):
            self._began_ns[key] = time.time_ns()

    def stored(self, key: str) -> None:
        """The chunk `key` was computed here."""
        began_ns = self._began_ns.pop(key, None)
        if began_ns is not None:
            parent = self._whole if self._stage is None else self._stage
            begin("chunk", parent.traceparent, began_ns, chunk=key[-16:]).end()

    def end(self, error: str | None) -> None:
        """What the worker does is over; `error` is the code with which it failed."""
        self._end_stage(error)
        self._whole.end(error)

    def _end_stage(self, error: str | None) -> None:
        self._began_ns.clear()
        if self._stage is not None:
            self._stage.end(error)
            self._stage = None
