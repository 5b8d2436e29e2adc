"""What one attempt at a job does, as spans: the attempt, its stages, and their chunks."""

from __future__ import annotations

from app.lifecycle.states import Claim
from app.tracing import Span, begin
from pipeline import events

MOST_OPEN_CHUNKS = 1_000


class AttemptSpans:
    """Spans of the attempt `claim`, a part of the trace of the request that made the job.

    Args:
        name: of the whole, `attempt`, or `help` of a worker that computes chunks of another one's job.
    """

    def __init__(self, claim: Claim, name: str = "attempt") -> None:
        subject = {"job_id": claim.job_id, "project_id": claim.project_id, "attempt": claim.attempt}
        self._attempt = begin(name, claim.trace, **subject)
        self._stage: Span | None = None
        self._chunks: dict[str, Span] = {}

    @property
    def traceparent(self) -> str | None:
        """The span of the attempt as a parent; None: nothing is traced."""
        return self._attempt.traceparent

    def event(self, event: events.Event) -> None:
        """A stage begins or ends; one whose result was there has no span."""
        match event:
            case events.StageBegan():
                self._end_stage(None)
                self._stage = begin(f"stage {event.stage}", self._attempt.traceparent, stage=event.stage)
            case events.StageEnded():
                self._end_stage(None)

    def taken(self, key: str) -> None:
        """The chunk `key` of the running stage is computed from now on."""
        parent = self._stage or self._attempt
        if parent.traceparent is not None and len(self._chunks) < MOST_OPEN_CHUNKS:
            self._chunks[key] = begin("chunk", parent.traceparent, chunk=key[-16:])

    def stored(self, key: str) -> None:
        """The chunk `key` is there."""
        chunk = self._chunks.pop(key, None)
        if chunk is not None:
            chunk.end()

    def end(self, error: str | None) -> None:
        """The attempt is over; `error` is the code with which it failed."""
        self._end_stage(error)
        self._attempt.end(error)

    def _end_stage(self, error: str | None) -> None:
        for chunk in self._chunks.values():
            chunk.end(error)
        self._chunks.clear()
        if self._stage is not None:
            self._stage.end(error)
            self._stage = None
