"""Which axis of each input and output holds the samples: stated, or found by shapes, names and a run of two samples.

An array of samples has the axis of the samples first, and then either all axes of the input (each sample is a call) or
all but one: that one is the samples'. Where several axes could be it, a free axis comes before a fixed one, one that is
called like a batch before others, the first before the next. A run of two samples decides: their outputs have to be
those of each alone. Where a file fixes how many samples a call takes, another sample in the last place may change
nothing of those before it.

An If or a Loop whose condition comes from the values of inputs decides for a whole call: such samples run one by one.

Where a call takes one sample, each output's axis is the first of length 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from network.batch_candidates import Stated, candidate_axes, fixed_size
from network.batching import Arrays, Batching
from network.errors import BatchAxisUnknown, ModelInvalid, ModelTooLarge, NetworkError, SamplesMixed
from network.onnx_graph import names_read, nodes, own_inputs
from network.proof import unlike, with_other_digits
from network.work import UNLIMITED, TrialRun, WorkLimits

MOST_TRIED = 16
"""Combinations of axes."""
FOLDED_RTOL, FOLDED_ATOL = 1e-3, 1e-4
"""How far rows of samples that run together may lie from those of each alone and still be the same rows: rounding of
float16 and of sums in another order, not another sample."""

_SCALED_BY_CALL = frozenset(("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"))
"""Their scale is that of all values of a call, so that samples which share a call round each other differently."""


def find_batching(
    uploaded: bytes | Path,
    model: onnx.ModelProto,
    samples: Arrays,
    stated: Stated,
    threads: int,
    work: WorkLimits = UNLIMITED,
) -> Batching:
    """How samples become calls of the uploaded file.

    Args:
        uploaded: the file as it came, or its bytes, which is run.
        model: the same, parsed.
        samples: an array `[samples, ...]` for each graph input.
        stated: by graph input the axis of the samples, None for an input that belongs to a whole call.
        threads: of ONNX Runtime.
        work: how long the file may run.

    Raises:
        TooMuchWork: one sample, or all of them, take longer than that.
        BatchAxisUnknown: an input has no axis that the data leave for the samples, the stated one does not fit, or the
            inputs fix different numbers of samples.
        SamplesMixed: samples that share a call change each other's outputs.
        ModelInvalid: ONNX Runtime does not load the file, or does not run it on a sample.
    """
    inputs = own_inputs(model.graph)
    run = TrialRun(uploaded, threads, work)
    tried: list[NetworkError] = []
    for axes in itertools.islice(candidate_axes(inputs, samples, stated), MOST_TRIED):
        try:
            batching = Batching(axes, {}, fixed_size(inputs, axes))
            batching = _without_first_axes(_with_outputs(run, batching, samples, model))
        except (BatchAxisUnknown, ModelInvalid, SamplesMixed) as error:
            tried.append(error)
        else:
            run.check_all(_count(samples))
            return batching
    raise next((error for error in tried if isinstance(error, SamplesMixed)), tried[0])


def likeliest_axes(model: onnx.ModelProto, samples: Arrays, stated: Stated) -> Batching:
    """What shapes and names alone say of the inputs; of the outputs nothing. Nothing is run.

    Raises:
        BatchAxisUnknown: see `find_batching`.
    """
    inputs = own_inputs(model.graph)
    axes = next(candidate_axes(inputs, samples, stated))
    return Batching(axes, {}, fixed_size(inputs, axes))


def output_axes(file: bytes, batching: Batching, samples: Arrays, threads: int) -> dict[str, int | None]:
    """The axes of the samples in the outputs of another file with the same inputs."""
    inputs = Batching(batching.inputs, {}, batching.size)
    return dict(_with_outputs(TrialRun(file, threads, UNLIMITED), inputs, samples, None).outputs)


def batching_of_another(
    file: bytes,
    model: onnx.ModelProto,
    batching: Batching,
    samples: Arrays,
    threads: int,
    work: WorkLimits = UNLIMITED,
) -> Batching:
    """How the same samples become calls of another file that takes the same inputs: along the same axes of these, but
    as many in a call as this file takes, and along the axes of its own outputs. They may change each other's outputs
    there: a file that takes its scales from whole calls is run as it is.

    Args:
        file: the other file, which is run.
        model: the same, parsed.
        batching: of the first.
        work: how long the other file may run.

    Raises:
        TooMuchWork: one sample, or all of them, take longer than that.
        BatchAxisUnknown: its inputs fix different numbers of samples, or more than share a call.
        ModelInvalid: ONNX Runtime does not load the file, or does not run it on a sample.
    """
    inputs = own_inputs(model.graph)
    axes = {value.name: batching.input_axis(value.name) for value in inputs}
    own = Batching(axes, {}, fixed_size(inputs, axes))
    run = TrialRun(file, threads, work)
    found = _without_first_axes(_with_outputs(run, own, samples, model, may_mix=True))
    run.check_all(_count(samples))
    return found


def _without_first_axes(batching: Batching) -> Batching:
    """Without the first axes, which need not be named."""
    inputs, outputs = ({n: a for n, a in axes.items() if a != 0} for axes in (batching.inputs, batching.outputs))
    return Batching(inputs, outputs, batching.size)


def _with_outputs(
    run: TrialRun, batching: Batching, samples: Arrays, model: onnx.ModelProto | None, *, may_mix: bool = False
) -> Batching:
    """With the axes of the outputs, and 1 as size where samples cannot share a call."""
    rows = _that_share(batching, samples)
    if batching.size is None and len(rows) > 1 and not (model is not None and _decides_for_calls(model.graph)):
        axes = _of_two(run, batching, samples, rows, model, may_mix)
        if axes is not None:
            return Batching(batching.inputs, axes, None)
    size = batching.size or 1
    if size > len(rows):
        if not batching.shares_calls(samples):
            raise BatchAxisUnknown(
                f"the network takes {size} samples in every call, and of the samples no more than {len(rows)} have the "
                "same lengths, or the same values where an input belongs to a whole call; export it with a dynamic "
                "batch or a batch of 1"
            )
        rows = [rows[place % len(rows)] for place in range(size)]  # too few samples are refused where they are split
    scaled = model is not None and _is_scaled_by_call(model)
    return Batching(batching.inputs, _of_fixed(run, batching, samples, rows[:size], may_mix or scaled), size)


def _of_fixed(
    run: TrialRun, batching: Batching, samples: Arrays, rows: Sequence[int], may_mix: bool
) -> dict[str, int | None]:
    """The axes of the samples in the outputs of a call of exactly so many."""
    size = len(rows)
    results = run(_call(batching, samples, rows), size)
    axes = {name: _of_length(size, result) for name, result in zip(run.outputs, results, strict=True)}
    other = None if size == 1 or may_mix else _another(batching, samples, rows)
    if other is None:
        return axes
    changed = run(_call(batching, samples, [*rows[:-1], other]), size)
    again = run(with_other_digits(_call(batching, samples, rows)), size)
    for name, *runs in zip(run.outputs, results, changed, again, strict=True):
        if axes[name] is None or runs[0].dtype.kind != "f" or len({each.shape for each in runs}) > 1:
            continue
        why = ""
        for axis in (axis for axis, length in enumerate(runs[0].shape) if length == size):
            before, after, rounded = (np.take(each, range(size - 1), axis) for each in runs)
            text = unlike(before, after, [rounded])
            if text is None:
                axes[name] = axis
                break
            why = why or text
        else:
            raise _mixed(name, why)
    return axes


def _another(batching: Batching, samples: Arrays, rows: Sequence[int]) -> int | None:
    """A sample that may share the call of `rows` and differs from the last of them."""
    for group in batching.groups(samples, _count(samples)):
        places = np.arange(_count(samples))[group]
        if rows[-1] in places:
            different = (
                int(place)
                for place in places
                if any(not np.array_equal(a[place], a[rows[-1]]) for a in samples.values())
            )
            return next(different, None)
    return None


def _mixed(name: str, why: str) -> SamplesMixed:
    return SamplesMixed(
        f"samples that share a call change each other's outputs: output {name!r} of one {why} for the same sample "
        "alone. Export the network without what mixes its batch (a Softmax or a norm over the batch axis, layers "
        'in training mode) or with a batch of 1; or state "inputs": {"NAME": {"batch_axis": null}} and send arrays '
        "in which each sample is a whole call"
    )


def _is_scaled_by_call(model: onnx.ModelProto) -> bool:
    return any(node.op_type in _SCALED_BY_CALL for node in nodes(model.graph))


def _of_two(
    run: TrialRun,
    batching: Batching,
    samples: Arrays,
    rows: Sequence[int],
    model: onnx.ModelProto | None,
    may_mix: bool,
) -> dict[str, int | None] | None:
    """The axes of the samples in the outputs of a call of two; None where samples have to run one by one."""
    alone = [run(_call(batching, samples, [row]), 1) for row in rows]
    try:
        together = run(_call(batching, samples, rows), len(rows))
    except (ModelInvalid, ModelTooLarge):
        return None  # it declares a free batch and takes a single sample all the same
    doubled = run(_call(batching, samples, [rows[0], rows[0]]), 2)
    again = run(with_other_digits(_call(batching, samples, rows[:1])), 1)
    axes: dict[str, int | None] = {}
    # rounding moves positions of maxima; they tell of mixing only where nothing else does
    floats = any(output.dtype.kind == "f" for output in together)
    for index, name in enumerate(run.outputs):
        parts = [results[index] for results in alone]
        axes[name], why = _axis(parts, together[index], doubled[index], again[index])
        if (
            model is not None
            and axes[name] is None
            and (_folded(parts, together[index]) or _merged(parts, together[index], again[index]))
        ):
            return None
        if why is None or may_mix or (floats and together[index].dtype.kind != "f"):
            continue
        if model is not None and _is_scaled_by_call(model):
            return None
        raise _mixed(name, why)
    return axes


def _count(samples: Arrays) -> int:
    return len(next(iter(samples.values())))


def _that_share(batching: Batching, samples: Arrays) -> list[int]:
    """Two different samples that may share a call, or as many as a call takes; one where none may."""
    groups = batching.groups(samples, _count(samples))
    rows = np.arange(_count(samples))[max(groups, key=lambda rows: len(np.arange(_count(samples))[rows]))]
    if batching.size is not None:
        return [int(row) for row in rows[: batching.size]]
    first = int(rows[0])
    different = (int(i) for i in rows[1:] if any(not np.array_equal(a[i], a[first]) for a in samples.values()))
    other = next(different, int(rows[1]) if len(rows) > 1 else None)
    return [first] if other is None else [first, other]


def _call(batching: Batching, samples: Arrays, rows: Sequence[int]) -> dict[str, NDArray[np.generic]]:
    return batching.call({name: array[list(rows)] for name, array in samples.items()})


def _axis(
    alone: Sequence[NDArray[np.generic]],
    together: NDArray[np.generic],
    doubled: NDArray[np.generic],
    again: NDArray[np.generic],
) -> tuple[int | None, str | None]:
    """The axis of the samples in an output; and where two samples change each other, how, with the likeliest axis.

    Args:
        alone: what two samples give alone.
        together: what they give in one call.
        doubled: what the first gives twice in one call: its rounding in a call of two.
        again: what the first gives alone with other last digits.
    """
    shape = alone[0].shape
    if shape != alone[1].shape or len(shape) != together.ndim:
        return None, None
    grown = [
        axis for axis in range(len(shape)) if together.shape == (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
    ]
    changes: list[tuple[int, str]] = []
    for axis in (axis for axis in grown if shape[axis] == 1):
        runs = [again, *(np.take(doubled, [place], axis) for place in (0, 1) if doubled.shape == together.shape)]
        ways = (unlike(part, np.take(together, [place], axis), runs) for place, part in enumerate(alone))
        change = next((text for text in ways if text is not None), None)
        if change is None:
            return axis, None
        changes.append((axis, change))
    return changes[0] if changes else (None, None)


def _folded(alone: Sequence[NDArray[np.generic]], together: NDArray[np.generic]) -> bool:
    """Whether an output holds several rows of each sample, one sample's after the other's: `[samples * T, classes]`.

    Such rows are a sample's own only in a call of one.
    """
    if together.dtype.kind != "f":
        return False
    first, second = (part.shape for part in alone)
    return any(
        together.shape == (*first[:axis], first[axis] + second[axis], *first[axis + 1 :])
        and 1 not in (first[axis], second[axis])
        and np.allclose(together, np.concatenate(alone, axis), rtol=FOLDED_RTOL, atol=FOLDED_ATOL, equal_nan=True)
        for axis in range(min(len(first), len(second), together.ndim))
        if (*first[:axis], *first[axis + 1 :]) == (*second[:axis], *second[axis + 1 :])
    )


def _merged(alone: Sequence[NDArray[np.generic]], together: NDArray[np.generic], again: NDArray[np.generic]) -> bool:
    """Whether an output has one shape however many samples a call has, and depends on them: what a sequence whose steps
    are taken for samples ends in. Along an axis of length 1 it is a sample's own in a call of one."""
    if 1 not in together.shape or any(part.shape != together.shape for part in alone):
        return False
    return any(unlike(part, together, [again]) is not None for part in alone)


def _decides_for_calls(graph: onnx.GraphProto) -> bool:
    """Whether an If or a Loop of the main graph has a condition that depends on the values of inputs, not on their
    shapes alone."""
    dependent = {value.name for value in own_inputs(graph)}
    for node in graph.node:
        conditions = {"If": node.input[:1], "Loop": node.input[:2]}.get(node.op_type, ())
        if dependent.intersection(conditions):
            return True
        if node.op_type not in ("Shape", "Size") and dependent.intersection(names_read(node)):
            dependent.update(node.output)
    return False


def _of_length(size: int, result: NDArray[np.generic]) -> int | None:
    return next((axis for axis, length in enumerate(result.shape) if length == size), None)
