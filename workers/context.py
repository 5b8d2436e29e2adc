"""What a stage sees of its job: inputs from the store, earlier results, chunks, progress and the checks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from app.errors import AppError
from app.lifecycle import claims
from app.lifecycle.states import Claim, Estimate, Progress
from app.schemas.parsing import parse_request, without_retired
from app.store.blobs import open_blob_to_file
from app.store.engine import Sessions
from app.store.uploads import upload_blob
from pipeline.stage import JSON, Stage, needed_stages
from workers import results
from workers.heartbeat import Heartbeat, Interrupted, Interruption
from workers.patience import patiently

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resources:
    """What one job may use on this machine."""

    folder: Path
    """A folder of the job's own, empty at first, removed after it."""
    threads: int
    memory_limit_bytes: int | None


class JobContext:
    """A `pipeline.stage.StageContext` on the store.

    Args:
        claim: with every member of the request (`with_defaults`).
        stages: those that the request needs; their keys are known before anything runs, because a key depends on keys
            only.
        started_at: when the job was first started, in whatever attempt; the deadline counts from there.
    """

    def __init__(
        self,
        sessions: Sessions,
        claim: Claim,
        stages: Sequence[Stage],
        heartbeat: Heartbeat,
        resources: Resources,
        started_at: datetime,
    ) -> None:
        self.request: Mapping[str, JSON] = claim.request
        self.threads = resources.threads
        self.memory_limit_bytes = resources.memory_limit_bytes
        self._sessions = sessions
        self._claim = claim
        self._heartbeat = heartbeat
        self._folder = resources.folder
        self._started_at = started_at
        self._stage: Stage | None = None
        self._clock = ProgressClock(stages)
        self.keys = stage_keys(stages, claim)

    @cached_property
    def model_path(self) -> Path:
        """The uploaded model, fetched when a stage asks for it first."""
        return self._fetch("model", self._claim.model_id)

    @cached_property
    def dataset_path(self) -> Path | None:
        """The uploaded dataset, fetched when a stage asks for it first; None if the job has none."""
        return None if self._claim.dataset_id is None else self._fetch("dataset", self._claim.dataset_id)

    def read(self, stage: str) -> bytes:
        """The blob that the stage of this name wrote. Outside of a stage, when the job is delivered, all may be read.

        Raises:
            LookupError: that stage has not run, or the request does not need it; the running stage does not name it in
                `reads`.
        """
        self.check()
        if self._stage is not None and stage not in self._stage.reads:
            raise LookupError(
                f"the stage {self._stage.name} reads {stage}, which its `reads` do not name: its key would not depend "
                "on it"
            )
        if stage not in self.keys:
            raise LookupError(f"the request of this job does not need the stage {stage}, so that it has no result")
        data = patiently(lambda: results.load(self._sessions, self.keys[stage]), self.check)
        if data is None:
            raise LookupError(f"the stage {stage} has no result yet; it must stand before its reader in the table")
        return data

    def chunk(self, name: str, compute: Callable[[], bytes]) -> bytes:
        """`compute()`, or what an earlier attempt stored for this chunk of this stage.

        Raises:
            RuntimeError: called outside of a stage.
        """
        if self._stage is None:
            raise RuntimeError("chunk() belongs to a stage; there is none running")
        return self._stored(results.chunk_key(self.keys[self._stage.name], name), compute)

    def cached(self, key: str, compute: Callable[[], bytes]) -> bytes:
        """`compute()`, or what any job stored under `key`, which names all that the result depends on.

        Unlike a chunk it outlives the stage, and is the same for every stage and job.
        """
        return self._stored(results.cache_key(key), compute)

    def _stored(self, key: str, compute: Callable[[], bytes]) -> bytes:
        """The first result stored under `key`, this one if there was none."""
        self.check()
        stored = patiently(lambda: results.load(self._sessions, key), self.check)
        if stored is not None:
            return stored
        data = compute()
        self.check()
        return patiently(lambda: results.store(self._sessions, key, data), self.check)

    def progress(self, fraction: float) -> None:
        """Report progress within the stage, 0 to 1; also a check."""
        self.check()
        self._heartbeat.report(self._clock.progress(min(max(fraction, 0.0), 1.0)))

    def check(self) -> None:
        """Raise if the job has to stop; see `Heartbeat.check`."""
        self._heartbeat.check()

    def event(self, kind: str, data: Mapping[str, JSON]) -> None:
        """Append to the job's event stream."""
        self.check()
        plain = json.loads(json.dumps(data, allow_nan=False))
        if not patiently(lambda: claims.record_event(self._sessions, self._claim, kind, plain), self.check):
            self._heartbeat.interrupt(Interruption.LOST)
            raise Interrupted(Interruption.LOST)

    def estimate(self, seconds: float, memory_bytes: int) -> None:
        """Show in the job what the running stage is expected to take.

        Raises:
            RuntimeError: called outside of a stage.
        """
        if self._stage is None:
            raise RuntimeError("estimate() belongs to a stage; there is none running")
        self.check()
        expected = Estimate(self._stage.name, seconds, memory_bytes)
        if not patiently(lambda: claims.record_estimate(self._sessions, self._claim, expected), self.check):
            self._heartbeat.interrupt(Interruption.LOST)
            raise Interrupted(Interruption.LOST)

    def deadline_passed(self) -> bool:
        """Whether the request's `search.deadline_seconds` is used up, counted from the first start of the job."""
        return self.time_used() >= 1

    def time_used(self) -> float:
        """The share of the request's `search.deadline_seconds` that is used up, 0 without one, at most 1."""
        seconds = self.request["search"]["deadline_seconds"]
        if seconds is None:
            return 0.0
        return float(min(1.0, max(0.0, (datetime.now(UTC) - self._started_at).total_seconds() / seconds)))

    def run(self, stage: Stage) -> bool:
        """Run `stage`, or find its result in the store; True if it ran."""
        self.check()
        key = self.keys[stage.name]
        if patiently(lambda: results.exists(self._sessions, key), self.check):
            self._clock.skip(stage)
            return False
        self._stage = stage
        self._heartbeat.enter_stage(stage.name, stage.time_limit)
        self._clock.enter(stage)
        self.progress(0.0)
        data = stage.run(self)
        self.check()
        patiently(lambda: results.store(self._sessions, key, data), self.check)
        patiently(lambda: results.drop_chunks(self._sessions, key), self.check)
        self._clock.leave()
        self._stage = None
        return True

    def _fetch(self, kind: str, digest: str) -> Path:
        def fetch() -> Path:
            with self._sessions.read() as session:
                blob = upload_blob(session, kind, digest)
            if blob is None:
                raise AppError("not_found", f"The {kind} {digest} of this job was removed; upload it again.")
            return open_blob_to_file(self._sessions, blob, self._folder / kind)

        return patiently(fetch, self.check)


class ProgressClock:
    """Progress over all stages, and the seconds left, from the stages' weights and the time they took so far.

    Stages whose result was found count as done but say nothing about the speed of this machine.
    """

    def __init__(self, stages: Sequence[Stage], now: Callable[[], float] = time.monotonic) -> None:
        self._total = sum(stage.weight for stage in stages)
        self._now = now
        self._started = now()
        self._found = 0.0
        self._ran = 0.0
        self._stage: Stage | None = None

    def skip(self, stage: Stage) -> None:
        """The result of `stage` was found."""
        self._found += stage.weight

    def enter(self, stage: Stage) -> None:
        """`stage` begins."""
        self._stage = stage

    def leave(self) -> None:
        """The stage that began has ended."""
        if self._stage is not None:
            self._ran += self._stage.weight
            self._stage = None

    def progress(self, fraction: float) -> Progress:
        """Progress of the job when `fraction` of the running stage is done."""
        if self._stage is None:
            raise RuntimeError("no stage is running")
        ran = self._ran + fraction * self._stage.weight
        done = min((self._found + ran) / self._total, 1.0)
        left = max(self._total - self._found - ran, 0.0)
        # The first percent of the work is start-up more than work; an estimate from it would be far off.
        known = ran > 0.01 * self._total
        eta = (self._now() - self._started) / ran * left if known else None
        return Progress(self._stage.name, done, eta)


def with_defaults(claim: Claim) -> Claim:
    """The claim with the members of its request that the service did not know yet when it stored the job, and without
    those that it no longer knows.

    Raises:
        AppError: this version refuses the request.
    """
    return replace(claim, request=parse_request(without_retired(claim.request)).model_dump(mode="json"))


def stage_keys(stages: Sequence[Stage], claim: Claim) -> dict[str, str]:
    """The key of every stage that the request needs, with the digests of the uploads as `model` and `dataset` (""
    without one).

    What a deadline cut short depends on the clock as well, which no key can hold. A stage that obeys a deadline
    therefore gets a key of this job's own: the job finds its result in a later attempt, no other job does.
    """
    request = claim.request
    search = request.get("search") or {}
    if search.get("deadline_seconds") is not None:
        request = {**request, "search": {**search, "deadline_of_job": claim.job_id}}
    keys = {"model": claim.model_id, "dataset": claim.dataset_id or ""}
    for stage in needed_stages(stages, request):
        keys[stage.name] = stage.key(request, keys)
    return keys
