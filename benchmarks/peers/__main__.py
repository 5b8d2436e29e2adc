"""Our files beside those of ONNX Runtime, NNCF and AIMET: bytes, accuracy and time of four networks, in one run.

    python -m benchmarks.peers DATA [--peers-python PATH] [--only NAME ...]

DATA is the folder of `benchmarks.job`; the other three networks are trained here. PATH is an interpreter that has
`nncf` and `aimet-onnx`, beside the project's version of ONNX Runtime; without it their rows say that they were not run.
Every tool gets the same samples. Losses are in points on samples that no tool saw, expected without the luck of the
labels, with paired standard errors (`benchmarks.peers.verdict`). Seconds are printed as *float passes*, the time of the
float network over all samples. The last line is one JSON object: `peers_smaller` is whether beside every other file
ours takes fewer bytes and loses no more, `peers_smaller_within_error` the same where a difference within two standard
errors is none.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from benchmarks.peers.networks import NAMES, PeerCase, cases
from benchmarks.peers.ours import ACTIVATIONS, our_files
from benchmarks.peers.running import BATCH, MadeFile, NoFile, made_file, peer_file
from benchmarks.peers.tools import ACTIVATION_TOOLS, TOOLS
from benchmarks.peers.verdict import Verdict, lost, verdict

CONSOLE = Console(width=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--peers-python", type=Path, help="an interpreter that has nncf and aimet-onnx")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, metavar="NAME")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        work = Path(folder)
        reports = [
            compared(case, work / case.name, arguments.peers_python)
            for case in cases(arguments.data, work, tuple(arguments.only))
        ]
    print(json.dumps(summary(reports)))


def compared(case: PeerCase, work: Path, python: Path | None) -> dict[str, Any]:
    """Every tool's file and ours of one network; prints their tables."""
    floats = made_file(case.model.read_bytes(), case, 0.0)
    passes = float_pass_seconds(case)
    ours = our_ladder(case, work, floats, passes)
    table = Table(
        "tool",
        "bytes",
        "points lost",
        "float passes",
        "ours",
        "bytes",
        "points lost",
        "ours loses more",
        "by labels",
        "",
    )
    rows = []
    for tool in TOOLS:
        try:
            theirs = peer_file(tool, case, work, python)
        except NoFile as error:
            rows.append({"tool": tool, "reason": str(error)})
            print(f"{case.name}, {tool}: {error}", flush=True)
            continue
        rows.append(row(tool, theirs, ours, floats, passes))
        table.add_row(*shown(rows[-1]))
        if "with_activations" in rows[-1]:
            table.add_row(*shown(rows[-1] | rows[-1]["with_activations"]))
    CONSOLE.print(table)
    print(json.dumps(_rounded(rows)), flush=True)
    size = case.model.stat().st_size
    return {"network": case.name, "float_bytes": size, "float_accuracy": float(floats.right.mean()), "rows": rows}


def our_ladder(case: PeerCase, work: Path, floats: MadeFile, passes: float) -> dict[str, MadeFile]:
    size = case.model.stat().st_size
    table = Table("ours", "outcome", "bytes", "points lost, all samples", "float passes")
    table.title = f"{case.name}: {size:,} bytes, {100 * floats.right.mean():.2f} % in float"
    files = {}
    for name, file, outcome in our_files(case, work):
        files[name] = file
        loss = lost(floats.counted, file.counted)
        points = f"{loss.points:.2f} ± {loss.stderr:.2f}"
        table.add_row(name, outcome, f"{file.size_bytes:,}", points, f"{file.seconds / passes:.1f}")
    CONSOLE.print(table)
    return files


def row(tool: str, theirs: MadeFile, ours: dict[str, MadeFile], floats: MadeFile, passes: float) -> dict[str, Any]:
    """What is said of one tool; of one that also quantizes activations once more beside our files that do."""
    said = {"tool": tool, "their_float_passes": theirs.seconds / passes, **told(verdict(floats, theirs, ours))}
    if tool in ACTIVATION_TOOLS:
        alike = {name: file for name, file in ours.items() if name.endswith(ACTIVATIONS)}
        said["with_activations"] = told(verdict(floats, theirs, alike))
    return said


def told(found: Verdict) -> dict[str, Any]:
    return {**asdict(found), "smaller": found.smaller, "smaller_within_error": found.smaller_within_error}


def shown(row: dict[str, Any]) -> tuple[str, ...]:
    their, our, extra, by_labels = (
        f"{row[k]['points']:.2f} ± {row[k]['stderr']:.2f}"
        for k in ("their_loss", "our_loss", "extra", "extra_by_labels")
    )
    word = "smaller" if row["smaller"] else "smaller within error" if row["smaller_within_error"] else "NO"
    sizes = f"{row['their_bytes']:,}", f"{row['our_bytes']:,}"
    return (
        row["tool"],
        sizes[0],
        their,
        f"{row['their_float_passes']:.1f}",
        row["ours"],
        sizes[1],
        our,
        extra,
        by_labels,
        word,
    )


def summary(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all networks; a tool that made no file has no say in the two booleans."""
    rows = [row for report in reports for row in report["rows"] if "reason" not in row]
    alike = [row["with_activations"] for row in rows if "with_activations" in row]
    return {
        "peers_smaller": all(row["smaller"] for row in rows),
        "peers_smaller_within_error": all(row["smaller_within_error"] for row in rows),
        "rows_smaller": f"{sum(row['smaller'] for row in rows)}/{len(rows)}",
        "rows_smaller_within_error": f"{sum(row['smaller_within_error'] for row in rows)}/{len(rows)}",
        "rows_smaller_with_activations": f"{sum(row['smaller'] for row in alike)}/{len(alike)}",
        "networks": _rounded(reports),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_rounded(member) for member in value]
    return round(value, 4) if isinstance(value, float) else value


def float_pass_seconds(case: PeerCase) -> float:
    """The shortest of five passes of the float network over all samples that the tools get."""
    session = onnxruntime.InferenceSession(str(case.model), providers=["CPUExecutionProvider"])
    with np.load(case.samples) as archive:
        values = archive[case.input]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for start in range(0, len(values), BATCH):
            session.run(None, {case.input: values[start : start + BATCH]})
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
