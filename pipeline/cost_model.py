"""What the parts of a job take, counted in units that the job measures on its machine (`pipeline.machine_speed`).

    seconds = samples * sample_seconds + loads * load_seconds + loops * loop_ratio + macs * mac_seconds

The coefficients were measured once, on one core (AVX512, numpy 2 with OpenBLAS, processor time): those of rounding on
single weights of 16 x 9 to 1,000 x 4,608, within a fifth of each, the others on whole jobs of `benchmarks.estimate`
(docs/cost.md says with which networks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.machine_speed import MachineSpeed
from quantization.formats import CodebookFormat, CodedFormat, WeightFormat


@dataclass(frozen=True, slots=True)
class Work:
    """What a part of a job does.

    Args:
        samples: runs of the float network on one sample, or what takes as long.
        loads: sessions made of files like the float one.
        loops: seconds of loops over small arrays on the reference machine.
        macs: multiply-accumulates of matrix products outside of ONNX Runtime.
    """

    samples: float = 0.0
    loads: float = 0.0
    loops: float = 0.0
    macs: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.samples + other.samples, self.loads + other.loads, self.loops + other.loops, self.macs + other.macs
        )

    def __mul__(self, times: float) -> Work:
        return Work(times * self.samples, times * self.loads, times * self.loops, times * self.macs)

    def seconds(self, speed: MachineSpeed) -> float:
        """What it takes at this speed."""
        return (
            self.samples * speed.sample_seconds
            + self.loads * speed.load_seconds
            + self.loops * speed.loop_ratio
            + self.macs * speed.mac_seconds
        )


@dataclass(frozen=True, slots=True)
class MatrixShape:
    """A weight `[groups, rows, columns]` as its layer multiplies with it; `macs_per_sample` of its inputs' second
    moments, None where these are not collected and each value goes to its nearest code."""

    groups: int
    rows: int
    columns: int
    macs_per_sample: int | None

    @property
    def size(self) -> int:
        return self.groups * self.rows * self.columns

    @property
    def moments(self) -> int:
        """Numbers of `sum x x'`."""
        return self.groups * self.columns**2


@dataclass(frozen=True, slots=True)
class RoundingCost:
    """Of a weight in one format: reference seconds for the format, each column and each number, and how often the
    weight is multiplied with a matrix of second moments."""

    format_loops: float
    column_loops: float
    number_loops: float
    products: float

    def of(self, shape: MatrixShape) -> Work:
        """One format."""
        if shape.macs_per_sample is None:
            return Work(loops=self.number_loops * shape.size)
        loops = self.format_loops + self.column_loops * shape.columns + self.number_loops * shape.size
        return Work(loops=loops, macs=self.products * shape.rows * shape.moments)


INTEGER = RoundingCost(format_loops=1.8e-3, column_loops=3.0e-6, number_loops=45e-9, products=0.5)
"""Of integers, power grids and rotated weights, all formats in one loop."""
CODED = RoundingCost(format_loops=11e-3, column_loops=7.5e-6, number_loops=55e-9, products=3.2)
"""Of coded weights and codebooks, which are tried several times."""
DESCENT = RoundingCost(format_loops=2.9e-3, column_loops=18e-6, number_loops=0.55e-6, products=0.3)
"""Of one format in a whole plan, with coordinate descent over the columns of each group."""
CODED_ANEW = RoundingCost(format_loops=15e-3, column_loops=80e-6, number_loops=0.4e-6, products=1.0)
"""Of a coded weight or a codebook in a whole plan."""
FACTOR = 0.4
"""Multiply-accumulates of a Cholesky factor, by the cube of its columns."""
BATCH_LOOPS = 0.25e-3
"""Of a batch of a layer's inputs whose second moments are added up."""
SUM_LOOPS = 6.3e-9
"""Of each number of these moments, for every batch."""
INPUT_LOOPS = 2.8e-9
"""Of each number of the columns that they are made from."""
CENTERED_LOOPS = 15e-9
"""Of each number of the moments, to take them about the means."""
TAPPED = 1.3
"""A pass that keeps the inputs of all layers, whose operators are not fused."""
CANDIDATE_PASS = 1.35
"""A pass with a weight that is no constant, and so is not laid out for the processor."""
CALL_LOOPS = 1.0e-3
"""Around every call of ONNX Runtime that measures damage."""
PART_LOOPS = 2.5e-3
"""Of cutting a part out of the network and loading it, beside its weights."""
FRONTIER_LOOPS = 0.06
"""Of each site of the search space and its frontier."""
STAGE_LOOPS = 0.02
"""Of what a stage reads, writes and reports."""
FILE_LOOPS = 0.05
"""Of a plan's file beside its weights: made, loaded, compared."""
DECODED_LOOPS = 6e-3
"""Of each coded weight of a file that is loaded, whatever its size."""
DECODED_NUMBER_LOOPS = 30e-9
"""Of each of its numbers."""
CERTIFICATE_LOOPS = 0.1
"""Of the certificate's interval, and of the file that is read back."""


def rounded_to_formats(shape: MatrixShape, formats: Sequence[WeightFormat]) -> Work:
    """A weight rounded to each of its formats by itself."""
    work = _factor(shape) if formats else Work()
    for format_ in formats:
        work += (CODED if _is_coded(format_) else INTEGER).of(shape)
    return work


def rounded_anew(shape: MatrixShape, formats: Sequence[WeightFormat]) -> Work:
    """A weight rounded in one of `formats`, for what comes before it; in a coded one where there are any."""
    if shape.macs_per_sample is None or not formats:
        return Work()
    cost = CODED_ANEW if any(map(_is_coded, formats)) else DESCENT
    turns = Work(loops=cost.column_loops * shape.columns * (shape.groups - 1))  # one group after the other
    return cost.of(shape) + turns + _factor(shape) + Work(loops=CENTERED_LOOPS * shape.moments)


def second_moments(shape: MatrixShape, samples: int, batch: int, *, of_both: bool = False) -> Work:
    """The second moments of a layer's inputs collected; `of_both`: also those with the float network's inputs."""
    if shape.macs_per_sample is None:
        return Work()
    sums, inputs, macs = 1.0, shape.macs_per_sample / shape.columns * samples, shape.macs_per_sample / 2 * samples
    if of_both:  # the weight is multiplied first where that leaves few rows (`quantization.rounding.statistics`)
        early = 2 * shape.rows < shape.columns
        sums += shape.rows / shape.columns if early else 1.0
        macs += shape.macs_per_sample * samples * (2 * shape.rows / shape.columns if early else 1.0)
        inputs *= 2
    loops = math.ceil(samples / batch) * (BATCH_LOOPS + SUM_LOOPS * sums * shape.moments) + INPUT_LOOPS * inputs
    return Work(loops=loops, macs=macs)


def loaded_file(shapes: Sequence[MatrixShape], formats: Sequence[Sequence[WeightFormat]]) -> Work:
    """The file of a plan of these weights; coded where there are such formats, and then decoded one by one."""
    coded = [shape.size for shape, own in zip(shapes, formats, strict=True) if any(map(_is_coded, own))]
    return Work(loads=1, loops=DECODED_LOOPS * len(coded) + DECODED_NUMBER_LOOPS * sum(coded))


def _is_coded(format_: WeightFormat) -> bool:
    return isinstance(format_, CodedFormat | CodebookFormat)


def _factor(shape: MatrixShape) -> Work:
    return Work(macs=0.0 if shape.macs_per_sample is None else FACTOR * shape.moments * shape.columns)
