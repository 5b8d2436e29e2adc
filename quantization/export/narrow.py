"""Weights that stay as they came, of networks whose weights had 16 bits: float16 in the file, and no digit is lost."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from network.graph import Network
from quantization.formats import FloatFormat, Format, HalfFormat
from quantization.storage.halves import HalfWeight


def stored_format(network: Network, weight: str, format_: Format) -> Format:
    """The format that the file has the initializer `weight` in, where a plan gives it `format_`."""
    is_narrow = isinstance(format_, FloatFormat) and weight in network.narrow
    return HalfFormat() if is_narrow else format_


def narrow_weights(network: Network, rounded: Container[str]) -> dict[str, HalfWeight]:
    """The weights of sites, by initializer name, that are stored as float16 because they came so: all but `rounded`."""
    names = [site.weight for site in network.sites if site.weight in network.narrow and site.weight not in rounded]
    return {name: HalfWeight(HalfFormat(), network.weight(name).astype(np.float16)) for name in names}
