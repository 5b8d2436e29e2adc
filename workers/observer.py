"""What a running job reports, written to the database, and where it learns that it has to stop."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from app.lifecycle import claims
from app.lifecycle.states import Claim, Estimate, Progress
from app.store.engine import Sessions
from pipeline import events
from workers.heartbeat import Heartbeat, Interrupted, Interruption
from workers.patience import patiently

logger = logging.getLogger(__name__)


class Observer:
    """Takes the events of one attempt at a job (`pipeline.events.Report`); every one of them is a check.

    `stage` is the stage that runs, or ran last.
    """

    def __init__(self, sessions: Sessions, claim: Claim, heartbeat: Heartbeat) -> None:
        self.stage = "start"
        self._sessions = sessions
        self._claim = claim
        self._heartbeat = heartbeat

    def __call__(self, event: events.Event) -> None:
        """Raise `Interrupted` if the job has to stop; write down what is new."""
        self._heartbeat.check()
        match event:
            case events.Progress():
                self._heartbeat.report(Progress(event.stage, event.fraction, event.eta_seconds))
            case events.StageBegan():
                self.stage = event.stage
                self._heartbeat.enter_stage(event.stage, event.time_limit)
            case events.StageEnded():
                self._heartbeat.leave_stage()
                logger.info("job %s: stage %s %s", self._claim.job_id, event.stage, "done" if event.ran else "found")
            case events.Estimate():
                expected = Estimate(event.stage, event.seconds, event.memory_bytes)
                self._record(lambda: claims.record_estimate(self._sessions, self._claim, expected))
            case events.PlanEvaluated():
                self._event("evaluated", event.measured)
            case events.MethodTimed():
                self._event("method", asdict(event))

    def _event(self, kind: str, data: Mapping[str, Any]) -> None:
        plain = json.loads(json.dumps(data, allow_nan=False))
        self._record(lambda: claims.record_event(self._sessions, self._claim, kind, plain))

    def _record(self, write: Callable[[], bool]) -> None:
        """Write to the job's row; one that is not ours any more is lost."""
        if not patiently(write, self._heartbeat.check):
            self._heartbeat.interrupt(Interruption.LOST)
            raise Interrupted(Interruption.LOST)
