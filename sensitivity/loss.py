"""The loss whose rise is called damage: a sum of terms, each about the channels of one output.

    L = sum_t weight_t L_t,        L_t one of the kinds below.

`kl`: `KL(softmax(z_float) || softmax(z))` in nats, for classes that exclude each other; `bernoulli`: the divergence of
`sigmoid(z)`, for scores of which each is a yes or no; `kl_probabilities`, `bernoulli_probabilities`: the same where the
output is past its softmax or sigmoid; `squared_error`: half the squared change, for everything else.

All are zero with zero gradient at the float weights, so HAWQ's first assumption holds exactly there, and their Hessian
in the weights is the Gauss-Newton matrix `J' B' B J`, which is positive semidefinite; `B' B` is the Hessian in the
outputs. `root_times` gives `B dz`, `transposed_root_times` gives `B' u`. Terms add up, so the rows of B are those of
the terms one below the other, each times the square root of its weight.

An output is `[samples, ...]`. One axis of a term holds its classes or channels; all others are positions. What one term
counts is comparable with what another does:

- kl: the mean over positions: each position is one prediction. A network that knows nothing loses at most `log(C)`.
- bernoulli: the mean over positions and channels: each score is a prediction of its own. A network that knows only how
  often the answer is yes loses at most `log(2)` a score. A sum over channels would count 80 scores of one box 80 times.
- squared_error with `scales`: `1/2 mean (dz / scale)^2` over positions and channels. With each channel's standard
  deviation as scale, the mean outputs lose 1/2, the outputs of another sample 1, in whatever units the channels are.
- squared_error without: `1/2 ||dz||^2`, the sum over the whole output in its own units.

Where the float network's own output is not a number, nothing can be lost. An output that is not a number although the
float network's is loses without bound: `sample_loss` is infinite there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from network.errors import ModelInvalid, ShapesNotFixed

Array = NDArray[np.float32] | NDArray[np.float64]
Floats = NDArray[np.float64]

# A softmax in float32 underflows to zero; what lies below this cannot be told from it.
SMALLEST_PROBABILITY = 1e-12
# Of a logit: exp(-100) is no probability any more. Keeps a class that one network masks with -inf a finite loss.
LARGEST_CHANGE = 100.0


class Kind(StrEnum):
    """What a term measures; `kl` for logits over classes, `kl_probabilities` for outputs of a softmax, and so on."""

    KL = "kl"
    KL_PROBABILITIES = "kl_probabilities"
    BERNOULLI = "bernoulli"
    BERNOULLI_PROBABILITIES = "bernoulli_probabilities"
    SQUARED_ERROR = "squared_error"

    @property
    def about_classes(self) -> bool:
        """Whether the channels are classes that exclude each other."""
        return self in (Kind.KL, Kind.KL_PROBABILITIES)


@dataclass(frozen=True)
class Term:
    """One term of the loss.

    Args:
        output: the name of a network output of floats, `[samples, ...]`.
        kind: what is measured.
        weight: the factor of this term in the loss, above 0.
        axis: the axis of classes or channels, not 0; an output `[samples]` has one channel.
        channels: only `[start, stop)` of `axis`; None for all.
        scales: of `squared_error`, what each channel of the term is divided by, or one number for all; () for the sum
            in the output's units.

    Raises:
        ValueError: an argument lies outside its range.
    """

    output: str
    kind: Kind
    weight: float = 1.0
    axis: int = -1
    channels: tuple[int, int] | None = None
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        about = f"the {self.kind} of output {self.output!r}"
        if not 0 < self.weight < math.inf:
            raise ValueError(f"{about} has the weight {self.weight}; expected a finite number above 0")
        if self.axis == 0:
            raise ValueError(f"{about} has its channels along axis 0; expected another, that one holds the samples")
        if self.channels is not None and not 0 <= self.channels[0] < self.channels[1]:
            raise ValueError(f"{about} has the channels {self.channels}; expected 0 <= start < stop")
        if self.scales and self.kind is not Kind.SQUARED_ERROR:
            raise ValueError(f"{about} has scales; expected none, only squared_error is measured in scales")
        if not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"{about} has the scales {self.scales}; expected finite numbers above 0")

    def document(self) -> dict[str, Any]:
        """The term as JSON has it."""
        return {
            "output": self.output,
            "kind": self.kind.value,
            "weight": self.weight,
            "axis": self.axis,
            "channels": None if self.channels is None else list(self.channels),
            "scales": list(self.scales),
        }

    def sample_loss(self, outputs: Array, references: Array) -> Floats:
        """What every sample loses, `[samples]`, times the weight."""
        z, reference = self._blocks(outputs, references)
        with np.errstate(invalid="ignore", over="ignore"):
            loss = _SAMPLE_LOSSES[self.kind](self, z, reference)
        loss = np.where(np.isnan(loss), math.inf, loss)
        return loss if self.weight == 1 else self.weight * loss

    def root_times(self, outputs: Array, references: Array) -> Floats:
        """`B dz` of this term, `[samples, length]`."""
        z, reference = self._blocks(outputs, references)
        with np.errstate(invalid="ignore", over="ignore"):
            root = _ROOTS[self.kind](self, z, reference)
        if self.weight != 1:
            root *= math.sqrt(self.weight)
        return np.asarray(root.reshape(len(root), math.prod(root.shape[1:])))

    def transposed_root_times(self, u: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """`B' u` of this term for `u` `[samples, length]`, in the shape of the output."""
        axis, block = self._axis(reference.shape), self.block_shape(reference.shape)
        flat = reference.dim() == 1
        moved = (reference[:, None] if flat else reference).movedim(axis, -1)
        start, stop = self._range(moved.shape[-1])
        weighted = _transposed(self, u.reshape(block), moved[..., start:stop])
        if self.weight != 1:
            weighted = weighted * math.sqrt(self.weight)
        if weighted.shape != moved.shape:
            weighted = torch.nn.functional.pad(weighted, (start, moved.shape[-1] - stop))
        return weighted[:, 0] if flat else weighted.movedim(-1, axis)

    def block_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """`[samples, ..., channels]`: what the term sees of an output of this shape, its channels last.

        Raises:
            ValueError: the output has no such axis or channels, or another number of them than there are scales.
        """
        axis = self._axis(shape)
        whole = (*shape, 1) if len(shape) == 1 else tuple(shape)
        start, stop = self._range(whole[axis])
        if self.scales and len(self.scales) not in (1, stop - start):
            raise ValueError(
                f"output {self.output!r} has {stop - start} channels in this term; expected {len(self.scales)}, one "
                "for each scale"
            )
        return (*whole[:axis], *whole[axis + 1 :], stop - start)

    def _axis(self, shape: Sequence[int]) -> int:
        """The place of the axis of channels, counted from the front."""
        rank = max(len(shape), 2)
        axis = self.axis % rank if -rank <= self.axis < rank else 0
        if axis == 0 or not shape:
            raise ValueError(
                f"output {self.output!r} of shape {list(shape)} has no axis {self.axis} for channels behind its samples"
            )
        return axis

    def _range(self, size: int) -> tuple[int, int]:
        start, stop = self.channels or (0, size)
        if stop > size:
            raise ValueError(f"output {self.output!r} has {size} channels; the term is about [{start}, {stop})")
        return start, stop

    def _blocks(self, outputs: Array, references: Array) -> tuple[Floats, Floats]:
        """What the term sees of both, `[samples, ..., channels]`, probabilities as logits.

        Raises:
            ShapesNotFixed: they have different shapes.
        """
        if outputs.shape != references.shape:
            raise ShapesNotFixed(
                f"output {self.output!r} has the shape {list(references.shape)} in the float network and "
                f"{list(outputs.shape)} with quantized values; expected the same: damage compares outputs element by "
                "element, so export the network without what picks a number of results (NonMaxSuppression, NonZero)"
            )
        self.block_shape(references.shape)  # raises
        return self._block(outputs), self._block(references)

    def _block(self, values: Array) -> Floats:
        z = np.moveaxis(values[:, None] if values.ndim == 1 else values, self._axis(values.shape), -1)
        start, stop = self._range(z.shape[-1])
        z = np.asarray(z[..., start:stop], dtype=np.float64)
        if self.kind is Kind.KL_PROBABILITIES:
            return np.asarray(np.log(np.maximum(z, SMALLEST_PROBABILITY)))
        if self.kind is Kind.BERNOULLI_PROBABILITIES:
            return np.asarray(
                np.log(np.maximum(z, SMALLEST_PROBABILITY)) - np.log(np.maximum(1 - z, SMALLEST_PROBABILITY))
            )
        return z


@dataclass(frozen=True)
class Loss:
    """A sum of terms over outputs of one network, at least one.

    Outputs and references (those of the float network) are mappings by name of at least the outputs in `outputs`.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("a loss has no term; expected at least one")

    @classmethod
    def of(cls, kind: Kind, output: str) -> Loss:
        """One term over the last axis of one output."""
        return cls((Term(output, kind),))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that any term is about, each once."""
        return tuple(dict.fromkeys(term.output for term in self.terms))

    def document(self) -> dict[str, Any]:
        """The loss as JSON has it."""
        return {"terms": [term.document() for term in self.terms]}

    def sample_loss(self, outputs: Mapping[str, Array], references: Mapping[str, Array]) -> Floats:
        """The loss of every sample, `[samples]`, never NaN.

        Raises:
            ShapesNotFixed: an output and its reference have different shapes.
            ModelInvalid: outputs disagree on the number of samples.
        """
        parts = [term.sample_loss(outputs[term.output], references[term.output]) for term in self.terms]
        self._check_samples([len(part) for part in parts])
        return np.asarray(np.sum(parts, axis=0)) if len(parts) > 1 else parts[0]

    def root_times(self, outputs: Mapping[str, Array], references: Mapping[str, Array]) -> Floats:
        """`B dz` of every sample, `[samples, root_length]`: `1/2 ||B dz||^2` is the loss to second order.

        For kl: `sqrt(p) (dz - p'dz)` at each position, over the square root of the number of positions, p the float
        softmax. For bernoulli `sqrt(p (1 - p)) dz` over the square root of the numbers averaged. Of probabilities z is
        the logit: the change of a probability from near 0 to 0.1 is no small change in itself, but is one in its
        logarithm.

        Raises:
            ShapesNotFixed, ModelInvalid: see `sample_loss`.
        """
        parts = [term.root_times(outputs[term.output], references[term.output]) for term in self.terms]
        self._check_samples([len(part) for part in parts])
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def root_length(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """How many numbers `B dz` has for each sample, of outputs `[samples, ...]` of these shapes."""
        return sum(self._lengths(shapes))

    def transposed_root_times(self, u: torch.Tensor, references: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`B' u` by output, each in the shape of its reference; the transpose of `root_times`, linear in u.

        For kl: `sqrt(p) u - p (sqrt(p)' u)` at each position, over the square root of the number of positions; for
        probabilities `u / sqrt(p)` and `u / sqrt(p (1 - p))`, the outputs being p itself.

        Args:
            u: `[samples, root_length]`.
            references: the float network's outputs.

        Raises:
            ModelInvalid: outputs disagree on the number of samples.
        """
        self._check_samples([references[term.output].shape[0] for term in self.terms])
        lengths = self._lengths({name: value.shape for name, value in references.items()})
        parts = torch.split(u, lengths, dim=1)
        weighted: dict[str, torch.Tensor] = {}
        for term, part in zip(self.terms, parts, strict=True):
            own = term.transposed_root_times(part, references[term.output])
            weighted[term.output] = weighted[term.output] + own if term.output in weighted else own
        return weighted

    def _lengths(self, shapes: Mapping[str, Sequence[int]]) -> list[int]:
        return [math.prod(term.block_shape(shapes[term.output])[1:]) for term in self.terms]

    def _check_samples(self, counts: Sequence[int]) -> None:
        if len(set(counts)) > 1:
            of_outputs = ", ".join(f"{t.output!r} {n}" for t, n in zip(self.terms, counts, strict=True))
            raise ModelInvalid(
                f"the outputs have different lengths along their first axis: {of_outputs}; expected the samples there "
                "in every output, so export the network with the batch axis first"
            )


def _averaged(shape: Sequence[int]) -> int:
    """How many numbers of each sample a mean over positions and channels is over."""
    return max(math.prod(shape[1:]), 1)


def _positions(shape: Sequence[int]) -> int:
    return max(math.prod(shape[1:-1]), 1)


def _change(z: Floats, reference: Floats) -> Floats:
    """`z - reference`; 0 where both are the same infinity, and where the reference is not a number."""
    dz = z - reference
    if not np.isfinite(dz).all():
        dz = np.where((z == reference) | np.isnan(reference), 0.0, dz)
    return dz


def _over_sample(values: Floats) -> Floats:
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _kl(_term: Term, z: Floats, reference: Floats) -> Floats:
    log_p, log_q = log_softmax(reference, axis=-1), log_softmax(z, axis=-1)
    p = np.exp(log_p)
    # a class that is masked in both has -inf in both; p is NaN where the reference is not a number
    divergence = np.where(p > 0, p * np.minimum(log_p - log_q, LARGEST_CHANGE), 0.0).sum(-1)
    # a divergence is not negative, but for rounding
    return np.asarray(np.maximum(_over_sample(divergence).sum(1) / _positions(z.shape), 0.0))


def _kl_root(_term: Term, z: Floats, reference: Floats) -> Floats:
    p = np.nan_to_num(softmax(reference, axis=-1), copy=False)
    dz = np.where(p > 0, np.clip(z - reference, -LARGEST_CHANGE, LARGEST_CHANGE), 0.0)
    dz = np.sqrt(p) * (dz - (p * dz).sum(-1, keepdims=True))
    return np.asarray(dz / math.sqrt(_positions(z.shape)))


def _bernoulli(_term: Term, z: Floats, reference: Floats) -> Floats:
    divergence = np.zeros(z.shape)
    for sign in (1.0, -1.0):  # yes and no: log sigmoid(z) = -log(1 + exp(-z))
        log_p, log_q = -np.logaddexp(0.0, -sign * reference), -np.logaddexp(0.0, -sign * z)
        p = np.exp(log_p)
        divergence += np.where(p > 0, p * np.minimum(log_p - log_q, LARGEST_CHANGE), 0.0)
    return np.asarray(np.maximum(_over_sample(divergence).sum(1) / _averaged(z.shape), 0.0))


def _bernoulli_root(_term: Term, z: Floats, reference: Floats) -> Floats:
    dz = np.clip(_change(z, reference), -LARGEST_CHANGE, LARGEST_CHANGE)
    curvature = np.exp(-np.logaddexp(0.0, -reference) - np.logaddexp(0.0, reference))
    root = np.nan_to_num(np.sqrt(curvature), copy=False) * dz
    return np.asarray(root / math.sqrt(_averaged(z.shape)))


def _squared_error(term: Term, z: Floats, reference: Floats) -> Floats:
    return np.asarray(0.5 * np.square(_over_sample(_squared_error_root(term, z, reference))).sum(1))


def _squared_error_root(term: Term, z: Floats, reference: Floats) -> Floats:
    dz = _change(z, reference)
    return dz / np.array(term.scales) / math.sqrt(_averaged(z.shape)) if term.scales else dz


_SAMPLE_LOSSES = {
    Kind.KL: _kl,
    Kind.KL_PROBABILITIES: _kl,
    Kind.BERNOULLI: _bernoulli,
    Kind.BERNOULLI_PROBABILITIES: _bernoulli,
    Kind.SQUARED_ERROR: _squared_error,
}
_ROOTS = {
    Kind.KL: _kl_root,
    Kind.KL_PROBABILITIES: _kl_root,
    Kind.BERNOULLI: _bernoulli_root,
    Kind.BERNOULLI_PROBABILITIES: _bernoulli_root,
    Kind.SQUARED_ERROR: _squared_error_root,
}


def _transposed(term: Term, u: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """`B' u` of a block, both `[samples, ..., channels]`, without the weight."""
    root = math.sqrt((_positions if term.kind.about_classes else _averaged)(u.shape))
    match term.kind:
        case Kind.KL:
            p = torch.softmax(reference, dim=-1)
            scaled = p.sqrt() * u
            return (scaled - p * scaled.sum(-1, keepdim=True)) / root
        case Kind.KL_PROBABILITIES:
            return u / reference.clamp_min(SMALLEST_PROBABILITY).sqrt() / root
        case Kind.BERNOULLI:
            return u * (torch.sigmoid(reference) * torch.sigmoid(-reference)).sqrt() / root
        case Kind.BERNOULLI_PROBABILITIES:
            yes, no = (p.clamp_min(SMALLEST_PROBABILITY) for p in (reference, 1 - reference))
            return u / (yes * no).sqrt() / root
        case Kind.SQUARED_ERROR if term.scales:
            return u / torch.tensor(term.scales, dtype=u.dtype, device=u.device) / root
    return u
