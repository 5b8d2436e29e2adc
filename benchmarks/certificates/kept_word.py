"""Every network of the zoo through a whole job, and whether the delivered file keeps its word on fresh samples.

    python -m benchmarks.certificates.kept_word [--only NAME ...]

`benchmarks.certificates.rule` says when a word is kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pipeline
from benchmarks.certificates.entry import Entry
from benchmarks.certificates.networks import NAMES, build
from benchmarks.certificates.rule import Judgement, judge, require_failing
from benchmarks.certificates.running import outputs_of
from benchmarks.certificates.twins import would_certify

PROCESSES = 2


class Word(StrEnum):
    """`refused`: the job ended with an error and promised nothing; `failed`: an error that is none of the input's."""

    KEPT = "kept"
    NOT_MET = "not_met"
    BROKEN = "broken"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Report:
    """One network: its word, why, and the figures. `vacuous`: the null networks that would have been certified."""

    name: str
    family: str
    word: Word
    reasons: tuple[str, ...] = ()
    metric: str = ""
    drop: float = float("nan")
    interval: tuple[float, float] = (float("nan"), float("nan"))
    max_drop: float = float("nan")
    losses: dict[str, float] = field(default_factory=dict)
    vacuous: tuple[str, ...] = ()
    null_known: bool = True
    float_bytes: int = 0
    bytes: int = 0
    training_seconds: float = 0.0
    job_seconds: float = 0.0

    def line(self) -> str:
        """One line for a person."""
        text = f"{self.name}: {self.word}"
        if self.metric:
            text += (
                f", {self.metric} drop {self.drop:.4g} of {self.max_drop:g}, {self.float_bytes:,} to {self.bytes:,} "
                f"bytes, " + ", ".join(f"{name} {loss:.4g}" for name, loss in self.losses.items())
            )
        text += f" ({self.training_seconds:.0f} s + {self.job_seconds:.0f} s)"
        text += "".join(f"\n    {reason}" for reason in self.reasons)
        return text + (f"\n    VACUOUS: {', '.join(self.vacuous)}" if self.vacuous else "")


def run_entry(name: str) -> Report:
    """Trains the network, runs its job and judges the delivered file."""
    start = time.perf_counter()
    made = build(name)
    trained = time.perf_counter()
    try:
        result = pipeline.plan(made.model, made.samples, {"budget": made.budget}, machine=pipeline.Machine(threads=1))
    except Exception as error:  # noqa: BLE001 - whatever ends a job is a result here
        code = getattr(error, "code", None)
        return Report(
            name,
            made.family,
            Word.FAILED if code is None else Word.REFUSED,
            (f"{code or type(error).__name__}: {error}",),
            training_seconds=trained - start,
            job_seconds=time.perf_counter() - trained,
        )
    return _judged(made, result, trained - start, time.perf_counter() - trained)


def _judged(made: Entry, result: pipeline.JobResult, training_seconds: float, job_seconds: float) -> Report:
    certificate: dict[str, Any] = dict(result.certificate)
    before = outputs_of(made.model, made.fresh, made.batch_axes)
    try:
        after = outputs_of(result.model, made.fresh, made.batch_axes)
    except Exception as error:  # noqa: BLE001 - a delivered file that does not run keeps no word
        judgement = Judgement({}, {}, (f"the delivered file does not run: {error}",))
    else:
        judgement = judge(made, certificate, before, after)
    require_failing(made, certificate, before)
    certified = result.outcome == "met"
    vacuous = would_certify(certificate, before, made.fresh) if certified else ()
    word = (Word.KEPT if judgement.kept else Word.BROKEN) if certified else Word.NOT_MET
    return Report(
        made.name,
        made.family,
        word,
        judgement.reasons if certified else (str(result.plan.get("reason")),),
        certificate["metric"],
        certificate["drop"],
        (certificate["low"], certificate["high"]),
        certificate["max_drop"],
        judgement.losses,
        vacuous or (),
        vacuous is not None,
        len(made.model),
        len(result.model),
        training_seconds,
        job_seconds,
    )


def run(names: Sequence[str] = NAMES, processes: int = PROCESSES) -> Iterator[Report]:
    """Reports as they come; two processes of one thread each, so that no job waits for another's cores."""
    if processes == 1 or len(names) == 1:
        yield from map(run_entry, names)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from (future.result() for future in as_completed([pool.submit(run_entry, name) for name in names]))


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """The members of the last line that come from here. A refusal keeps no word: nothing was delivered."""
    count = {word: sum(report.word is word for report in reports) for word in Word}
    return {
        "networks": len(reports),
        "kept_word": f"{count[Word.KEPT] + count[Word.NOT_MET]}/{len(reports)}",
        "not_met": count[Word.NOT_MET],
        "broken": sorted(report.name for report in reports if report.word is Word.BROKEN),
        "refused": sorted(report.name for report in reports if report.word in (Word.REFUSED, Word.FAILED)),
        "vacuous": sum(bool(report.vacuous) for report in reports),
        "null_unknown": sum(not report.null_known for report in reports),
        "slow_seconds": round(max((report.job_seconds for report in reports), default=0.0), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=NAMES)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--details", help="write every report to this file, one JSON object a line")
    arguments = parser.parse_args()
    reports = []
    for report in run(arguments.only, arguments.processes):
        reports.append(report)
        print(report.line(), flush=True)
        if arguments.details:
            with open(arguments.details, "a") as file:
                file.write(json.dumps(asdict(report)) + "\n")
    print(json.dumps(summary(reports)))


if __name__ == "__main__":
    main()
