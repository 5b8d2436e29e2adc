"""The zoo: all networks by name, none made before it is asked for."""

from __future__ import annotations

from benchmarks.networks.entry import BUILDERS, Network
from benchmarks.networks.zoo import (
    bodies,
    composed,
    decoders,
    detection,
    interfaces,
    masks,
    old_files,
    places,
    quantized,
    refused,
    serving,
    speech,
    tabular,
    text,
    types,
    vision,
)

FAMILIES = (
    vision,
    text,
    decoders,
    speech,
    detection,
    tabular,
    old_files,
    interfaces,
    masks,
    types,
    bodies,
    places,
    serving,
    composed,
    quantized,
    refused,
)
NAMES = tuple(BUILDERS)


def build(name: str) -> Network:
    """The network called `name`.

    Raises:
        KeyError: there is none; the text lists all.
    """
    if name not in BUILDERS:
        raise KeyError(f"no network is called {name!r}; there are {', '.join(NAMES)}")
    return BUILDERS[name].build()
