"""The other tools as processes of their own, and files of any tool measured in ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.peers import tools
from benchmarks.peers.networks import PeerCase

LIMIT_SECONDS = 1_200.0
BATCH = 500
OWN_TOOLS = tuple(name for name in tools.TOOLS if name.startswith("onnxruntime"))
"""They run in our interpreter; all others in the one that is given."""


class NoFile(Exception):
    """A tool made no file that runs; the text says why."""


@dataclass(frozen=True, eq=False)
class MadeFile:
    """A file: `right` `[N]` says for each fresh sample whether its class is right."""

    size_bytes: int
    right: NDArray[np.bool_]
    seconds: float


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
        return MadeFile(out.stat().st_size, right(out.read_bytes(), case), seconds)
    except Exception as error:  # ONNX Runtime has classes of its own for each failure
        # what is wrong comes last, after node and source line
        raise NoFile(f"its file does not run: {' '.join(str(error).split())[-200:]}") from error


def reason(errors: str, status: int) -> str:
    """The last line of a failed process's errors that says something."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"ended with status {status}"


def right(model: bytes, case: PeerCase) -> NDArray[np.bool_]:
    """For each fresh sample whether the file, in plain ONNX Runtime, has its class right."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    parts = (case.fresh[start : start + BATCH] for start in range(0, len(case.fresh), BATCH))
    classes = np.concatenate([session.run(None, {case.input: part})[0].argmax(axis=1) for part in parts])
    return np.asarray(classes == case.labels)
