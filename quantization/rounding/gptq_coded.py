"""Rate-aware rounding to coded weights: GPTQ that counts bits.

A coded weight has a fixed number of bytes (`quantization.storage.coded`), so that what is free is its step. Two things
make the step smaller at the same bytes:

- In the column loop a value takes, of its nearest code and the next one towards 0, the one of least

      (value - step * code)**2 * d_j**2  +  c * step**2 * mean(d**2) * bits(code)

  with d_j the factor's diagonal at column j: what the error costs beyond repair by later columns. This is the
  rate-distortion optimised quantization of video coders (Sullivan and Wiegand 1998) within GPTQ, and with it zeros
  become cheap. At high rates `c` would be `ln 2 / 6`, where the slope of a uniform quantizer's error is that of its
  entropy; c = 0.1 [ResNet20, four layers, 1.5 to 2.9 bits: at equal bytes 2 to 6 % less error than c = 0, or 0.2].
- One step serves all channels. At equal bytes the error is that of a step per channel, proportional to its standard
  deviation, or less, and scales cost nothing.

The step is found by trial: the entropy of nearest codes says where to begin, and each round of GPTQ corrects the step
of the next by its own count. In the end the step takes the value of least error for the codes found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from quantization.formats import CodedFormat
from quantization.rounding.coded_steps import first_steps, nearest_coded, round_coded
from quantization.rounding.gptq import Prepared, ratios, round_rows
from quantization.rounding.gptq_columns import Floats, Rounding
from quantization.storage.coded import CodedWeight, coded_bits, size_bytes

BITS_PRICE = 0.1  # c
_ROUNDS = 4  # of GPTQ, at most
_FULL = 0.995  # of the room, which is worth no further round
_SAVED = 0.96  # of the step: what the price of bits saves lets it shrink
_COARSER = 1.014  # than a weight's step was, so that other codes, too, have room most times
_SLOPE = 0.9  # bits of a value for each halving of the step
_LEAST_WEIGHT = 0.25  # of a column's error in the mean's: inputs that the samples hardly reach are not all set to 0


def coded_gptq(
    prepared: Prepared, formats: Sequence[CodedFormat], check: Callable[[], None] = lambda: None
) -> list[CodedWeight]:
    """The target of `prepared` (`quantization.rounding.gptq.prepare`) in each of `formats`.

    Args:
        check: called before every round; what it raises ends the work.
    """
    steps = [_SAVED * step for step in first_steps(prepared.target, formats)]
    codes = [nearest_coded(prepared.target, *own) for own in zip(steps, formats, strict=True)]
    return _tried(prepared, [_Trial(*own) for own in zip(formats, steps, codes, strict=True)], check)


def coded_gptq_from(begun: CodedWeight, prepared: Prepared, check: Callable[[], None] = lambda: None) -> CodedWeight:
    """The same in the format of `begun`, which is much like the target: its step is nearly right, so that a round of
    GPTQ or two do."""
    return _tried(prepared, [_Trial(begun.format, _COARSER * float(begun.step), begun.codes)], check)[0]


def _tried(prepared: Prepared, trials: Sequence[_Trial], check: Callable[[], None]) -> list[CodedWeight]:
    for _ in range(_ROUNDS):
        open_ = [trial for trial in trials if not trial.is_done]
        if not open_:
            break
        check()
        rounding = partial(_CodedRounding, prepared, open_)
        codes, moments = round_rows(prepared, len(open_), rounding, range(len(open_)), np.int8)
        owner = np.zeros(moments.shape[1:2] + moments.shape[3:], dtype=np.intp)
        for index, trial in enumerate(open_):
            own = prepared.reduction.from_matrix(codes[:, index], prepared.target.shape)
            trial.see(own, float(ratios(moments[:, :, index], owner, 1)[0]))
    return [trial.best or round_coded(prepared.target, trial.format) for trial in trials]


class _Trial:
    """One format: the step to try next, what a code costs, and the best weight so far."""

    def __init__(self, format_: CodedFormat, step: float, codes: NDArray[np.int8]) -> None:
        self.format = format_
        self.step = step
        self.best: CodedWeight | None = None
        self.is_done = False
        self._finest = np.inf  # step whose codes fitted
        self.prices = _prices(codes, format_)
        self._room = 8 * size_bytes(format_, codes.size)

    def see(self, codes: NDArray[np.int8], ratio: float) -> None:
        """What GPTQ gave at `step`, whose best value is `ratio` times that."""
        bits = coded_bits(codes, self.format)
        if bits <= self._room:
            if self.step < self._finest:
                step = np.array(self.step * ratio, dtype=np.float32)
                self.best, self._finest = CodedWeight(self.format, codes, step), self.step
            self.is_done = bits >= _FULL * self._room
        aim = self._room * (1 + _FULL) / 2
        self.step *= 2 ** ((bits - aim) / codes.size / _SLOPE)
        self.prices = _prices(codes, self.format)


class _CodedRounding(Rounding):
    """Lanes of some rows in all formats of `trials`."""

    def __init__(self, prepared: Prepared, trials: Sequence[_Trial], rows: slice) -> None:
        groups, every, reduced = prepared.matrix.shape
        count = len(range(*rows.indices(every)))
        self._steps = np.repeat(np.array([trial.step for trial in trials], dtype=np.float32), count)
        squares = np.square(prepared.factor.diagonal)
        means = squares.mean(axis=1, keepdims=True)
        self._weights = np.maximum(squares / np.where(means > 0, means, 1), _LEAST_WEIGHT).astype(np.float32)
        highest = [trial.format.highest_code for trial in trials]
        self._highest = np.repeat(np.array(highest, dtype=np.float32), count)
        self._lowest = -self._highest
        width = 2 * max(highest) + 1
        prices = np.zeros((len(trials), width), dtype=np.float32)
        for own, trial in zip(prices, trials, strict=True):
            spare = (width - len(trial.prices)) // 2
            own[spare : width - spare] = trial.prices
        self._prices = prices.ravel()
        self._zeros = np.repeat(np.arange(len(trials)) * width + max(highest), count)  # where the price of 0 stands
        self.codes = np.empty((groups, reduced, len(trials) * count), dtype=np.int8)
        # with a few microseconds of work for a column, new arrays would cost as much as what is done with them
        self._aims, self._near, self._lower, self._own, self._other, self._price = np.empty(
            (6, groups, len(trials) * count), dtype=np.float32
        )
        self._places = np.empty((groups, len(trials) * count), dtype=np.intp)

    def column(self, column: int, values: Floats, rounded: Floats) -> None:
        near, lower = self._near, self._lower
        np.divide(values, self._steps, out=self._aims)
        np.rint(self._aims, out=near)
        np.maximum(near, self._lowest, out=near)
        np.minimum(near, self._highest, out=near)
        np.sign(near, out=lower)
        np.subtract(near, lower, out=lower)
        weight = self._weights[:, column, None]
        self._cost(near, weight, self._own)
        self._cost(lower, weight, self._other)
        np.copyto(near, lower, where=self._other < self._own)
        self.codes[:, column] = near
        np.multiply(near, self._steps, out=rounded)

    def _cost(self, codes: Floats, weight: Floats, cost: Floats) -> None:
        """Write into `cost` what `codes` cost, error and bits."""
        np.subtract(self._aims, codes, out=cost)
        np.square(cost, out=cost)
        cost *= weight
        self._places[...] = codes
        self._places += self._zeros
        self._prices.take(self._places, out=self._price, mode="clip")  # `raise` would fill a second array first
        cost += self._price


def _prices(codes: NDArray[np.int8], format_: CodedFormat) -> Floats:
    """`c` times the bits of every code from the lowest on, were they coded at the entropy of `codes`."""
    highest = format_.highest_code
    counts = np.bincount(codes.ravel().astype(np.intp) + highest, minlength=2 * highest + 1) + 0.5
    return np.asarray(-BITS_PRICE * np.log2(counts / counts.sum()), dtype=np.float32)
