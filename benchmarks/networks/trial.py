"""One network through a whole job, and everything that is asked of what comes out."""

from __future__ import annotations

import copy
import multiprocessing
import re
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import pipeline
from benchmarks.networks.constants import untold_bytes
from benchmarks.networks.decoding import wrong_steps
from benchmarks.networks.entry import BUILDERS, Network
from benchmarks.networks.interface import differences
from benchmarks.networks.judge import judge
from benchmarks.networks.operations import wrong_rows
from benchmarks.networks.running import outputs_of, session_of

PROCESSES = 2
LIMIT_SECONDS = 300.0
"""A job that takes longer counts as an internal error: none of these networks is large."""
QUICK: dict[str, Any] = {"weights": {"bits": [4, 8], "rounding": "nearest"}, "sensitivity": {"method": "measured"}}


class Word(StrEnum):
    """What came of a network's promise."""

    KEPT = "kept"
    NOT_MET = "not_met"
    BROKEN = "broken"
    REFUSED = "refused"
    WRONGLY_REFUSED = "wrongly refused"
    NOT_REFUSED = "not refused"
    FAILED = "failed"


GOOD = frozenset({Word.KEPT, Word.NOT_MET, Word.REFUSED})


@dataclass(frozen=True)
class Report:
    """What was found of one network; texts are empty where all is well.

    `float_share` is the share of the float constants' bytes that stays as it was, as the plan tells it.
    """

    name: str
    kind: str
    word: Word
    reasons: tuple[str, ...] = ()
    losses: dict[str, float] = field(default_factory=dict)
    unjudged: tuple[str, ...] = ()
    interface: tuple[str, ...] = ()
    untold_bytes: int = 0
    operations: tuple[str, ...] = ()
    float_share: float = 0.0
    float_bytes: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def well(self) -> bool:
        return self.word in GOOD and not (self.interface or self.untold_bytes or self.operations or self.unjudged)

    def line(self) -> str:
        """One line for a person, and one more for each thing that is wrong."""
        losses = ", ".join(f"{name} {loss:.3g}" for name, loss in self.losses.items())
        size = f"{self.float_bytes:,} to {self.bytes:,} bytes" if self.bytes else f"{self.float_bytes:,} bytes"
        text = f"{'    ' if self.well else 'BAD '}{self.name} ({self.kind}): {self.word}, {size}, {self.seconds:.0f} s"
        text += f", {self.float_share:.0%} float" if self.bytes else ""
        text += f"; {losses}" if losses else ""
        wrong = [*self.reasons, *(f"interface: {t}" for t in self.interface), *self.operations]
        wrong += [f"{self.untold_bytes:,} float bytes are not told"] if self.untold_bytes else []
        wrong += [f"no check of the claim {name}" for name in self.unjudged]
        return "\n        ".join([text, *wrong])


def tried(name: str, quick: bool = False) -> Report:
    """Makes the network, runs its job and looks at the result; whatever happens is in the report."""
    builder = BUILDERS[name]
    file = builder.build()
    start = time.perf_counter()
    request = merged(file.request, QUICK) if quick else file.request
    report = Report(name, builder.kind, Word.FAILED, float_bytes=len(file.model))
    try:
        result = _job(file, request)
    except Exception as error:  # noqa: BLE001 - whatever ends a job is a result here
        return replace(_refused(report, file, error), seconds=time.perf_counter() - start)
    report = replace(report, bytes=len(result.model), seconds=time.perf_counter() - start)
    if file.refusal is not None:
        return replace(report, word=Word.NOT_REFUSED, reasons=(f"must be refused with {file.refusal.codes}",))
    return _examined(report, file, result)


def merged(request: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A request with further members, two levels deep; what the first says stays."""
    whole = copy.deepcopy(dict(request))
    for name, value in more.items():
        whole[name] = {**value, **whole.get(name, {})} if isinstance(value, dict) else whole.get(name, value)
    return whole


def _job(file: Network, request: Mapping[str, Any]) -> pipeline.JobResult:
    machine = pipeline.Machine(threads=1)
    if not file.beside:
        return pipeline.plan(file.model, file.samples, request, machine=machine)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(file.model)
        for name, content in file.beside.items():
            (Path(folder) / name).write_bytes(content)
        return pipeline.plan(path, file.samples, request, machine=machine)


def _refused(report: Report, file: Network, error: Exception) -> Report:
    """What ends a job with a code is a refusal; anything else, and what the service calls its own fault, a failure."""
    code = getattr(error, "code", None)
    text = f"{code or type(error).__name__}: {getattr(error, 'detail', error)}"
    if code is None or code in ("internal", "plan_problem_invalid", "quantized_file_invalid"):
        place = traceback.extract_tb(error.__traceback__)[-1]
        return replace(report, reasons=(f"{text} ({Path(place.filename).name}:{place.lineno})",))
    if file.refusal is None:
        return replace(report, word=Word.WRONGLY_REFUSED, reasons=(text,))
    if code not in file.refusal.codes or not re.search(file.refusal.says, text, re.IGNORECASE):
        wanted = f"wanted {' or '.join(file.refusal.codes)} and a text with {file.refusal.says!r}"
        return replace(report, word=Word.WRONGLY_REFUSED, reasons=(f"{text} ({wanted})",))
    return replace(report, word=Word.REFUSED)


def _examined(report: Report, file: Network, result: pipeline.JobResult) -> Report:
    """The delivered file beside the uploaded one."""
    report = replace(
        report,
        interface=tuple(differences(file.model, result.model)),
        untold_bytes=untold_bytes(result.model, result.plan),
        float_share=result.plan["stays_float"]["share"],
    )
    before = outputs_of(file, file.model, file.fresh)
    if wrong := wrong_steps(file, file.model):
        raise ValueError(f"the uploaded network does not decode itself: {wrong}; mend its builder")
    try:
        # the delivered file is one file, whatever was beside the upload
        delivered = replace(file, beside={})
        after = outputs_of(delivered, result.model, file.fresh)
        problems = [*wrong_steps(delivered, result.model), *_other_lengths(file, result.model)]
        operations = tuple(wrong_rows(delivered, result.model, result.plan))
    except Exception as error:  # noqa: BLE001 - a delivered file that does not run keeps no word
        return replace(report, word=Word.BROKEN, reasons=(f"the delivered file does not run: {error}",))
    judgement = judge(result.certificate, before, after, file.fresh)
    met = result.outcome == "met"
    reasons = (*problems, *(judgement.reasons if met else ()))
    word = Word.BROKEN if reasons else Word.KEPT if met else Word.NOT_MET
    return replace(
        report,
        word=word,
        reasons=reasons if met or reasons else (str(result.plan.get("reason")),),
        losses=judgement.losses,
        unjudged=judgement.unjudged,
        operations=operations,
    )


def _other_lengths(file: Network, delivered: bytes) -> Iterator[str]:
    """Feeds of other lengths: the delivered file has to take them, with outputs of the same shapes."""
    if not file.lengths:
        return
    first, second = session_of(file.model, file.beside), session_of(delivered)
    for feeds in file.lengths:
        lengths = {name: list(array.shape) for name, array in feeds.items()}
        wanted = [np.shape(value) for value in first.run(None, feeds)]
        try:
            given = [np.shape(value) for value in second.run(None, feeds)]
        except Exception as error:  # noqa: BLE001 - that it does not run is what is looked for
            yield f"does not take {lengths}: {str(error).splitlines()[0][:200]}"
            continue
        if wanted != given:
            yield f"gives {given} for {lengths}, uploaded {wanted}"


def run(names: Sequence[str], quick: bool = False, processes: int = PROCESSES) -> Iterator[Report]:
    """Reports as they come, each of a process of its own: one that crashes or never ends stops no other."""
    with ThreadPoolExecutor(processes) as pool:
        yield from (future.result() for future in as_completed([pool.submit(_apart, name, quick) for name in names]))


def _apart(name: str, quick: bool) -> Report:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.networks.networks", "benchmarks.networks.trial"])
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(name, quick, writer))
    process.start()
    writer.close()
    try:
        if reader.poll(LIMIT_SECONDS):
            report: Report = reader.recv()
            return report
        text = f"not done after {LIMIT_SECONDS:.0f} s"
    except EOFError:
        process.join()
        text = f"the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
    return Report(name, BUILDERS[name].kind, Word.FAILED, (text,))


def _send(name: str, quick: bool, writer: Connection) -> None:
    import benchmarks.networks.networks  # noqa: F401 - registers the builders in this process

    try:
        report = tried(name, quick)
    except Exception as error:  # noqa: BLE001 - a fault of the zoo itself stops no other network
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"the zoo itself: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        report = Report(name, BUILDERS[name].kind, Word.FAILED, (text,))
    writer.send(report)


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """The members of the last line."""
    return {
        "networks": len(reports),
        "kept_word": f"{sum(report.word in GOOD for report in reports)}/{len(reports)}",
        "not_met": sorted(report.name for report in reports if report.word is Word.NOT_MET),
        "broken": sorted(report.name for report in reports if report.word in (Word.BROKEN, Word.NOT_REFUSED)),
        "wrongly_refused": sorted(report.name for report in reports if report.word is Word.WRONGLY_REFUSED),
        "internal_errors": sum(report.word is Word.FAILED for report in reports),
        "interface_equal": not any(report.interface for report in reports),
        "uncovered_bytes_untold": sum(report.untold_bytes for report in reports),
        "bit_operations_wrong": sum(len(report.operations) for report in reports),
        "claims_unjudged": sum(len(report.unjudged) for report in reports),
    }
