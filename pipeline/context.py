"""What a stage sees of its job: uploads, earlier results, chunks, progress and the checks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.events import Event, Progress, Report, StageBegan, StageEnded
from pipeline.stage import UPLOADS, Machine, Stage, Upload
from pipeline.store import Store
from pipeline.time_limits import MEDIUM, SAMPLE

if TYPE_CHECKING:
    from network.work import WorkLimits
    from pipeline.workspace import Workspace


class Context:
    """One job in this process; it keeps nothing of the request, so that a stage has its own slice alone.

    Args:
        stages: those that the request needs, in order.
        config: their slices, attributes by the names of the stages; only their keys are made from it.
        uploads: by kind, one of `UPLOADS`; a model is always there. They lie in a folder of the job's own.
        elapsed_seconds: what earlier attempts at the job took; its deadline counts from the first.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        config: object,
        uploads: Mapping[str, Upload],
        store: Store,
        report: Report,
        machine: Machine,
        elapsed_seconds: float = 0.0,
    ) -> None:
        self.machine = machine
        self._uploads = dict(uploads)
        self._files: dict[str, Path] = {}
        self._store = store
        self._report = report
        self._started = time.monotonic() - elapsed_seconds
        self._stage: Stage | None = None
        self._progress: Progress | None = None
        self._clock = ProgressClock(stages)
        self.keys = stage_keys(stages, config, {kind: upload.sha256 for kind, upload in uploads.items()})

    @property
    def model_path(self) -> Path:
        """The uploaded network; of an archive, the one file that it makes up."""
        return self._file("model")

    @cached_property
    def size_bytes(self) -> int:
        """Of all uploads together, as they came."""
        return sum(upload.path.stat().st_size for upload in self._uploads.values())

    @property
    def work_limits(self) -> WorkLimits:
        """How long an uploaded network may run on one sample, and on all of them once."""
        from network.work import WorkLimits  # loads ONNX Runtime

        sample, samples = SAMPLE.of(self.size_bytes), MEDIUM.of(self.size_bytes)
        return WorkLimits(sample.total_seconds(), samples.total_seconds())

    def path_of(self, kind: str) -> Path | None:
        """The upload of this kind, None where the job has none; of an archive with a model, the model.

        Raises:
            LookupError: the running stage does not name it in `reads`.
        """
        self.check_reads((kind,))
        return self._file(kind) if kind in self._uploads else None

    def bytes_of(self, kind: str) -> bytes:
        """The contents of an upload that the job has.

        Raises:
            LookupError: as `path_of`, or the job has none.
        """
        path = self.path_of(kind)
        if path is None:
            raise LookupError(f"the job has no upload of the kind {kind}")
        return path.read_bytes()

    def _file(self, kind: str) -> Path:
        from pipeline.archives import is_archive, unpacked  # loads onnx, as the workspace does

        if kind not in self._files:
            path = self._uploads[kind].path
            if kind != "dataset" and is_archive(path):
                path = unpacked(path, path.with_name(f"{path.name}.unpacked"))
            self._files[kind] = path
        return self._files[kind]

    @cached_property
    def workspace(self) -> Workspace:
        """What stages share in this process."""
        from pipeline.workspace import Workspace  # loads torch, which a table of other stages does not need

        return Workspace(self)

    def run(self, stage: Stage, config: object) -> bool:
        """Run `stage` with its slice, or find its result in the store; True if it ran."""
        self.check()
        key = self.keys[stage.name]
        if ran := not self._store.exists(key):
            self._stage = stage
            self._report(StageBegan(stage.name, stage.limit(self.size_bytes)))
            self.progress(0.0)
            data = stage.run(self, config)
            self.check()
            self._store.store(key, data)
            self._store.drop(f"{key}/")
            self._stage = None
        self._clock.end(stage, ran)
        self._report(StageEnded(stage.name, ran))
        return ran

    def has(self, stage: str) -> bool:
        """Whether the request needs this stage; what a stage does not read it does not have.

        Raises:
            LookupError: the running stage does not name it in `reads`.
        """
        self.check_reads((stage,))
        return stage in self.keys

    def read(self, stage: str) -> bytes:
        """The blob that an earlier stage wrote. Once all have run, when the job is reported, all may be read.

        Raises:
            LookupError: that stage has not run, or the request does not need it; the running stage does not name it in
                `reads`.
        """
        self.check()
        if not self.has(stage):
            raise LookupError(f"the request of this job does not need the stage {stage}, so that it has no result")
        data = self._store.load(self.keys[stage])
        if data is None:
            raise LookupError(f"the stage {stage} has no result yet; it must stand before its reader in the table")
        return data

    def check_reads(self, stages: Iterable[str]) -> None:
        """Raise `LookupError` unless the running stage may read what all of these wrote."""
        for stage in stages:
            if self._stage is not None and stage not in self._stage.reads:
                raise LookupError(
                    f"the stage {self._stage.name} reads {stage}, which its `reads` do not name: its key would not "
                    "depend on it"
                )

    def chunk(self, name: str, compute: Callable[[], bytes]) -> bytes:
        """`compute()`, or what an earlier attempt stored for this chunk of the running stage."""
        return self._stored(f"{self.keys[self._running.name]}/{hashlib.sha256(name.encode()).hexdigest()}", compute)

    def cached(self, key: str, compute: Callable[[], bytes]) -> bytes:
        """`compute()`, or what any job stored under `key`, which names all that the result depends on."""
        return self._stored(f"cached/{hashlib.sha256(key.encode()).hexdigest()}", compute)

    def progress(self, fraction: float) -> None:
        """Report progress within the stage, 0 to 1; also a check."""
        self._progress = self._clock.progress(self._running, min(max(fraction, 0.0), 1.0))
        self._report(self._progress)

    def check(self) -> None:
        """Raise if the job has to stop; to be called at least every few seconds."""
        if self._progress is not None:
            self._report(self._progress)

    def event(self, event: Event) -> None:
        """Report something that is no progress."""
        self._report(event)

    def time_used(self, deadline_seconds: float | None) -> float:
        """The share of the job's deadline that is used up, from its first start: 0 without one, at most 1."""
        if deadline_seconds is None:
            return 0.0
        return min(1.0, max(0.0, (time.monotonic() - self._started) / deadline_seconds))

    @property
    def _running(self) -> Stage:
        if self._stage is None:
            raise RuntimeError("this belongs to a stage, and none is running")
        return self._stage

    def _stored(self, key: str, compute: Callable[[], bytes]) -> bytes:
        self.check()
        stored = self._store.load(key)
        if stored is not None:
            return stored
        data = compute()
        self.check()
        return self._store.store(key, data)


def stage_keys(stages: Iterable[Stage], config: object, digests: Mapping[str, str]) -> dict[str, str]:
    """The key of every stage; `digests` of the uploads by kind stand for what no stage wrote."""
    keys = {kind: digests.get(kind, "") for kind in UPLOADS}
    for stage in stages:
        keys[stage.name] = stage.key(getattr(config, stage.name), keys)
    return keys


class ProgressClock:
    """Progress over all stages, and the seconds left, from the stages' weights and the time they took so far.

    Stages whose result is stored already count as done but say nothing about the speed of this machine.
    """

    def __init__(self, stages: Iterable[Stage], now: Callable[[], float] = time.monotonic) -> None:
        self._total = sum(stage.weight for stage in stages)
        self._now = now
        self._started = now()
        self._skipped = 0.0
        self._ran = 0.0

    def end(self, stage: Stage, ran: bool) -> None:
        """The result of `stage` is there; whether it `ran`, or was stored already."""
        if ran:
            self._ran += stage.weight
        else:
            self._skipped += stage.weight

    def progress(self, stage: Stage, fraction: float) -> Progress:
        """Progress of the job when `fraction` of `stage`, which runs, is done."""
        ran = self._ran + fraction * stage.weight
        done = min((self._skipped + ran) / self._total, 1.0)
        left = max(self._total - self._skipped - ran, 0.0)
        # The first percent of the work is start-up more than work; an estimate from it would be far off.
        known = ran > 0.01 * self._total
        eta = (self._now() - self._started) / ran * left if known else None
        return Progress(stage.name, done, eta)
