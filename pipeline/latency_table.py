"""The latency of every layer in every format: what the stage `latency` wrote, measured here or given by the user."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.layer_model import inputs_of
from network.activations import find_activations
from network.graph import Network
from network.sites import RECURRENT
from quantization.formats import UnsignedFormat, parse_format


def feeders(network: Network, planned: Collection[str]) -> dict[str, str]:
    """By weight site the activation site that feeds it: where all that its layers read is one that is planned, and
    they are not recurrent, which compute in floats whatever they read."""
    site_of = {tensor: site.name for site in find_activations(network) for tensor in site.tensors}
    feeder_of: dict[str, str] = {}
    for site in network.sites:
        read = {site_of.get(name, "") for layer in site.outer_layers for name in inputs_of(network, layer)}
        recurrent = any(layer.op_type in RECURRENT for layer in site.layers)
        if len(read) == 1 and read <= set(planned) and not recurrent:
            feeder_of[site.name] = read.pop()
    return feeder_of


def entry(format_name: str, activation: UnsignedFormat | None) -> str:
    """The key of a layer's latency: the format of its weight, and that of what it reads unless that is float."""
    return format_name if activation is None else f"{format_name}+{activation.name}"


@dataclass(frozen=True)
class LatencyTable:
    """`document` has the machine, the `base_ms` of everything that is no layer, the `sites` with their entries, and the
    formats in which a site is `unpacked` at load because it is slower multiplied packed."""

    document: Mapping[str, Any]

    @property
    def base_ms(self) -> float:
        return float(self.document["base_ms"])

    def is_unpacked(self, site: str, format_name: str) -> bool:
        """Whether a site with its weight in this format multiplies in floats, though it could packed."""
        return format_name in self.document.get("unpacked", {}).get(site, ())

    def ms(self, site: str, format_name: str, activation: UnsignedFormat | None = None) -> float:
        """Milliseconds of one run of all layers of a site.

        Args:
            site: its name.
            format_name: of its weight.
            activation: format of what its layers read; None is float. A layer that no integer kernel runs has the same
                latency for all.
        """
        entries = self.document["sites"][site]
        timed = entries.get(entry(format_name, activation)) or entries[format_name]
        return float(timed["ms"])


def unsigned(format_name: str) -> UnsignedFormat | None:
    """The format of an activation by its name; None where it stays float."""
    format_ = parse_format(format_name)
    return format_ if isinstance(format_, UnsignedFormat) else None
