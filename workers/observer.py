"""Writes down what a child reports of its job: it is checked first, as everything that comes from there."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import timedelta
from typing import Any

from app.lifecycle import claims
from app.lifecycle.states import Claim, Estimate, Progress
from app.store.engine import Sessions
from pipeline import events
from workers.heartbeat import Heartbeat, Interrupted, Interruption
from workers.patience import patiently
from workers.wire import WireBroken

logger = logging.getLogger(__name__)

EVENT_BYTES = 1024**2
MOST_EVENTS = 20_000

_KINDS = {
    kind.__name__: kind
    for kind in (
        events.StageBegan,
        events.StageEnded,
        events.Progress,
        events.Estimate,
        events.PlanEvaluated,
        events.MethodTimed,
        events.Spread,
    )
}
LONGEST_STAGE = timedelta(days=2)
LONGEST_JOB = timedelta(days=14)
"""Of the limits of all stages together: how long a process may keep a worker that says of itself what it may take."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_ -]{0,63}")
_NUMBERS = frozenset({"time_limit", "fraction", "eta_seconds", "seconds", "memory_bytes", "float_passes", "open"})


def parse_event(header: Mapping[str, Any]) -> events.Event:
    """The event in the header of a message.

    Raises:
        WireBroken: it is none of `pipeline.events`, or its values are of other types or too large.
    """
    kind = _KINDS.get(str(header.get("kind")))
    given = header.get("fields")
    if kind is None or not isinstance(given, dict) or set(given) != {field.name for field in fields(kind)}:
        raise WireBroken(f"no event is {str(header.get('kind'))[:80]!r} with such fields")
    given = storable_object(given, EVENT_BYTES)
    for name, value in given.items():
        if name in ("stage", "method") and not (isinstance(value, str) and _NAME.fullmatch(value)):
            raise WireBroken("the name of a stage or of a method is no name")
        if name in _NUMBERS and value is not None and not _is_number(value):
            raise WireBroken(f"{name} of an event is no number")
    if "time_limit" in given:
        given["time_limit"] = timedelta(seconds=given["time_limit"])
        if not timedelta(0) < given["time_limit"] <= LONGEST_STAGE:
            raise WireBroken("the time limit of a stage is no time that one may take")
    event: events.Event = kind(**given)
    return event


def storable_object(value: Mapping[str, Any], most_bytes: int | None = None) -> dict[str, Any]:
    """A JSON object that every database can keep: no NaN, no NUL, no lone surrogates.

    Raises:
        WireBroken: it is none, or it has more than `most_bytes`.
    """
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
        size_bytes = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise WireBroken("what should be stored is no JSON object") from error
    if "\\u0000" in text or (most_bytes is not None and size_bytes > most_bytes):
        raise WireBroken(f"what should be stored has {size_bytes} bytes, or a NUL")
    return dict(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


class Observer:
    """Takes the events of one attempt at a job.

    `stage` is the stage that runs, or ran last.

    Args:
        call_for_help: called when there are chunks that other workers may compute.
    """

    def __init__(
        self, sessions: Sessions, claim: Claim, heartbeat: Heartbeat, call_for_help: Callable[[], None]
    ) -> None:
        self.stage = "start"
        self._sessions = sessions
        self._claim = claim
        self._heartbeat = heartbeat
        self._call_for_help = call_for_help
        self._count = 0
        self._granted = timedelta(0)

    def __call__(self, event: events.Event) -> None:
        """Write down what is new.

        Raises:
            Interrupted: the job has to stop.
            WireBroken: the values make no sense.
        """
        if not isinstance(event, events.Progress):
            self._count += 1
            if self._count > MOST_EVENTS:
                raise WireBroken(f"a job may report {MOST_EVENTS} events")
        try:
            self._take(event)
        except (TypeError, ValueError) as error:
            raise WireBroken(f"an event with values that make no sense: {error}") from error

    def _take(self, event: events.Event) -> None:
        match event:
            case events.Progress():
                self._heartbeat.report(Progress(event.stage, event.fraction, event.eta_seconds))
            case events.StageBegan():
                self.stage = event.stage
                self._granted += event.time_limit
                if self._granted > LONGEST_JOB:
                    raise WireBroken(f"the stages of a job may take {LONGEST_JOB} together")
                self._heartbeat.enter_stage(event.stage, event.time_limit)
            case events.StageEnded():
                self._heartbeat.leave_stage(event.stage)
                logger.info("job %s: stage %s %s", self._claim.job_id, event.stage, "done" if event.ran else "found")
            case events.Estimate():
                expected = Estimate(event.stage, event.seconds, event.memory_bytes, event.float_passes)
                self._record(lambda: claims.record_estimate(self._sessions, self._claim, expected))
            case events.PlanEvaluated():
                self._event("evaluated", event.measured)
            case events.MethodTimed():
                self._event("method", {"method": event.method, "seconds": event.seconds})
            case events.Spread():
                open_chunks = int(event.open)
                self._record(lambda: claims.offer_chunks(self._sessions, self._claim, open_chunks))
                if open_chunks:
                    self._call_for_help()

    def _event(self, kind: str, data: Mapping[str, Any]) -> None:
        plain = json.loads(json.dumps(data, allow_nan=False))
        self._record(lambda: claims.record_event(self._sessions, self._claim, kind, plain))

    def _record(self, write: Callable[[], bool]) -> None:
        """Write to the job's row; one that is not ours any more is lost."""
        if not patiently(write, self._heartbeat.check):
            self._heartbeat.interrupt(Interruption.LOST)
            raise Interrupted(Interruption.LOST)
