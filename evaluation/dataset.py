"""The user's samples: read safely, matched with the graph's inputs, checked, and split once.

Arrays lie in a file (`evaluation.forms`) by graph input name, sample axis first and behind it all axes of the input
(each sample is a call) or all but that of its batch, with what is right beside them: `labels` (classes), `targets`
(values) and `boxes`, each also for one output alone (`labels.NAME`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.archive import Archive, ArrayHeader
from evaluation.array_values import chunks, converted, first_index, index_text, is_finite, kind_of, true_values
from evaluation.errors import (
    DatasetLabelsOutOfRange,
    DatasetSampleCounts,
    DatasetShapeMismatch,
    DatasetTooFewSamples,
    DatasetWrongNames,
)
from evaluation.forms.opening import open_archive
from evaluation.metrics.truth import Truth
from evaluation.sample_groups import groups_of, joined_inputs, joined_truth
from network.batching import axes_for_samples
from network.errors import ShapesNotFixed
from network.tensor_spec import TensorSpec

MIN_SAMPLES = 48
"""Fewer cannot be split into calibration, search and held-out samples."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of a network: arrays by graph input name, `[samples, ...]`, in the dtypes of the inputs; of samples of
    different lengths an array of arrays.

    `truth` is what the data say is right.

    Raises:
        DatasetSampleCounts: the arrays disagree on the number of samples, or there is none.
    """

    inputs: Mapping[str, NDArray[np.generic]]
    truth: Truth = field(default_factory=Truth)

    def __post_init__(self) -> None:
        shapes = {name: array.shape for name, array in self.inputs.items()}
        _check_counts(shapes | {name: array.shape for name, array in self.truth.arrays.items()})

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Classes of the whole network, int64 `[samples, ...]`."""
        return self.truth.labels()

    @property
    def samples(self) -> int:
        return len(next(iter(self.inputs.values())))

    def not_finite(self) -> NDArray[np.int64]:
        """The samples of which an input holds NaN or an infinity; ascending."""
        bad = np.zeros(self.samples, dtype=np.bool_)
        for array in self.inputs.values():
            if array.dtype == object:
                bad |= [not is_finite(sample) for sample in array]
            if array.dtype.kind == "f":
                for rows in chunks(array):
                    bad[rows] |= ~np.isfinite(array[rows]).reshape(len(array[rows]), -1).all(1)
        return np.flatnonzero(bad)

    def first_not_finite(self, sample: int) -> str:
        """Where the first NaN or infinity of that sample stands, and what it is."""
        for name, array in self.inputs.items():
            values = np.asarray(array[sample])
            if not is_finite(values):
                place = first_index(~np.isfinite(values))
                return f"{name}[{index_text((sample, *place))}] is {values[place]}"
        raise ValueError(f"all values of sample {sample} are finite; expected one of `not_finite`")

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """The samples at `indices`, in this order."""
        return Dataset({name: array[indices] for name, array in self.inputs.items()}, self.truth.take(indices))

    def truth_with(self, inputs: Collection[str]) -> Truth:
        """The truth, with these inputs of the network, which a metric of one's own reads."""
        return replace(self.truth, inputs={name: self.inputs[name] for name in inputs})


def read_dataset(
    path: Path | str, inputs: Sequence[TensorSpec], max_bytes: int, extra: Collection[str] | None = ()
) -> Dataset:
    """The samples at `path`, in any of the forms, for a graph with these `inputs`; all arrays take at most `max_bytes`.

    Args:
        extra: names of further arrays that a metric of one's own reads; they are part of the truth as they are. None:
            whatever there is, which `check_names` judges once it is known what the metric reads.

    Rules:
        Names: every graph input has its array and there is no other array but `labels`, `targets` and `boxes`, each
        alone or followed by a dot and the name of an output, and those in `extra`; with one graph input its array may
        have any name, if nothing else is there that could be it.
        Constants: an array of one sample, or a single number, beside others of more is the same for all samples.
        Groups: samples of other lengths are arrays of another group (`evaluation.sample_groups`).
        Types: floats go to float inputs of any width as long as they do not overflow, integers to integer inputs as
        long as they fit, booleans anywhere. Integers are not taken for a float input: raw pixels would silently
        stand in for normalised ones. NaN and infinities are taken: whether the network has numbers for these samples,
        its outputs say.
        Labels: integers, or floats that are whole numbers (as text files and data frames give them).

    Raises:
        DatasetError: its subclass says which rule was broken.
        OSError: the file cannot be opened.
    """
    with open_archive(path, max_bytes) as archive:
        roles = _roles_of_groups(archive, inputs, extra)
        arrays = {
            spec.name: joined_inputs(
                [_repeated(converted(archive.read(n[spec.name]), n[spec.name], spec), count) for n, _, count in roles]
            )
            for spec in inputs
        }
        right = [{name: true_values(archive.read(own), name) for name, own in truth.items()} for _, truth, _ in roles]
    return Dataset(arrays, Truth(right[0] if len(right) == 1 else joined_truth(right)))


def check_headers(
    path: Path | str, inputs: Sequence[TensorSpec], max_bytes: int, extra: Collection[str] | None = ()
) -> None:
    """Refuse what `read_dataset` refuses for names, shapes and counts, which the headers of the arrays say.

    Raises:
        DatasetError, OSError: as `read_dataset`.
    """
    with open_archive(path, max_bytes) as archive:
        _roles_of_groups(archive, inputs, extra)


def _roles_of_groups(
    archive: Archive, inputs: Sequence[TensorSpec], extra: Collection[str] | None
) -> list[tuple[dict[str, str], dict[str, str], int]]:
    """`_roles_in_group` of every group."""
    groups = groups_of(archive.headers, [spec.name for spec in inputs])
    roles = [_roles_in_group(archive, members, inputs, extra) for members in groups]
    samples = sum(count for _, _, count in roles)
    if samples < MIN_SAMPLES:
        raise DatasetTooFewSamples(
            f"the data hold {samples} samples, at least {MIN_SAMPLES} are needed: they are split into "
            "calibration, search and held-out samples; a few thousand give a sharp certificate"
        )
    truths = {tuple(sorted(truth)) for _, truth, _ in roles}
    if len(truths) > 1:
        raise DatasetWrongNames(
            "the groups of the data hold different arrays beside the inputs of the network: "
            f"{' and '.join(_listing(list(names)) for names in sorted(truths))}; save the same in every group"
        )
    return roles


def _roles_in_group(
    archive: Archive, members: Mapping[str, str], inputs: Sequence[TensorSpec], extra: Collection[str] | None
) -> tuple[dict[str, str], dict[str, str], int]:
    """The members that feed each graph input, those that hold the truth, by name, and the number of samples.

    Args:
        members: of one group, by their names within it.
    """
    headers = {name: archive.headers[member] for name, member in members.items()}
    names, truth = _roles(headers, inputs, extra)
    for spec in inputs:
        _check_shape(headers[names[spec.name]], spec)
    varying = [name for name in names.values() if not _is_constant(headers[name])] or list(names.values())
    samples = _check_counts({members[name]: headers[name].shape for name in (*varying, *truth)})
    fed = {name: members[own] for name, own in names.items()}
    return fed, {name: members[name] for name in truth}, samples


def check_names(dataset: Dataset, extra: Collection[str]) -> None:
    """Refuse further arrays that nothing reads: what was meant to be `labels` must not pass under another name.

    Args:
        extra: names of those that a metric of one's own reads.

    Raises:
        DatasetWrongNames: names them.
    """
    foreign = [name for name in dataset.truth.arrays if kind_of(name) is None and name not in extra]
    if foreign:
        raise DatasetWrongNames(
            f"the data hold the arrays {_listing(foreign)}, which are no input of the network and which the metric "
            f"graph does not read (of such arrays it reads {_listing(list(extra))}); leave them out, or name an input "
            "of the graph after each"
        )


def check_labels(labels: NDArray[np.int64], classes: int) -> None:
    """Labels must be classes of the network, 0 to `classes - 1`, or below 0 where a position does not count.

    Raises:
        DatasetLabelsOutOfRange: names the first label that is not; or no label counts.
    """
    lowest, highest = int(labels.min()), int(labels.max())
    if highest < 0:
        raise DatasetLabelsOutOfRange(
            f"all labels are below 0, which marks what does not count; expected classes 0 to {classes - 1}"
        )
    wrong = labels >= classes
    if not wrong.any():
        return
    first = first_index(wrong)
    if lowest == 1 and highest == classes:
        remedy = "they seem to count from 1: subtract 1"
    else:
        remedy = "check that the labels belong to this network; what does not count is marked -1"
    raise DatasetLabelsOutOfRange(
        f"labels[{index_text(first)}] is {int(labels[first])}, labels go from {lowest} to {highest}; the network has "
        f"{classes} classes, so expected 0 to {classes - 1}: {remedy}"
    )


def synthesize(inputs: Sequence[TensorSpec], samples: int, seed: int) -> Dataset:
    """Samples made from the graph's shapes: standard normal floats; 0 or 1 for integers, which every vocabulary has.

    Args:
        inputs: the graph's inputs; the first axis is the sample axis whatever the graph says of it. A scalar is 1 in
            all samples: it belongs to the whole call.
        samples: how many, at least 1.
        seed: the same seed gives the same samples.

    Raises:
        ShapesNotFixed: another axis than the first is unknown.
        ValueError: `samples` is not positive.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.generic]] = {}
    for spec in inputs:
        if any(length is None for length in spec.shape[1:]):
            raise ShapesNotFixed(
                f"input {spec.name!r} has the shape {_shape(spec.shape)}; without data every axis but the first must "
                "be known: send a dataset, or export the network with fixed shapes"
            )
        shape = (samples, *(length for length in spec.shape[1:] if length is not None))
        dtype = np.dtype(spec.dtype)
        if not spec.shape:
            arrays[spec.name] = np.ones(shape, dtype)
        elif dtype.kind == "f":
            arrays[spec.name] = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        elif dtype.kind == "b":
            arrays[spec.name] = generator.integers(0, 2, shape).astype(dtype)
        else:
            arrays[spec.name] = generator.integers(0, 1, shape, dtype=dtype, endpoint=True)
    return Dataset(arrays)


def _roles(
    headers: Mapping[str, ArrayHeader], inputs: Sequence[TensorSpec], extra: Collection[str] | None
) -> tuple[dict[str, str], list[str]]:
    """Which array feeds which graph input, and which hold the truth. A graph input may itself be called `labels`."""
    wanted = [spec.name for spec in inputs]
    if extra is None:
        extra = headers.keys() if headers.keys() >= set(wanted) else ()
    truth = [name for name in headers if name not in wanted and (kind_of(name) is not None or name in extra)]
    given = [name for name in headers if name not in truth]
    if len(wanted) == 1 and len(given) == 1:
        return {wanted[0]: given[0]}, truth
    if set(given) != set(wanted):
        raise _wrong_names(given, wanted)
    return {name: name for name in wanted}, truth


def _wrong_names(given: Sequence[str], wanted: Sequence[str]) -> DatasetWrongNames:
    missing = [name for name in wanted if name not in given]
    foreign = [name for name in given if name not in wanted]
    return DatasetWrongNames(
        f"the data hold the arrays {_listing(given)}, the network's inputs are {_listing(wanted)}"
        + (f"; missing: {_listing(missing)}" if missing else "")
        + (f"; not an input: {_listing(foreign)}" if foreign else "")
        + ". Save one array for each input under its name, and labels, targets or boxes beside them"
    )


def _is_constant(header: ArrayHeader) -> bool:
    return header.shape[:1] in ((), (1,))


def _repeated(array: NDArray[np.generic], samples: int) -> NDArray[np.generic]:
    """What is the same for all samples, for each of them."""
    if array.ndim and len(array) == samples:
        return array
    return np.ascontiguousarray(np.broadcast_to(array, (samples, *array.shape[1:])))


def _check_shape(header: ArrayHeader, spec: TensorSpec) -> None:
    """Behind the sample axis come all axes of the input, or all but one that may hold the samples: the lengths that are
    known must agree."""
    sample = header.shape[1:]
    axes = axes_for_samples(spec.shape) if len(header.shape) == len(spec.shape) > 0 else [None]
    whole = [[length for place, length in enumerate(spec.shape) if place != axis] for axis in axes]
    if (not header.shape and spec.shape) or not any(
        len(lengths) == len(sample) and all(want in (None, got) for want, got in zip(lengths, sample, strict=True))
        for lengths in whole
    ):
        expected = _shape((None, *spec.shape[1:])) if spec.shape else "[any]: a number for each sample"
        raise DatasetShapeMismatch(
            f"array {header.name!r} has the shape {_shape(header.shape)}, input {spec.name!r} takes {expected}, the "
            "sample axis first: bring the array into this shape"
        )


def _check_counts(shapes: Mapping[str, tuple[int, ...]]) -> int:
    counts = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
    if len(set(counts.values())) != 1:
        listing = ", ".join(f"{name!r}: {count}" for name, count in counts.items())
        raise DatasetSampleCounts(
            f"the arrays differ in their number of samples ({listing}); every array has its samples along the first "
            "axis, in the same order: save them from the same selection"
        )
    samples = next(iter(counts.values()))
    if samples == 0:
        raise DatasetSampleCounts("the arrays hold no sample; expected samples along the first axis")
    return samples


def _shape(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"


def _listing(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(repr(name[:80]) for name in names[:most]) or "none") + more
