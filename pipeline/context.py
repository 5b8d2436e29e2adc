"""What a stage sees of its job: uploads, earlier results, chunks, progress and the checks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from pipeline.events import Event, Progress, Report, Spread, StageBegan, StageEnded
from pipeline.process import release
from pipeline.spreading import LONGEST_PAUSE, SHORTEST_PAUSE, Chunks, Compute, StageOver
from pipeline.stage import UPLOADS, Machine, Stage, Upload
from pipeline.store import Store
from pipeline.time_limits import MACS_PER_BYTE, MEDIUM, SAMPLE, SAMPLE_MACS

if TYPE_CHECKING:
    from network.work import WorkLimits
    from pipeline.workspace import Workspace

Blob = TypeVar("Blob")

# seconds between two reports of how many chunks are open
OPEN_SECONDS = 1.0


class Context:
    """One job in this process; it keeps nothing of the request, so that a stage has its own slice alone.

    Args:
        stages: those that the request needs, in order.
        config: their slices, attributes by the names of the stages; only their keys are made from it.
        uploads: by kind, one of `UPLOADS`; a model is always there. They lie in a folder of the job's own.
        elapsed_seconds: what earlier attempts at the job took; its deadline counts from the first.
        helping: another process leads the job: it runs all stages, and this one only takes chunks of those that spread.
            What a helper reports is progress alone, so that it can be stopped.
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
        helping: bool = False,
    ) -> None:
        self.machine = machine
        self.helping = helping
        self._uploads = dict(uploads)
        self._files: dict[str, Path] = {}
        self._store = store
        self._report = report
        self._started = time.monotonic() - elapsed_seconds
        self._stage: Stage | None = None
        self._progress: Progress | None = None
        self._fraction = 0.0  # of the running stage
        self._open, self._opened = 0, 0.0  # chunks, and when that was last reported
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
        """What an uploaded network may take for one sample, and for all of them once."""
        from network.work import WorkLimits  # loads ONNX Runtime

        sample, samples = SAMPLE.of(self.size_bytes), MEDIUM.of(self.size_bytes)
        macs = SAMPLE_MACS + MACS_PER_BYTE * self.size_bytes
        return WorkLimits(sample.total_seconds(), samples.total_seconds(), macs)

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
        if self.helping:
            return self._help(stage, config)
        if ran := not self._store.exists(key):
            self._begin(stage)
            result = stage.run(self, config)
            release()  # before it is stored: then helpers go on
            self.check()
            if isinstance(result, bytes):
                self._store.store(key, result)
            else:
                with result:
                    self._store.store_file(key, result)
            self._store.drop(f"{key}/")
            self._stage = None
        self._clock.end(stage, ran)
        self._report(StageEnded(stage.name, ran))
        return ran

    def _begin(self, stage: Stage) -> None:
        self._stage, self._fraction = stage, 0.0
        if not self.helping:
            self._report(StageBegan(stage.name, stage.limit(self.size_bytes)))
        self.progress(0.0)

    def _help(self, stage: Stage, config: object) -> bool:
        """Take chunks of `stage` until none is left, and wait for its result; False, as it is not this process's."""
        key, pause = self.keys[stage.name], SHORTEST_PAUSE
        self._begin(stage)
        if stage.spreads and not self._store.exists(key):
            try:
                stage.run(self, config)
            except StageOver:
                self._store.drop(f"{key}/")  # a chunk that came too late
            release()
        while not self._store.exists(key):
            self.check()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._stage = None
        self._clock.end(stage, ran=False)
        return False

    def has(self, stage: str) -> bool:
        """Whether the request needs this stage; what a stage does not read it does not have.

        Raises:
            LookupError: the running stage does not name it in `reads`.
        """
        self.check_reads((stage,))
        return stage in self.keys

    def has_result(self, stage: str) -> bool:
        """Whether a stage that the request needs is done."""
        return self._store.exists(self.keys[stage])

    def read(self, stage: str) -> bytes:
        """The blob that an earlier stage wrote. Once all have run, when the job is reported, all may be read.

        Raises:
            LookupError: that stage has not run, or the request does not need it; the running stage does not name it in
                `reads`.
        """
        return self._found(stage, self._store.load)

    def open(self, stage: str) -> IO[bytes]:
        """The blob that an earlier stage wrote, as a file of the caller's, where it may be larger than memory.

        Raises:
            LookupError: as `read`.
        """
        return self._found(stage, self._store.open)

    def _found(self, stage: str, find: Callable[[str], Blob | None]) -> Blob:
        self.check()
        if not self.has(stage):
            raise LookupError(f"the request of this job does not need the stage {stage}, so that it has no result")
        blob = find(self.keys[stage])
        if blob is None:
            raise LookupError(f"the stage {stage} has no result yet; it must stand before its reader in the table")
        return blob

    def check_reads(self, stages: Iterable[str]) -> None:
        """Raise `LookupError` unless the running stage may read what all of these wrote."""
        for stage in stages:
            if self._stage is not None and stage not in self._stage.reads:
                raise LookupError(
                    f"the stage {self._stage.name} reads {stage}, which its `reads` do not name: its key would not "
                    "depend on it"
                )

    def chunk(self, name: str, compute: Callable[[], bytes]) -> bytes:
        """`compute()`, or what another process or an earlier attempt stored for this chunk of the running stage."""
        return next(self._chunks.results([self._chunk_key(name)], lambda _: compute()))

    def spread(self, names: Sequence[str], compute: Compute, ahead: int | None = None) -> Iterator[bytes]:
        """The results of chunks of the running stage, in order, `compute(place)` of the one at each place.

        Each is computed by the process that takes it, when it is asked for or, where another process computes that one,
        before. All processes of the job must ask for the same chunks, and go on with what they read.

        Args:
            names: of the chunks; within the stage, one name is one chunk.
            ahead: see `pipeline.spreading.Chunks.results`.
        """
        keys = [self._chunk_key(name) for name in names]
        yield from self._chunks.results(keys, compute, ahead, self._report_open)
        self._report_open(0)

    def shared(self, name: str, compute: Callable[[], bytes]) -> bytes | None:
        """As `chunk`; None while another process computes it."""
        return self._chunks.result(self._chunk_key(name), compute)

    def ahead(self, name: str, compute: Callable[[], bytes]) -> bool:
        """Compute a chunk for whoever will ask for it; False if it is stored, or another process computes it."""
        return self._chunks.computed(self._chunk_key(name), compute)

    def stored(self, name: str) -> bytes | None:
        """A chunk of the running stage, None while it is not stored."""
        return self._chunks.stored(self._chunk_key(name))

    def opened(self, count: int) -> None:
        """So many chunks could be begun by other processes now."""
        self._report_open(count)

    def cached(self, key: str, compute: Callable[[], bytes]) -> bytes:
        """`compute()`, or what any job stored under `key`, which names all that the result depends on."""
        return next(self._chunks.results([f"cached/{hashlib.sha256(key.encode()).hexdigest()}"], lambda _: compute()))

    def progress(self, fraction: float) -> None:
        """Report progress within the stage, 0 to 1, which never goes back; also a check."""
        self._fraction = max(self._fraction, min(fraction, 1.0))
        self._progress = self._clock.progress(self._running, self._fraction)
        self._report(self._progress)

    def check(self) -> None:
        """Raise if the job has to stop; to be called at least every few seconds."""
        if self._progress is not None:
            self._report(self._progress)

    def event(self, event: Event) -> None:
        """Report something that is no progress; of a helper only a check."""
        if self.helping:
            self.check()
        else:
            self._report(event)

    @property
    def elapsed_seconds(self) -> float:
        """Since the first start of the job."""
        return time.monotonic() - self._started

    def time_used(self, deadline_seconds: float | None) -> float:
        """The share of the job's deadline that is used up, from its first start: 0 without one, at most 1."""
        if deadline_seconds is None:
            return 0.0
        return min(1.0, max(0.0, self.elapsed_seconds / deadline_seconds))

    @property
    def _running(self) -> Stage:
        if self._stage is None:
            raise RuntimeError("this belongs to a stage, and none is running")
        return self._stage

    @cached_property
    def _chunks(self) -> Chunks:
        return Chunks(self._store, self._check_stage)

    def _chunk_key(self, name: str) -> str:
        return f"{self.keys[self._running.name]}/{hashlib.sha256(name.encode()).hexdigest()}"

    def _check_stage(self) -> None:
        """As `check`; and a helper stops where the stage has its result, and its chunks are dropped."""
        self.check()
        if self.helping and self._store.exists(self.keys[self._running.name]):
            raise StageOver

    def _report_open(self, count: int) -> None:
        """Report that so many chunks are open: at once where there were none, or none is left."""
        now = time.monotonic()
        news = count != self._open and (0 in (count, self._open) or now - self._opened >= OPEN_SECONDS)
        if news and not self.helping:
            self._open, self._opened = count, now
            self._report(Spread(self._running.name, count))


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
