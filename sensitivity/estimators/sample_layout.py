"""Where the samples of a batch lie in an intermediate value.

Inputs and outputs have the sample axis first, but what lies between may be transposed (a sequence before the batch), or
have the samples merged with positions (`[N * L, D]`), or be the same for all samples (an embedding of positions). Two
samples run alone and together show which: without it, squares of sums over one sample could not be taken apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from network.errors import UnsupportedOperators
from network.execution import TorchNetwork
from sensitivity.traces import tensors_of

RTOL = 1e-3  # of the largest element: batches of one and of two are summed in another order


@dataclass(frozen=True)
class SampleLayout:
    """Axis `axis` has `outer * N * inner` elements, the sample in the middle."""

    axis: int
    outer: int

    def rows(self, value: Tensor, samples: int) -> Tensor:
        """The elements of each sample, `[samples, elements]`.

        Raises:
            UnsupportedOperators: the samples do not have equal shares.
        """
        size = value.shape[self.axis]
        if size % (self.outer * samples):
            raise UnsupportedOperators(
                "a value has as many rows as are found in the samples, so that their samples cannot be told apart"
            )
        split = (self.outer, samples, size // (self.outer * samples))
        apart = value.reshape(*value.shape[: self.axis], *split, *value.shape[self.axis + 1 :])
        return apart.movedim(self.axis + 1, 0).reshape(samples, -1)


def batch_is_free(network: TorchNetwork) -> bool:
    """Whether any number of samples can go through the network at once."""
    return network.network.batching.size is None


def sample_layouts(
    network: TorchNetwork, inputs: Mapping[str, NDArray[np.generic]], names: Collection[str]
) -> dict[str, SampleLayout]:
    """The layout of the values called `names`; one whose samples cannot be told apart is left out.

    `inputs` are arrays `[samples, ...]` with at least two samples. A network with a fixed batch size has none.
    """
    if not names or not batch_is_free(network):
        return {}
    pair = [0, _another(inputs)]
    first, second, both = (_values(network, inputs, samples, names) for samples in (pair[:1], pair[1:], pair))
    layouts = {name: _layout(first[name], second[name], both[name]) for name in names}
    return {name: layout for name, layout in layouts.items() if layout is not None}


def _another(inputs: Mapping[str, NDArray[np.generic]]) -> int:
    """A sample that differs from sample 0: of two equal ones every layout would hold."""
    samples = len(next(iter(inputs.values())))
    different = (i for i in range(1, samples) if any((array[i] != array[0]).any() for array in inputs.values()))
    return next(different, 1)


def _values(
    network: TorchNetwork, inputs: Mapping[str, NDArray[np.generic]], samples: list[int], names: Collection[str]
) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def record(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return value

    with torch.no_grad():
        tensors = tensors_of(network, {name: array[samples] for name, array in inputs.items()})
        network.run(tensors, through={name: partial(record, name) for name in names})
    return seen


def _layout(first: Tensor, second: Tensor, both: Tensor) -> SampleLayout | None:
    if not first.numel() or first.shape != second.shape or first.dim() != both.dim():
        return None
    if 2 * first.numel() != both.numel():
        return None
    grown = [axis for axis, size in enumerate(both.shape) if size != first.shape[axis]]
    if len(grown) != 1:
        return None
    size = first.shape[grown[0]]
    for outer in (k for k in range(1, size + 1) if size % k == 0):
        layout = SampleLayout(grown[0], outer)
        expected = torch.stack([layout.rows(value, 1)[0] for value in (first, second)])
        largest = expected[torch.isfinite(expected)].abs().amax().item() if torch.isfinite(expected).any() else 0.0
        if torch.allclose(layout.rows(both, 2), expected, rtol=0.0, atol=RTOL * largest, equal_nan=True):
            return layout
    return None
