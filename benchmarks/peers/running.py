"""The other tools as processes of their own, and files of any tool measured in ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.peers import tools
from benchmarks.peers.networks import PeerCase
from evaluation.expected_drop import ExpectedDrop

LIMIT_SECONDS = 1_200.0
BATCH = 500
OWN_TOOLS = tuple(name for name in tools.TOOLS if name.startswith("onnxruntime"))
"""They run in our interpreter; all others in the one that is given."""


class NoFile(Exception):
    """A tool made no file that runs; the text says why."""


@dataclass(frozen=True, eq=False)
class MadeFile:
    """A file: `right` `[N]` says for each fresh sample whether its class is right, `expected` `[N]` how likely that is
    without the luck of the labels (`evaluation.expected_drop`); None where nobody knows."""

    size_bytes: int
    right: NDArray[np.bool_]
    seconds: float
    expected: NDArray[np.float64] | None = None

    @property
    def counted(self) -> NDArray[np.float64]:
        """What is right, expected if it is known."""
        return self.right.astype(np.float64) if self.expected is None else self.expected


def made_file(model: bytes, case: PeerCase, seconds: float) -> MadeFile:
    """A file as it runs in plain ONNX Runtime."""
    found = classes(model, case)
    known = _probabilities(case)
    return MadeFile(len(model), np.asarray(found == case.labels), seconds, known[np.arange(len(found)), found])


def peer_file(tool: str, case: PeerCase, work: Path, python: Path | None) -> MadeFile:
    """What `tool` makes of the network.

    Args:
        python: the interpreter that has the tools that are not ONNX Runtime's; None: there is none.

    Raises:
        NoFile: the tool does not install or run, quantizes nothing here, or its file does not run.
    """
    interpreter = sys.executable if tool in OWN_TOOLS else python
    if interpreter is None:
        raise NoFile("not run: no interpreter that has it was given")
    out = work / f"{tool}.onnx"
    command = [str(interpreter), str(tools.__file__), tool, str(case.model), str(case.samples), str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise NoFile(f"no end after {LIMIT_SECONDS:.0f} s") from None
    if done.returncode:
        raise NoFile(reason(done.stderr, done.returncode))
    seconds = json.loads(done.stdout.splitlines()[-1])["seconds"]
    if out.stat().st_size >= case.model.stat().st_size:
        raise NoFile(f"its file is no smaller than the float file ({out.stat().st_size:,} bytes)")
    try:
        return made_file(out.read_bytes(), case, seconds)
    except Exception as error:  # ONNX Runtime has classes of its own for each failure
        # what is wrong comes last, after node and source line
        raise NoFile(f"its file does not run: {' '.join(str(error).split())[-200:]}") from error


def reason(errors: str, status: int) -> str:
    """The last line of a failed process's errors that says something."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"ended with status {status}"


def classes(model: bytes, case: PeerCase) -> NDArray[np.int64]:
    """The class that the file, in plain ONNX Runtime, gives to each fresh sample."""
    return np.asarray(_outputs(model, case).argmax(axis=1))


@cache
def _probabilities(case: PeerCase) -> NDArray[np.float64]:
    """The float network's calibrated probabilities of all classes of the fresh samples."""
    found = ExpectedDrop.of(_outputs(case.model.read_bytes(), case), case.labels)
    if found is None:
        raise ValueError(f"{case.name} gives no finite logits")
    return found.probabilities


def _outputs(model: bytes, case: PeerCase) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    parts = (case.fresh[start : start + BATCH] for start in range(0, len(case.fresh), BATCH))
    return np.concatenate([session.run(None, {case.input: part})[0] for part in parts])
