"""The blob of rounded weights: for every site its candidates, in order of bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantization.formats import IntegerFormat, parse_format
from quantization.weights import QuantizedWeight
from workers.stages.payload import Arrays, pack, unpack

Candidates = dict[str, list[QuantizedWeight]]


def pack_candidates(rounded: Mapping[str, Sequence[QuantizedWeight]], methods: Mapping[str, str]) -> bytes:
    """`rounded` by site name; `methods` says of each how: "gptq" or "nearest", and after a colon why or with what."""
    arrays: Arrays = {}
    names: dict[str, list[str]] = {}
    for index, (site, weights) in enumerate(rounded.items()):
        names[site] = [weight.format.name for weight in weights]
        for weight in weights:
            arrays[f"{index}/{weight.format.name}/codes"] = weight.codes
            arrays[f"{index}/{weight.format.name}/scale"] = weight.scale
    document = {"sites": list(rounded), "formats": names, "methods": dict(methods)}
    return pack(document, arrays)


def unpack_candidates(blob: bytes) -> Candidates:
    """Every site's rounded weights, as `pack_candidates` got them."""
    document, arrays = unpack(blob)
    candidates: Candidates = {}
    for index, site in enumerate(document["sites"]):
        candidates[site] = []
        for name in document["formats"][site]:
            format_ = parse_format(name)
            if not isinstance(format_, IntegerFormat):
                raise ValueError(f"candidates are integer formats, got {name}")
            weight = QuantizedWeight(format_, arrays[f"{index}/{name}/codes"], arrays[f"{index}/{name}/scale"])
            candidates[site].append(weight)
    return candidates


def rounding_methods(blob: bytes) -> dict[str, str]:
    """How the weight of every site was rounded, as `pack_candidates` got it."""
    document, _ = unpack(blob)
    return dict(document["methods"])
