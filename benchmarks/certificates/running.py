"""Outputs of an ONNX file in plain ONNX Runtime, without any code of the product."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime

from benchmarks.certificates.entry import Array, Arrays

CHUNK = 256


def outputs_of(model: bytes, samples: Arrays, batch_axes: Mapping[str, int]) -> dict[str, Array]:
    """All outputs, samples first; where their lengths differ from sample to sample, arrays of objects.

    A network that fixes its batch is run with as many samples at a time.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    fixed = inputs[0].shape[batch_axes.get(inputs[0].name, 0)]
    chunk = fixed if isinstance(fixed, int) else CHUNK
    parts: dict[str, list[Array]] = {name: [] for name in names}
    total = len(samples[inputs[0].name])
    for start in range(0, total, chunk):
        feeds = {
            spec.name: np.moveaxis(samples[spec.name][start : start + chunk], 0, batch_axes.get(spec.name, 0))
            for spec in inputs
        }
        for name, value in zip(names, session.run(names, feeds), strict=True):
            parts[name].append(np.moveaxis(np.asarray(value), batch_axes.get(name, 0), 0))
    return {name: _together(values, chunk, total) for name, values in parts.items()}


def _together(values: list[Array], chunk: int, total: int) -> Array:
    if chunk == 1 and any(len(value) != 1 for value in values):
        ragged = np.empty(total, dtype=object)
        ragged[:] = values
        return ragged
    return np.concatenate(values)


def some(arrays: Arrays, indices: Array) -> dict[str, Array]:
    """The samples at `indices` of every array."""
    return {name: array[indices] for name, array in arrays.items()}
