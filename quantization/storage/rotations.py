"""Symmetric integers of a rotated weight.

Panferov et al., "QuEST: Stable Training of LLMs with 1-Bit Weights and Activations", arXiv 2502.05003; Lee et al.,
"Q-Palette: Fractional-Bit Quantizers Toward Optimal Bit Allocation for Efficient LLM Deployment", arXiv 2509.20214. A
rotation by a Hadamard matrix makes each number a sum over a whole block with signs: an outlier is shared out, and
whatever the weights' distribution was, the rotated one is nearly Gaussian.

The weight is folded to `[outer, reduced, inner]` (`quantization.granularity`), and `reduced` is cut into blocks of
h, the largest power of two that divides it, at most `LARGEST_BLOCK`. The matrix is

    R = K (x) ... (x) K            h a power of 4, K = [[-1, 1, 1, 1], [1, -1, 1, 1], [1, 1, -1, 1], [1, 1, 1, -1]]
    R = K (x) ... (x) K (x) H      h twice a power of 4, H = [[1, 1], [1, -1]]

which is Sylvester's but for signs and order. The papers draw signs at random, so that a block of equal weights does not
become one spike; here such a block stays flat with K, its peak grows by the square root of 2 with H, and the same holds
for every row of Sylvester's matrix [ours]. R is symmetric, and `R R = h I`: it turns back what it turned.

A weight is `scale * (R codes)`. The sums are integers below `2**24`, exact in float32 in any order, so that the file
computes what numpy does bit for bit; the norm `sqrt(h)` of R is part of the scale.

The rotation is undone when the file is loaded, and the float graph runs: activations are not rotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from network.graph import ChannelAxis
from quantization.formats import HadamardFormat
from quantization.granularity import NotFoldable, fold
from quantization.storage.weights import Floats, ScaledWeight, zero_share

SMALLEST_BLOCK = 8
LARGEST_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a weight is rotated: in its own order as `[-1, block, inner]`, along the second axis."""

    block: int
    inner: int

    def turn(self, weight: Floats) -> Floats:
        """R times each block, in the weight's own shape."""
        matrix = hadamard(self.block)
        if self.inner == 1:
            return (weight.reshape(-1, self.block) @ matrix).reshape(weight.shape)
        return (matrix @ weight.reshape(-1, self.block, self.inner)).reshape(weight.shape)


@cache
def hadamard(block: int) -> Floats:
    """R `[block, block]` of the module's docstring, `block` a power of two: entries 1 and -1."""
    matrix = np.ones((1, 1), dtype=np.float32)
    while len(matrix) * 4 <= block:
        matrix = np.kron(matrix, np.ones((4, 4), dtype=np.float32) - 2 * np.eye(4, dtype=np.float32))
    if len(matrix) < block:
        matrix = np.kron(matrix, np.array([[1, 1], [1, -1]], dtype=np.float32))
    matrix.setflags(write=False)
    return matrix


def rotation(shape: tuple[int, ...], scales: tuple[int, ...]) -> Rotation:
    """How a weight of `shape` with scales of shape `scales`, one for each channel, is rotated.

    Raises:
        ValueError: no blocks of at least `SMALLEST_BLOCK` divide what an output of the weight sums over.
    """
    reasons = []
    for axis in _channel_axes(shape, scales):
        folded = fold(shape, axis)
        if isinstance(folded, NotFoldable):
            reasons.append(folded.reason)
            continue
        block = min(folded.reduced & -folded.reduced, LARGEST_BLOCK)
        if block >= SMALLEST_BLOCK:
            return Rotation(block, folded.inner)
        reasons.append(
            f"an output of a weight of shape {shape} sums over {folded.reduced} weights,"
            f" and a rotation takes a multiple of {SMALLEST_BLOCK}"
        )
    raise ValueError(reasons[0] if reasons else f"a weight of shape {shape} has no axis that is summed over")


def _channel_axes(shape: tuple[int, ...], scales: tuple[int, ...]) -> Sequence[ChannelAxis]:
    """The channel axes that scales of this shape may have, the first that can be rotated to be taken."""
    longer = [axis for axis, length in enumerate(scales) if length > 1]
    if len(longer) > 1:  # of a stack of matrices
        rank = len(shape)
        summed = [axis for axis in (rank - 2, rank - 1) if scales[axis] < shape[axis]]
        return [tuple(axis for axis in range(rank) if axis != own) for own in summed]
    # a single channel may lie on any axis of length 1, whichever it was
    return longer or [axis for axis, length in enumerate(shape) if length == 1]


@dataclass(frozen=True, slots=True, eq=False)
class HadamardWeight(ScaledWeight):
    """Codes of the rotated weight in the weight's own shape, and a scale per channel, the norm of the rotation in it.

    Raises:
        ValueError: a dtype, shape or value outside of this, or a shape that no rotation fits.
    """

    format: HadamardFormat

    def __post_init__(self) -> None:
        ScaledWeight.__post_init__(self)
        rotation(self.codes.shape, self.scale.shape)

    def sparsity(self) -> float:
        """Of the codes of the rotated weight: a zero among them is none of the weight."""
        return zero_share(self.codes)

    def dequantize(self) -> Floats:
        """`R codes * scale` with one rounding to float32: what the exported file computes, bit for bit."""
        values = rotation(self.codes.shape, self.scale.shape).turn(self.codes.astype(np.float32))
        values *= self.scale
        return values
