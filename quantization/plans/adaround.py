"""AdaRound: whether each weight is rounded up or down is learned from the layer's own outputs.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568. Every weight has two
codes to choose from, and `h(V)` in [0, 1], a rectified sigmoid, moves between them:

    minimise  mean |act(s (q + e h(V)) x + b) - act(W x_float + b)|^2 + lambda mean (1 - |2 h(V) - 1|^beta)

with Adam over V. The second term, beta falling, drives every h to 0 or 1. The inputs x are those of the quantized
network and the target is the float layer on the float network's inputs (the paper's asymmetric reconstruction); `act`
is the Relu behind the layer, if there is one.

Differences from the paper:

1. It starts from codes that GPTQ found, not from the float weight: the two codes are the one a weight has and its
   neighbour on the side to which the error falls, instead of floor and ceiling [ours]. Scales stay.
2. The first term is divided by its value at the start, so that one lambda serves all layers.
3. The result is compared with the start on all samples, and the start is kept unless it is worse.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantization.rounding.reduction import Reduction
from quantization.rounding.statistics import Thinning
from quantization.storage.weights import IntegerWeight

ITERATIONS = 1000
_POSITIONS = 512  # of one step of Adam
_RATE = 0.03
_LAMBDA = 10.0
_WARM = 0.2  # share of the steps without the second term
_BETA = (20.0, 2.0)
_ZETA, _GAMMA = 1.1, -0.1
_FIRST = 0.1  # h at the start
MOST_BYTES = 1 << 28  # of one layer's samples
_CHUNK = 1 << 22  # elements of outputs that one product makes


Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LayerSamples:
    """What a layer gets and what it should make of it, at the same positions.

    `inputs` `[groups, positions, reduced]` come from the quantized network, which adds `bias` `[groups, 1, rows]`;
    `targets` `[groups, positions, rows]` are the float layer's outputs, behind the Relu if `relu`.
    """

    inputs: Tensor
    targets: Tensor
    bias: Tensor
    relu: bool


@dataclass(frozen=True, eq=False)
class AdaRounded:
    """The weight, the mean squared error of the outputs before and after, and how many steps were made."""

    weight: IntegerWeight
    start_error: float
    error: float
    steps: int


def layer_samples(
    reduction: Reduction,
    weight: Floats,
    pairs: Iterable[tuple[Floats, Floats]],
    *,
    samples: int,
    biases: tuple[Floats, Floats],
    relu: bool,
    positions_per_sample: int,
) -> LayerSamples:
    """Samples of one layer.

    Args:
        reduction: how the layer sees the weight.
        weight: in float.
        pairs: batches of the layer's input, in the quantized and in the float network, taken one by one.
        samples: how many they are in all.
        biases: what the float and the quantized network add, `[channels]` or one for all.
        relu: whether a Relu follows.
        positions_per_sample: about; fewer where all would not fit into `MOST_BYTES`.
    """
    matrix = torch.from_numpy(np.array(reduction.to_matrix(weight), dtype=np.float32))
    groups, rows, _ = matrix.shape
    float_bias, bias = (
        torch.from_numpy(np.array(np.broadcast_to(values, groups * rows).reshape(groups, 1, rows))) for values in biases
    )
    most = MOST_BYTES // (4 * matrix.shape[0] * sum(matrix.shape[1:]) * samples)
    inputs, targets, seen = [], [], 0
    for pair in pairs:
        quantized, exact = (reduction.by_sample(torch.as_tensor(values)) for values in pair)
        thinning = Thinning(reduction.grid(quantized.shape), max(1, min(positions_per_sample, most)))
        inputs.append(thinning.columns(reduction, quantized, seen).mT)
        outputs = thinning.columns(reduction, exact, seen).mT @ matrix.mT
        targets.append((outputs + float_bias).relu() if relu else outputs + float_bias)
        seen += len(quantized)
    return LayerSamples(torch.cat(inputs, dim=1), torch.cat(targets, dim=1), bias, relu)


def adaround(
    start: IntegerWeight,
    reduction: Reduction,
    samples: LayerSamples,
    *,
    seconds: float = math.inf,
    iterations: int = ITERATIONS,
    check: Callable[[], None] = lambda: None,
) -> AdaRounded:
    """`start` with codes that are learned, never worse than `start` on `samples`.

    Args:
        start: integer codes and scales.
        reduction: how the layer sees the weight.
        seconds: when they are over, the steps end, wherever the schedule is: only then the result depends on the clock.
        iterations: steps of Adam, at least 1.
        check: called after every step; what it raises ends the work.
    """
    ends = time.monotonic() + seconds
    problem = _Problem(start, reduction, samples)
    before = problem.error(problem.codes)
    if before == 0 or seconds <= 0:
        return AdaRounded(start, before, before, 0)
    chosen, steps = problem.learn(before, ends, iterations, check)
    after = problem.error(chosen)
    if not after < before:
        return AdaRounded(start, before, before, steps)
    codes = reduction.from_matrix(chosen.to(torch.int8).numpy(), start.shape)
    return AdaRounded(replace(start, codes=codes), before, after, steps)


class _Problem:
    """One layer: tensors `[groups, rows, reduced]` of codes and scales."""

    def __init__(self, start: IntegerWeight, reduction: Reduction, samples: LayerSamples) -> None:
        to_matrix = reduction.to_matrix
        self.codes = torch.from_numpy(to_matrix(start.codes).astype(np.float32))
        scales = to_matrix(np.broadcast_to(start.scale, start.shape))
        self._scales = torch.from_numpy(np.array(scales, dtype=np.float32))
        self._range = (start.format.lowest_code, start.format.highest_code)
        self._samples = samples

    def error(self, codes: Tensor) -> float:
        """Mean squared error of the outputs over all positions."""
        total = 0.0
        with torch.no_grad():
            for part in self._chunks():
                total += float(self._off(codes, part).square().sum(dtype=torch.float64))
        return total / self._samples.targets.numel()

    def learn(self, unit: float, ends: float, iterations: int, check: Callable[[], None]) -> tuple[Tensor, int]:
        """Codes after the schedule, and the steps made; errors are divided by `unit`."""
        steps_to = self._neighbours()
        share = (_FIRST - _GAMMA) / (_ZETA - _GAMMA)
        free = torch.full_like(self.codes, math.log(share / (1 - share))).requires_grad_()
        adam = torch.optim.Adam([free], lr=_RATE)
        generator = torch.Generator().manual_seed(0)
        positions = self._samples.targets.shape[1]
        step = 0
        while step < iterations and (step == 0 or time.monotonic() < ends):
            check()
            done = step / iterations
            part = torch.randint(positions, (min(_POSITIONS, positions),), generator=generator)
            h = _rectified(free)
            loss = self._off(self.codes + steps_to * h, part).square().mean() / unit
            if done > _WARM:
                beta = _BETA[1] + (_BETA[0] - _BETA[1]) * 0.5 * (1 + math.cos((done - _WARM) / (1 - _WARM) * math.pi))
                loss = loss + _LAMBDA * (1 - (2 * h - 1).abs().pow(beta)).mean()
            (free.grad,) = torch.autograd.grad(loss, free)
            adam.step()
            step += 1
        with torch.no_grad():
            return self.codes + steps_to * (_rectified(free) >= 0.5), step

    def _neighbours(self) -> Tensor:
        """For every weight the step (1 or -1, or 0 at the end of the range) along which the error falls."""
        slope = torch.zeros_like(self.codes)
        for part in self._chunks():
            off = self._off(self.codes, part)
            if self._samples.relu:
                off = off * (self._outputs(self.codes, part) > 0)
            slope += off.mT @ self._samples.inputs[:, part]
        steps = -torch.sign(slope * self._scales)
        reached = self.codes + steps
        return torch.where((reached < self._range[0]) | (reached > self._range[1]), 0.0, steps)

    def _outputs(self, codes: Tensor, part: Tensor | slice) -> Tensor:
        outputs = self._samples.inputs[:, part] @ (codes * self._scales).mT + self._samples.bias
        return outputs.relu() if self._samples.relu else outputs

    def _off(self, codes: Tensor, part: Tensor | slice) -> Tensor:
        return self._outputs(codes, part) - self._samples.targets[:, part]

    def _chunks(self) -> list[slice]:
        groups, positions, rows = self._samples.targets.shape
        step = max(1, _CHUNK // (groups * rows))
        return [slice(first, first + step) for first in range(0, positions, step)]


def _rectified(free: Tensor) -> Tensor:
    return (torch.sigmoid(free) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)
