"""`python -m pipeline.precheck MODEL DATA`: whether names, shapes and counts of the samples fit the model, at once.

A job finds the same, after its worker has started and run the model. So what is not read here is not judged here: a
model in an archive, a file that is no ONNX, samples in a form that has no headers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx import ModelProto

from evaluation.dataset import check_headers
from evaluation.errors import DatasetError
from network.tensor_spec import TensorSpec, input_specs

_ANY_SIZE = 2**63 - 1  # which sizes are taken, the worker's memory decides


def mismatch(model: Path, data: Path, own_metric: bool = False) -> DatasetError | None:
    """What is wrong with the samples for this model, as far as their headers say.

    Args:
        own_metric: the job has a metric graph, which may read further arrays.

    Raises:
        OSError: a file cannot be read.
    """
    inputs = _inputs(model)
    if not inputs:
        return None
    try:
        check_headers(data, inputs, _ANY_SIZE, None if own_metric else ())
    except DatasetError as error:
        return error
    return None


def _inputs(model: Path) -> Sequence[TensorSpec]:
    """Those of the graph; none where it cannot be read."""
    try:
        return input_specs(ModelProto.FromString(model.read_bytes()))
    except (DecodeError, KeyError):  # no ONNX, or an input that is no tensor of numbers
        return ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the problem, if there is one, as a JSON object with `code` and `detail`; else null."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.precheck")
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--own-metric", action="store_true")
    given = parser.parse_args(arguments)
    problem = mismatch(given.model, given.data, given.own_metric)
    json.dump(None if problem is None else {"code": problem.code, "detail": str(problem)}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
