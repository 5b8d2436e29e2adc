"""Weights that are rounded when they are asked for, so that no two of them are held at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from network.graph import Network
from quantization.formats import WeightFormat
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import QuantizedWeight

Round = Callable[[NDArray[np.float32], WeightFormat, int], QuantizedWeight]


class RoundedOnDemand(Mapping[str, QuantizedWeight]):
    """The weights of `network` in `formats`, by initializer name, each made anew whenever it is looked up.

    Args:
        formats: by initializer name, of sites of the network.
        round_: gives a weight in a format, from its values and the axis of its output channels.

    Raises:
        ValueError: a name is no site's weight.
    """

    def __init__(self, network: Network, formats: Mapping[str, WeightFormat], round_: Round = round_nearest) -> None:
        self._network = network
        self._axes = {site.weight: site.channel_axis for site in network.sites}
        self._round = round_
        self.formats: Mapping[str, WeightFormat] = MappingProxyType(dict(formats))
        if unknown := formats.keys() - self._axes.keys():
            raise ValueError(f"{', '.join(sorted(unknown))} is no weight of the network's sites; formats are for those")

    def __getitem__(self, name: str) -> QuantizedWeight:
        format_ = self.formats[name]
        return self._round(self._network.weight(name), format_, self._axes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.formats)

    def __len__(self) -> int:
        return len(self.formats)


def formats_of(weights: Mapping[str, QuantizedWeight]) -> Mapping[str, WeightFormat]:
    """The formats of weights by name; none is rounded for it."""
    if isinstance(weights, RoundedOnDemand):
        return weights.formats
    return {name: weight.format for name, weight in weights.items()}
