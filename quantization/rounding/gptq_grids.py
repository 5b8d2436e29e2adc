"""GPTQ to tables of values: power grids, and the rounding that codebooks take too.

`quantization.rounding.gptq` says how errors are made up for; only the rounding of a single value differs. A value's
place in a table of up to 16 values is the number of midpoints below it, all compared at once; in a longer one it is
found by bisection, of all lanes at once.

Exponent and scales of a power grid are those of least squared error in the weights
(`quantization.rounding.power_grids`); then the columns make up for each other's errors, and each scale takes the value
that suits its codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from network.graph import ChannelAxis
from quantization.formats import PowerFormat
from quantization.rounding.gptq import Prepared, ratios, round_rows
from quantization.rounding.gptq_columns import Floats, Rounding
from quantization.rounding.power_grids import optimal_power
from quantization.storage.powers import PowerWeight, ascending

_COMPARE_ALL = 16  # levels


def power_gptq(prepared: Prepared, formats: Sequence[PowerFormat], channel_axis: ChannelAxis) -> list[PowerWeight]:
    """The target of `prepared` (`quantization.rounding.gptq.prepare`) in each of `formats`, rounded by GPTQ.

    Args:
        channel_axis: axis of the output channels.

    Raises:
        ValueError: a channel axis along which the layer sums.
    """
    return [_power(prepared, format_, channel_axis) for format_ in formats]


def _power(prepared: Prepared, format_: PowerFormat, channel_axis: ChannelAxis) -> PowerWeight:
    (_, _, reduced), shape = prepared.matrix.shape, prepared.target.shape
    scale, table = optimal_power(prepared.target, format_, channel_axis)
    values = ascending(table).astype(np.float32)
    # of a negative scale the highest code has the lowest value
    tables = np.sort(scale.reshape(-1, 1) * values, axis=1)
    owner = prepared.owner(scale.shape)
    own, moments = round_rows(prepared, 1, lambda rows: GridRounding(tables[owner[:, rows]], reduced), [0], np.uint8)
    places = prepared.reduction.from_matrix(own[:, 0], shape).astype(np.int16)
    places = np.where(scale < 0, len(values) - 1 - places, places)
    factors = ratios(moments[:, :, 0], owner, scale.size).astype(np.float32)
    codes = (places - len(values) // 2).astype(np.int8)
    return PowerWeight(format_, codes, scale * factors.reshape(scale.shape), table)


class GridRounding(Rounding):
    """The nearest value of a table for each lane, `[groups, lanes, levels]`; of two as near the lower one."""

    def __init__(self, tables: Floats, reduced: int) -> None:
        groups, lanes, levels = tables.shape
        middles = (tables[:, :, 1:].astype(np.float64) + tables[:, :, :-1]) / 2
        self.codes = np.empty((groups, reduced, lanes), dtype=np.uint8)
        self._few = levels <= _COMPARE_ALL
        self._place = np.empty((groups, lanes), dtype=np.intp)
        self._lane = np.arange(groups * lanes).reshape(groups, lanes)
        if self._few:
            self._values = np.ascontiguousarray(tables.transpose(2, 0, 1)).ravel()
            self._middles = np.ascontiguousarray(middles.transpose(2, 0, 1), dtype=np.float32)
            self._above = np.empty(self._middles.shape, dtype=np.bool_)
            self._count = np.empty((groups, lanes), dtype=np.uint8)
            return
        self._size = 1 << (levels - 1).bit_length()
        padded = np.full((groups, lanes, self._size), np.inf, dtype=np.float32)
        padded[:, :, : levels - 1] = middles
        self._middles = padded.ravel()
        padded = np.zeros_like(padded)
        padded[:, :, :levels] = tables
        self._values = padded.ravel()
        self._lane *= self._size
        self._probe = np.empty((groups, lanes), dtype=np.float32)
        self._step = np.empty((groups, lanes), dtype=np.bool_)
        self._next = np.empty((groups, lanes), dtype=np.intp)

    def column(self, column: int, values: Floats, rounded: Floats) -> None:
        place = self._place
        if self._few:
            np.greater(values, self._middles, out=self._above)
            np.add.reduce(self._above.view(np.uint8), axis=0, out=self._count)
            np.multiply(self._count, place.size, out=place, dtype=np.intp)
            place += self._lane
            self._values.take(place, out=rounded, mode="clip")  # the mode that does not buffer
            self.codes[:, column] = self._count
            return
        np.copyto(place, self._lane)
        step = self._size // 2
        while step:
            np.add(place, step - 1, out=self._next)
            self._middles.take(self._next, out=self._probe, mode="clip")
            np.greater(values, self._probe, out=self._step)
            np.multiply(self._step, step, out=self._next, dtype=np.intp)
            place += self._next
            step //= 2
        self._values.take(place, out=rounded, mode="clip")
        self.codes[:, column] = np.subtract(place, self._lane, out=place)
