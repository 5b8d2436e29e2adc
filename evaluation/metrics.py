"""How well the quantized network does compared with the float network, sample by sample.

| metric    | float value | quantized value | drop (larger is worse) | a relative drop is divided by |
|-----------|-------------|-----------------|------------------------|-------------------------------|
| top1      | accuracy    | accuracy        | float - quantized      | the float accuracy            |
| agreement | 1           | same class      | 1 - quantized          | 1                             |
| kl        | 0           | mean KL, nats   | quantized              | mean entropy of float, nats   |
| cosine    | 1           | mean cosine     | 1 - quantized          | 1                             |

Every value is a mean over samples of per-sample numbers, so that differences are paired. Outputs are
`[samples, ..., classes]`; positions between the two axes are averaged within their sample, because they depend on
each other and only samples are drawn independently.

A value of the quantized network that is not finite counts as the worst: a wrong class, `UNUSABLE_KL` (which also caps
every other divergence), cosine -1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from evaluation.dataset import check_labels
from evaluation.errors import MetricNotApplicable

Output = NDArray[np.generic]
Scores = NDArray[np.float64]

UNUSABLE_KL = 100.0
# A softmax in float32 underflows to zero; what lies below this cannot be distinguished from it.
SMALLEST_PROBABILITY = 1e-12
_CHUNK_ELEMENTS = 1 << 20


class Metric(StrEnum):
    TOP1 = "top1"
    AGREEMENT = "agreement"
    KL = "kl"
    COSINE = "cosine"


# what the contribution of one sample can be
CONTRIBUTION_BOUNDS = {
    Metric.TOP1: (-1.0, 1.0),
    Metric.AGREEMENT: (0.0, 1.0),
    Metric.KL: (0.0, UNUSABLE_KL),
    Metric.COSINE: (0.0, 2.0),
}


class DropKind(StrEnum):
    """`absolute`: the drop itself. `relative`: divided as the table says; for a kl, nats per nat."""

    ABSOLUTE = "absolute"
    RELATIVE = "relative"


@dataclass(frozen=True, eq=False)
class Measurement:
    """A metric of both networks on the same samples.

    `contributions` [samples] are the drops of each sample, `references` [samples] what a relative drop is divided by;
    the drop is the mean of the first, or the ratio of the two sums. `counts` says whether each sample is either right
    or wrong (contributions -1, 0, 1), so that the drop is a difference of proportions.
    """

    metric: Metric
    float_value: float
    quantized_value: float
    contributions: Scores
    references: Scores
    counts: bool

    def __post_init__(self) -> None:
        if self.contributions.ndim != 1 or self.contributions.shape != self.references.shape:
            raise ValueError(
                "contributions and references must be [samples], got "
                f"{self.contributions.shape} and {self.references.shape}"
            )
        if len(self.contributions) == 0:
            raise ValueError("a measurement needs at least one sample")

    @classmethod
    def joined(cls, parts: Sequence[Measurement]) -> Measurement:
        """One measurement of several on different samples, by the same metric; at least one."""
        weights = np.array([part.samples for part in parts], dtype=np.float64)
        weights /= weights.sum()
        return cls(
            parts[0].metric,
            float(weights @ [part.float_value for part in parts]),
            float(weights @ [part.quantized_value for part in parts]),
            np.concatenate([part.contributions for part in parts]),
            np.concatenate([part.references for part in parts]),
            parts[0].counts,
        )

    @property
    def samples(self) -> int:
        return len(self.contributions)

    @property
    def right_to_wrong(self) -> int | None:
        """Samples that the float network had right and the quantized network has wrong; None unless `counts`."""
        return int((self.contributions > 0).sum()) if self.counts else None

    @property
    def wrong_to_right(self) -> int | None:
        return int((self.contributions < 0).sum()) if self.counts else None

    def drop(self, kind: DropKind = DropKind.ABSOLUTE) -> float:
        """The drop; larger is worse, negative when the quantized network does better.

        Raises:
            MetricNotApplicable: a relative drop of something that is 0.
        """
        if kind is DropKind.ABSOLUTE:
            return float(self.contributions.sum() / self.samples)
        total = self.references.sum()
        if total <= 0:
            raise MetricNotApplicable(
                f"a relative drop of {self.metric} needs something to lose, but the float network has "
                f"{total / self.samples:g}; ask for an absolute drop"
            )
        return float(self.contributions.sum() / total)

    def stderr(self, kind: DropKind = DropKind.ABSOLUTE) -> float:
        """Standard error of the drop from the paired differences; of a ratio by the delta method.

        NaN for a single sample.
        """
        if self.samples < 2:
            return float("nan")
        if kind is DropKind.ABSOLUTE:
            return float(self.contributions.std(ddof=1) / np.sqrt(self.samples))
        residuals = self.contributions - self.drop(kind) * self.references
        return float(residuals.std(ddof=1) / np.sqrt(self.samples) / self.references.mean())


def measure(
    metric: Metric | str, float_output: Output, quantized_output: Output, labels: NDArray[np.int64] | None = None
) -> Measurement:
    """`metric` of both networks from their outputs on the same samples.

    Args:
        metric: which.
        float_output, quantized_output: `[samples, ..., classes]` floats (cosine: any shape with samples first).
        labels: classes, `[samples]` or, for outputs `[samples, positions, classes]`, `[samples, positions]`; top1 only.

    Raises:
        MetricNotApplicable: outputs or labels that the metric is not made for; a float output that is not finite.
        DatasetLabelsOutOfRange: labels that are not classes of the network.
    """
    metric = Metric(metric)
    if float_output.shape != quantized_output.shape:
        raise MetricNotApplicable(
            f"the outputs differ in shape: float {list(float_output.shape)}, quantized {list(quantized_output.shape)}; "
            "expected those of the same samples"
        )
    if float_output.dtype.kind != "f":
        raise MetricNotApplicable(
            f"the first output holds {float_output.dtype}; {metric} needs floats such as logits: export the network "
            "without ArgMax at its end"
        )
    if metric is Metric.TOP1:
        return top1(float_output, quantized_output, labels)
    return {Metric.AGREEMENT: agreement, Metric.KL: kl, Metric.COSINE: cosine}[metric](float_output, quantized_output)


def default_metric(output_shape: tuple[int | None, ...], labels: bool, targets: bool) -> Metric:
    """top1 with labels; without, agreement for what looks like a classifier ([samples, 2 or more]), else cosine."""
    if labels:
        return Metric.TOP1
    classes = output_shape[-1] if len(output_shape) == 2 else 1
    return Metric.AGREEMENT if not targets and (classes is None or classes >= 2) else Metric.COSINE


def top1(float_output: Output, quantized_output: Output, labels: NDArray[np.int64] | None) -> Measurement:
    """Accuracy of the class with the highest output; the first of equals wins, in both networks alike."""
    if labels is None:
        raise MetricNotApplicable("top1 needs labels and the data have none; add `labels`, or use agreement")
    _require_classes(Metric.TOP1, float_output)
    if labels.shape != float_output.shape[:-1]:
        raise MetricNotApplicable(
            f"labels have the shape {list(labels.shape)}, the network's output {list(float_output.shape)}; expected "
            f"labels {list(float_output.shape[:-1])}, one for each prediction"
        )
    check_labels(labels, float_output.shape[-1])
    before = _over_samples(_classes(float_output) == labels)
    after = _over_samples(_classes(quantized_output) == labels)
    return Measurement(
        Metric.TOP1, float(before.mean()), float(after.mean()), before - after, before, counts=float_output.ndim == 2
    )


def agreement(float_output: Output, quantized_output: Output) -> Measurement:
    """Share of predictions with the same class as the float network's."""
    _require_classes(Metric.AGREEMENT, float_output)
    _require_finite_float(Metric.AGREEMENT, float_output)
    same = _over_samples(_classes(float_output) == _classes(quantized_output))
    return Measurement(
        Metric.AGREEMENT, 1.0, float(same.mean()), 1.0 - same, np.ones_like(same), counts=float_output.ndim == 2
    )


def kl(float_output: Output, quantized_output: Output) -> Measurement:
    """Mean `KL(p || q)` in nats, p and q the softmax of the float and the quantized output over the last axis.

    An output that already is a distribution everywhere (not negative, sums of 1) is used unchanged: softmax of a
    softmax would hide most of the damage.
    """
    _require_classes(Metric.KL, float_output)
    _require_finite_float(Metric.KL, float_output)
    probabilities = are_probabilities(float_output)
    divergences, entropies = [], []
    for before, after in _chunks(float_output, quantized_output):
        with np.errstate(invalid="ignore", divide="ignore"):
            log_p, log_q = (log_softmax(logits_of(part, probabilities), axis=-1) for part in (before, after))
            p = np.exp(log_p)
            # 0 log 0 is 0: a class that the float network rules out costs nothing.
            divergence = np.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
            entropies.append(_over_samples(-np.where(p > 0, p * log_p, 0.0).sum(-1)))
        usable = np.isfinite(divergence)
        # Rounding leaves about -1e-16 where the divergence is 0.
        divergences.append(_over_samples(np.where(usable, np.clip(divergence, 0.0, UNUSABLE_KL), UNUSABLE_KL)))
    contributions = np.concatenate(divergences)
    return Measurement(
        Metric.KL, 0.0, float(contributions.mean()), contributions, np.concatenate(entropies), counts=False
    )


def cosine(float_output: Output, quantized_output: Output) -> Measurement:
    """Mean cosine between the outputs of each sample, flattened; 1 where both are zero, 0 where only one is."""
    if float_output.ndim == 0 or len(float_output) == 0:
        raise MetricNotApplicable(f"cosine needs samples, got outputs {list(float_output.shape)}")
    _require_finite_float(Metric.COSINE, float_output)
    parts = []
    for before, after in _chunks(float_output, quantized_output):
        x, y = before.reshape(len(before), -1), after.reshape(len(after), -1)
        with np.errstate(invalid="ignore", over="ignore"):
            norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
            product = norms[0] * norms[1]
            cosines = np.divide((x * y).sum(1), product, out=np.zeros(len(x)), where=product > 0)
        cosines[(norms[0] == 0) & (norms[1] == 0)] = 1.0
        cosines[~np.isfinite(y).all(1)] = -1.0
        parts.append(np.clip(cosines, -1.0, 1.0))
    cosines = np.concatenate(parts)
    return Measurement(Metric.COSINE, 1.0, float(cosines.mean()), 1.0 - cosines, np.ones_like(cosines), counts=False)


def _require_classes(metric: Metric, output: Output) -> None:
    if output.ndim < 2 or len(output) == 0 or output.shape[-1] < 2:
        raise MetricNotApplicable(
            f"{metric} needs an output [samples, ..., classes] with at least 2 classes, got {list(output.shape)}; "
            "use cosine"
        )


def _require_finite_float(metric: Metric, output: Output) -> None:
    """Minus infinity is what a masked class has; in a whole row, or for cosine, it is as useless as NaN."""
    rows = output.reshape(len(output), -1) if metric is Metric.COSINE else output
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(rows).all(-1) if metric is Metric.COSINE else np.isfinite(rows.max(-1))
    if not usable.all():
        sample = int(np.argmin(_over_samples(np.asarray(usable))))
        raise MetricNotApplicable(
            f"the float network gives NaN or infinity for sample {sample}; {metric} cannot be measured against that: "
            "check the network and this sample"
        )


def _classes(output: Output) -> NDArray[np.int64]:
    """Class of each prediction; -1, which is not a class, where the outputs have a NaN or no highest number."""
    best = output.argmax(-1)
    unusable = ~(output.max(-1) > -np.inf)
    return np.where(unusable | np.isposinf(output.max(-1)), -1, best)


def _over_samples(values: NDArray[np.generic]) -> Scores:
    """Mean over everything but the sample axis."""
    return np.asarray(values.reshape(len(values), -1).mean(1, dtype=np.float64))


def _chunks(*outputs: Output) -> Iterator[tuple[Scores, ...]]:
    """The outputs in float64, some samples at a time: outputs over vocabularies are large."""
    rows = max(1, _CHUNK_ELEMENTS // max(1, outputs[0][:1].size))
    for start in range(0, len(outputs[0]), rows):
        yield tuple(output[start : start + rows].astype(np.float64) for output in outputs)


def are_probabilities(output: Output) -> bool:
    """Whether `[samples, ..., classes]` holds a distribution everywhere, as past a softmax."""
    return all(bool((chunk >= 0).all() and (np.abs(chunk.sum(-1) - 1.0) < 1e-3).all()) for (chunk,) in _chunks(output))


def logits_of(output: Output, probabilities: bool) -> Scores:
    """An output in float64 as logits; of probabilities their logarithms."""
    values = output.astype(np.float64, copy=False)
    return np.asarray(np.log(np.maximum(values, SMALLEST_PROBABILITY))) if probabilities else values
