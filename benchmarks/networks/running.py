"""Files in plain ONNX Runtime, one sample at a time; nothing here is the product's code."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.networks.entry import Array, Arrays, Network

NOT_INPUTS = ("labels", "targets", "boxes")


def session_of(
    model: bytes, beside: Mapping[str, bytes] | None = None, *, optimized: bool = True
) -> onnxruntime.InferenceSession:
    """A session of one thread; `beside` are the files of external data."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not beside:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.onnx").write_bytes(model)
        for name, content in beside.items():
            (Path(folder) / name).write_bytes(content)
        return onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])


def groups_of(samples: Arrays) -> dict[str, dict[str, Array]]:
    """Samples by the group that their names begin with (`short/ids`); one group "" where they have none."""
    groups: dict[str, dict[str, Array]] = {}
    for name, array in samples.items():
        group, _, key = name.rpartition("/")
        if key.split(".")[0] not in NOT_INPUTS:
            groups.setdefault(group, {})[key] = array
    return groups


def batch_of(session: onnxruntime.InferenceSession, batch_axes: Mapping[str, int | None]) -> int:
    """How many samples a call takes: one, or as many as the network fixes its batch to."""
    size = 1
    for value in session.get_inputs():
        axis = batch_axes.get(value.name, 0)
        if axis is not None and value.shape and isinstance(value.shape[axis], int):
            size = max(size, value.shape[axis])
    return size


def feeds_of(
    session: onnxruntime.InferenceSession, arrays: Arrays, batch_axes: Mapping[str, int | None]
) -> Iterator[dict[str, Array]]:
    """The feeds of one call after another; samples that do not fill the last one are left out."""
    names = [value.name for value in session.get_inputs()]
    size, total = batch_of(session, batch_axes), len(next(iter(arrays.values())))
    for start in range(0, total - size + 1, size):
        feeds = {}
        for name in names:
            axis = batch_axes.get(name, 0)
            part = arrays[name][start : start + size]
            feeds[name] = np.asarray(part[0]) if axis is None else np.moveaxis(part, 0, axis)
        yield feeds


def outputs_of(file: Network, model: bytes, samples: Arrays) -> dict[str, dict[str, list[Array]]]:
    """By group and output the values of every sample, without the batch axis.

    An output without a batch axis has one value for each call.
    """
    session = session_of(model, file.beside)
    names = [output.name for output in session.get_outputs()]
    values: dict[str, dict[str, list[Array]]] = {}
    for group, arrays in groups_of(samples).items():
        rows: dict[str, list[Array]] = {name: [] for name in names}
        for feeds in feeds_of(session, arrays, file.batch_axes):
            for name, value in zip(names, session.run(names, feeds), strict=True):
                axis = file.batch_axes.get(name, 0)
                whole = axis is None or np.ndim(value) == 0
                rows[name] += [np.asarray(value)] if whole else list(np.moveaxis(np.asarray(value), axis or 0, 0))
        values[group] = rows
    return values
