"""Second moments of a layer's inputs, `H = sum x x'`: the Hessian of its output error in each row of its weight."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from network.graph import Layer, Network, Site
from quantization.errors import ActivationsNotFinite
from quantization.rounding.layers import MOST_BYTES, reduction_of
from quantization.rounding.reduction import NotReducible, Reduction

Array = Tensor | NDArray[np.float32]
Number = TypeVar("Number", bound=np.generic)

POSITIONS_PER_SAMPLE = 64
_CONSTANT = 1e-5  # of an input's second moment: what float32 sums leave of a variance of 0
_CHUNK = 1 << 22  # elements of the columns that one product takes


class InputStatistics:
    """`H = sum x x'` of one weight, of this `shape` `[groups, reduced, reduced]`, over all samples and all layers that
    use it.

    Neighbouring positions of one sample (pixels, tokens) say much the same, so that at most about
    `positions_per_sample` of each count, in its place: an even grid that moves on from sample to sample, until every
    position (borders too) had its turn. Products are float32, one per chunk of samples; they are added up in float64.
    Columns that hold NaN or an infinity (of positions that the network masks later) do not count.
    """

    def __init__(
        self, network: Network, site: Site, reductions: dict[str, Reduction], positions_per_sample: int
    ) -> None:
        """`reductions` by layer name, all with one view of the weight of `site`."""
        self._network = network
        self._site = site
        self._reductions = reductions
        self._positions_per_sample = positions_per_sample
        self._samples: Counter[tuple[str, tuple[int, ...]]] = Counter()
        groups, rows, reduced = self.reduction.to_matrix(np.empty(site.shape, dtype=np.bool_)).shape
        self.shape = (groups, reduced, reduced)
        self._positions = 0
        self._sum: NDArray[np.float64] = np.zeros((groups, reduced))
        # W before the sum over positions is the cheaper way where a product with it leaves few rows
        self._early = 2 * rows < reduced
        self._cross: NDArray[np.float64] | None = None
        self._sum_off: NDArray[np.float64] = np.zeros((groups, rows if self._early else reduced))

    @cached_property
    def hessian(self) -> NDArray[np.float64]:
        """H; no memory is taken before the first inputs come."""
        return np.zeros(self.shape)

    @property
    def reduction(self) -> Reduction:
        """The view of the weight that all its uses share."""
        return next(iter(self._reductions.values()))

    @property
    def memory_bytes(self) -> int:
        """What these statistics hold, once inputs have come."""
        return 8 * math.prod(self.shape) + (0 if self._cross is None else self._cross.nbytes)

    @property
    def macs_per_sample(self) -> int:
        """What one sample's second moments take, where it has as many positions as count of it or fewer."""
        positions = sum(layer.macs for layer in self._site.layers) // max(math.prod(self._site.shape), 1)
        return math.prod(self.shape) * min(max(positions, 1), self._positions_per_sample)

    @property
    def unreached(self) -> int:
        """How many groups no input but zeros came to."""
        return int((np.einsum("gii->g", self.hessian) == 0).sum())

    @property
    def cross(self) -> NDArray[np.float64] | None:
        """`W sum (x_float - x) x'` `[groups, rows, reduced]` with the weight W of the float network; None where no
        batch came with the inputs of that network."""
        if self._cross is None or self._early:
            return self._cross
        with np.errstate(all="ignore"):  # what is not finite is refused, with the layer's name
            return self._checked(self._site.layers[0], self._matrix @ self._cross)

    def add(self, layer: Layer, inputs: Array, float_inputs: Array | None = None) -> None:
        """Count one batch of activation inputs of `layer`, in the shape the node takes (samples first, but for
        recurrent nodes), or of what else makes its columns (`quantization.rounding.layers.read_by`).

        Args:
            layer: one of those that use this weight.
            inputs: float32.
            float_inputs: with inputs from a quantized network, what the float network gives for the same samples.

        Raises:
            KeyError: the layer does not use this weight.
            ActivationsNotFinite: inputs are so large that their products are infinite.
        """
        reduction = self._reductions[layer.name]
        batch = reduction.by_sample(torch.as_tensor(inputs, dtype=torch.float32))
        differences = None
        if float_inputs is not None:
            differences = reduction.by_sample(torch.as_tensor(float_inputs, dtype=torch.float32)) - batch
        finite = _all_finite(batch) and (differences is None or _all_finite(differences))
        grid = reduction.grid(batch.shape)
        seen = self._samples[layer.name, grid]  # the states and the initial ones of a recurrent node turn separately
        thinning = Thinning(grid, self._positions_per_sample)
        per_sample = self.shape[0] * self.shape[1] * max(thinning.taken, 1)
        chunk = thinning.turns * max(1, _CHUNK // (per_sample * thinning.turns))
        weight = thinning.weight
        for begin in range(0, len(batch), chunk):
            part = slice(begin, begin + chunk)
            x = thinning.columns(reduction, batch[part], seen + begin)
            off = None if differences is None else thinning.columns(reduction, differences[part], seen + begin)
            if not finite:
                x, off = _finite(x, off)
            self.hessian += self._weighted(layer, _gram(x), weight)
            self._positions += x.shape[2] * weight
            self._sum += x.sum(dim=2).cpu().numpy() * weight
            if off is not None:
                if self._early:
                    off = torch.from_numpy(self._matrix).to(off.device) @ off
                cross = self._weighted(layer, (off @ x.mT).cpu().numpy(), weight)
                if self._cross is None:
                    self._cross = np.zeros(cross.shape)
                self._cross += cross
                self._sum_off += off.sum(dim=2).cpu().numpy() * weight
        self._samples[layer.name, grid] += len(batch)

    def centered(self) -> InputStatistics:
        """The same about the means of the inputs, `sum (x - mean) (x - mean)'`: for a layer whose bias takes whatever
        mean error the rounding of its weight leaves, so that only the rest of the error counts.

        Raises:
            ActivationsNotFinite: sums of what is finite are not.
        """
        with np.errstate(all="ignore"):
            centered = self._centered()
            for moments in (centered.hessian, centered._cross):
                if moments is not None:
                    self._checked(self._site.layers[0], moments)
        return centered

    def _centered(self) -> InputStatistics:
        centered = copy.copy(self)
        mean = self._sum / max(self._positions, 1)
        centered.hessian = _less(self.hessian, self._sum, mean)
        # of an input that never changes rounding errors are left, which may be negative
        before, after = (np.einsum("gii->gi", moments) for moments in (self.hessian, centered.hessian))
        varies = after > _CONSTANT * before
        if not varies.all():
            centered.hessian *= varies[:, :, None] & varies[:, None, :]
        if self._cross is not None:
            centered._cross = _less(self._cross, self._sum_off, mean)
            centered._cross *= varies[:, None, :]
        return centered

    @cached_property
    def _matrix(self) -> NDArray[np.float32]:
        return np.array(self.reduction.to_matrix(self._network.weight(self._site.weight)), dtype=np.float32)

    def _weighted(self, layer: Layer, moments: NDArray[np.float32], weight: int) -> NDArray[np.float32]:
        """`moments`, which are changed."""
        with np.errstate(all="ignore"):
            moments *= np.float32(weight)
            return self._checked(layer, moments)

    @staticmethod
    def _checked(layer: Layer, moments: NDArray[Number]) -> NDArray[Number]:
        if math.isfinite(moments.sum()) or np.isfinite(moments).all():
            return moments
        raise ActivationsNotFinite(
            f"the calibration samples give layer {layer.name} inputs that are infinite or no number;"
            " check the samples' scale and preprocessing"
        )


class Thinning:
    """About `most` positions of every sample of a layer's input, whose positions are a `grid`, in `turns` that differ.

    `taken` positions are taken of each sample, and each of them stands for `weight`.
    """

    def __init__(self, grid: tuple[int, ...], most: int) -> None:
        self._steps = _steps(grid, most)
        self._starts = list(itertools.product(*(range(step) for step in self._steps)))
        self.turns = len(self._starts)
        self.weight = math.prod(self._steps)
        self.taken = math.prod(math.ceil(size / step) for size, step in zip(grid, self._steps, strict=True))

    def columns(self, reduction: Reduction, samples: Tensor, first: int) -> Tensor:
        """Columns `[groups, reduced, positions]`: sample n of all samples ever seen gives the positions of start n,
        counted round; `first` of them came before `samples`."""
        starts = [self._starts[(first + n) % self.turns] for n in range(min(self.turns, len(samples)))]
        return reduction.columns_in_turns(samples, starts, self._steps)


def _steps(grid: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Steps along each axis of `grid` that leave about `most` positions."""
    steps = [1] * len(grid)
    while math.prod(size / step for size, step in zip(grid, steps, strict=True)) > most:
        widest = max(range(len(grid)), key=lambda axis: grid[axis] / steps[axis])
        steps[widest] += 1
    return tuple(steps)


def _all_finite(values: Tensor) -> bool:
    """By their sum, in one pass; False also for finite values whose sum overflows."""
    return math.isfinite(float(values.sum()))


def _finite(x: Tensor, off: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The columns `[groups, reduced, positions]` of the positions that are finite everywhere."""
    good = torch.isfinite(x).all(dim=(0, 1))
    if off is not None:
        good &= torch.isfinite(off).all(dim=(0, 1))
    if bool(good.all()):
        return x, off
    return x[:, :, good], None if off is None else off[:, :, good]


def _gram(columns: Tensor) -> NDArray[np.float32]:
    """`X X'` of `[groups, reduced, positions]`. On the CPU by numpy, whose product with the own transpose is half the
    work (syrk)."""
    if columns.device.type != "cpu":
        return np.asarray((columns @ columns.mT).cpu().numpy())
    groups, reduced, _ = columns.shape
    products = np.empty((groups, reduced, reduced), dtype=np.float32)
    with np.errstate(all="ignore"):  # what is not finite is refused, with the layer's name
        for x, product in zip(columns.numpy(), products, strict=True):
            np.matmul(x, x.T, out=product)
    return products


def _less(moments: NDArray[np.float64], sums: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """`moments - sums means'`, with one array of their size."""
    products = sums[:, :, None] * means[:, None, :]
    return np.subtract(moments, products, out=products)


def input_statistics(
    network: Network, site: Site, positions_per_sample: int = POSITIONS_PER_SAMPLE
) -> InputStatistics | NotReducible:
    """Empty statistics for the weight of `site`, or why its input has no second moments that GPTQ could use."""
    reductions: dict[str, Reduction] = {}
    for layer in site.layers:
        view = reduction_of(network, layer, site.shape)
        if isinstance(view, NotReducible):
            return NotReducible(f"layer {layer.name}: {view.reason}")
        reductions[layer.name] = view
    if len({own.view for own in reductions.values()}) > 1:
        return NotReducible(f"layers {', '.join(reductions)} share the weight but multiply along different axes of it")
    statistics = InputStatistics(network, site, reductions, positions_per_sample)
    if statistics.memory_bytes > MOST_BYTES:  # nothing of it has been touched yet
        return NotReducible(
            f"the second moments of {statistics.shape[1]} inputs take {statistics.memory_bytes} bytes,"
            f" more than the {MOST_BYTES} that one weight may have"
        )
    return statistics
