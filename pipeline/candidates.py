"""The blob of calibration: for every site its rounded weights, in order of bits, and for every activation site the
parameters that its values take in each format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from network.activations import ActivationSite
from network.graph import Network
from pipeline.allowed_formats import weight_format
from pipeline.results import Arrays, pack, unpack
from quantization.activations.quantized import QuantizedActivation
from quantization.formats import UnsignedFormat, parse_format
from quantization.storage.families import quantized_weight
from quantization.storage.weights import QuantizedWeight

Candidates = dict[str, list[QuantizedWeight]]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ActivationCandidates:
    """An activation site with its parameters in each format, in order of bits."""

    site: ActivationSite
    formats: tuple[QuantizedActivation, ...]

    def quantized(self, format_: UnsignedFormat) -> dict[str, QuantizedActivation]:
        """The parameters of every tensor of the site, as `quantization.export.export` takes them.

        Raises:
            KeyError: the site was not calibrated in this format.
        """
        for activation in self.formats:
            if activation.format == format_:
                return dict.fromkeys(self.site.tensors, activation)
        raise KeyError(f"activation {self.site.name} was not calibrated as {format_.name}")

    def changes(self, format_: UnsignedFormat) -> dict[str, Callable[[Floats], Floats]]:
        """What rounding does to the values, by tensor name: the first tensor's alone, which the others only move.

        Raises:
            KeyError: the site was not calibrated in this format.
        """
        return {self.site.name: self.quantized(format_)[self.site.name].apply}


def pack_candidates(
    rounded: Mapping[str, Sequence[QuantizedWeight]],
    methods: Mapping[str, str],
    activations: Sequence[ActivationCandidates] = (),
) -> bytes:
    """`rounded` by site name; `methods` says of each how: "gptq" or "nearest", and after a colon why or with what."""
    document, arrays = weights_to_arrays(rounded)
    document["methods"] = dict(methods)
    document["activations"] = [
        {
            "tensors": list(found.site.tensors),
            "elements": found.site.elements,
            "formats": [[a.format.name, a.scale, a.zero_point] for a in found.formats],
        }
        for found in activations
    ]
    return pack(document, arrays)


def pack_weights(network: Network, weights: Mapping[str, QuantizedWeight], notes: Mapping[str, str]) -> bytes:
    """The weights of one plan, by initializer name; `notes` says of those that were rounded anew how."""
    sites = [site for site in network.sites if site.weight in weights]
    methods = {site.name: notes[site.weight] for site in sites if site.weight in notes}
    return pack_candidates({site.name: [weights[site.weight]] for site in sites}, methods)


@dataclass(frozen=True)
class Rounded:
    """All candidates of a job: rounded weights and activations, both by site name and in order of bits."""

    weights: Candidates
    activations: Mapping[str, ActivationCandidates]

    @classmethod
    def unpack(cls, blob: bytes) -> Rounded:
        """As `pack_candidates` got them, both in its order."""
        document, arrays = unpack(blob)
        activations = [_activation(entry) for entry in document["activations"]]
        return cls(weights_from_arrays(document, arrays), {found.site.name: found for found in activations})


def weights_to_arrays(rounded: Mapping[str, Sequence[QuantizedWeight]]) -> tuple[dict[str, Any], Arrays]:
    """`rounded` by name, as a document and arrays that `pipeline.results.pack` takes, with others beside."""
    arrays: Arrays = {}
    for index, weights in enumerate(rounded.values()):
        for weight in weights:
            arrays |= {f"{index}/{weight.format.name}/{field}": array for field, array in weight.arrays().items()}
    formats = {name: [weight.format.name for weight in weights] for name, weights in rounded.items()}
    return {"sites": list(rounded), "formats": formats}, arrays


def weights_from_arrays(document: Mapping[str, Any], arrays: Arrays) -> Candidates:
    """What `weights_to_arrays` was given, in its order."""
    of_weights: dict[str, Arrays] = {}
    for key, array in arrays.items():
        place, _, field = key.rpartition("/")
        of_weights.setdefault(place, {})[field] = array
    return {
        name: [
            quantized_weight(weight_format(format_), of_weights[f"{index}/{format_}"])
            for format_ in document["formats"][name]
        ]
        for index, name in enumerate(document["sites"])
    }


def _activation(entry: Mapping[str, Any]) -> ActivationCandidates:
    formats = []
    for name, scale, zero_point in entry["formats"]:
        format_ = parse_format(name)
        if not isinstance(format_, UnsignedFormat):
            raise ValueError(f"candidates of activations are unsigned formats, got {name}")
        formats.append(QuantizedActivation(format_, scale, zero_point))
    site = ActivationSite(entry["tensors"][0], tuple(entry["tensors"]), entry["elements"])
    return ActivationCandidates(site, tuple(formats))


def rounding_methods(blob: bytes) -> dict[str, str]:
    """How the weight of every site was rounded, as `pack_candidates` got it."""
    document, _ = unpack(blob)
    return dict(document["methods"])
