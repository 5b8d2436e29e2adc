"""What a metric is asked: the outputs of both networks on the same samples, and what is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.measurement import Measurement, Output, Scores, Unit
from evaluation.metrics.truth import Truth

# A softmax in float32 underflows to zero; what lies below this cannot be distinguished from it.
SMALLEST_PROBABILITY = 1e-12
_CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True, eq=False)
class Pair:
    """The outputs that a metric reads, by name and in its order, `[samples, ...]` each; `options` as requested."""

    names: tuple[str, ...]
    before: tuple[Output, ...]
    after: tuple[Output, ...]
    truth: Truth = field(default_factory=Truth)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, before, after in zip(self.names, self.before, self.after, strict=True):
            if before.shape != after.shape:
                raise MetricNotApplicable(
                    f"the outputs differ in shape: {name!r} is {list(before.shape)} of the float network and "
                    f"{list(after.shape)} of the quantized; expected those of the same samples"
                )
            if _family(before) != _family(after):
                raise MetricNotApplicable(
                    f"the outputs differ in type: {name!r} holds {before.dtype} of the float network and "
                    f"{after.dtype} of the quantized; expected the same: keep the types of the outputs"
                )

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def single(self) -> tuple[Output, Output]:
        """The only output, of both networks."""
        if len(self.names) != 1:
            raise MetricNotApplicable(f"the metric reads one output, got {list(self.names)}; name one in `outputs`")
        return self.before[0], self.after[0]

    @property
    def samples(self) -> int:
        return len(self.before[0])


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Args:
        measure: one measurement for each channel group that it looks at, mostly one.
        truth: which of `labels`, `targets`, `boxes` it compares with; without them with the float network.
        needs_truth: it has no meaning without.
        share: whether the drop is a fraction, so that a budget is below 1.
        options: what a request may say to it.
        several: it reads several outputs together.
        generic: it is made for any output of floats, so that it looks at all of them.
    """

    name: str
    measure: Callable[[Pair], Sequence[Measurement]]
    truth: tuple[str, ...] = ()
    needs_truth: bool = False
    unit: Unit = Unit.SHARE
    options: tuple[str, ...] = ()
    several: bool = False
    generic: bool = False

    @property
    def share(self) -> bool:
        return self.unit is Unit.SHARE


def require_floats(metric: str, name: str, output: Output) -> None:
    if output.dtype.kind != "f":
        raise MetricNotApplicable(
            f"output {name!r} holds {output.dtype}; {metric} needs floats such as logits: export the network without "
            "ArgMax at its end, or take the metric same"
        )


def require_finite_float(metric: str, name: str, rows: Output) -> None:
    """Refuse a float network that gives no number: `rows` `[samples, ...]`, what the metric reads of output `name`."""
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(rows).reshape(len(rows), -1).all(-1)
    if not usable.all():
        raise MetricNotApplicable(
            f"the float network gives NaN or infinity in output {name!r} for sample {int(np.argmin(usable))}; {metric} "
            "cannot be measured against that: check the network and this sample"
        )


def _family(output: Output) -> str:
    """Types that can be compared with each other: integers of any width, strings of any length."""
    return {"i": "integers", "u": "integers", "b": "integers", "U": "strings", "S": "strings", "O": "strings"}.get(
        output.dtype.kind, output.dtype.kind
    )


def over_samples(values: Output) -> Scores:
    """Mean over everything but the sample axis."""
    return np.asarray(values.reshape(len(values), -1).mean(1, dtype=np.float64))


def chunks(*outputs: Output) -> Iterator[tuple[Scores, ...]]:
    """The outputs in float64, some samples at a time: outputs over vocabularies are large."""
    rows = max(1, _CHUNK_ELEMENTS // max(1, outputs[0][:1].size))
    for start in range(0, len(outputs[0]), rows):
        yield tuple(output[start : start + rows].astype(np.float64) for output in outputs)


def classes_last(output: Output, axis: int | None) -> Output:
    """The output with its axis of classes moved to the end."""
    return output if axis is None or axis in (-1, output.ndim - 1) else np.moveaxis(output, axis, -1)


def are_probabilities(output: Output) -> bool:
    """Whether `[samples, ..., classes]` holds a distribution everywhere, as past a softmax."""
    return all(bool((chunk >= 0).all() and (np.abs(chunk.sum(-1) - 1.0) < 1e-3).all()) for (chunk,) in chunks(output))


def logits_of(output: Output, probabilities: bool) -> Scores:
    """An output in float64 as logits; of probabilities their logarithms."""
    values = output.astype(np.float64, copy=False)
    return np.asarray(np.log(np.maximum(values, SMALLEST_PROBABILITY))) if probabilities else values
