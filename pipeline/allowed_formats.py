"""Which formats the weights of a job may get: those of the request, as far as each weight can be stored in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from network.graph import Network, Site
from quantization.export.leftovers import leftovers
from quantization.formats import (
    CodebookFormat,
    FloatFormat,
    Granularity,
    IntegerFormat,
    UnsignedFormat,
    WeightFormat,
    parse_format,
)
from quantization.storage.parts import NotStorable, storage

Request = Mapping[str, Any]

# ascending preference among formats of as many bits
_KINDS = ("codebook", "hadamard", "power", "float", "int")
_SHARED = (Granularity.TENSOR, Granularity.CHANNEL, Granularity.BLOCK)


def weight_format(name: str) -> WeightFormat:
    """The format of weights called `name`.

    Raises:
        ValueError: no format of weights has this name.
    """
    format_ = parse_format(name)
    if isinstance(format_, UnsignedFormat):
        raise ValueError(f"{name} is a format of activations, and weights have none of these")
    return format_


def requested_formats(request: Request) -> list[WeightFormat]:
    """What `weights` asks for, for every weight that `layers` says nothing about."""
    weights = request["weights"]
    if weights["formats"] is not None:
        return [weight_format(name) for name in weights["formats"]]
    return [_integers(request, bits) for bits in weights["bits"]]


def candidate_formats(request: Request, activations: Collection[str]) -> list[WeightFormat]:
    """Every format that any weight may get: what `weights` asks for, and what `layers` asks for beside.

    `activations` are the names among `layers` that are none of weights.
    """
    named = [constraint for name, constraint in request["layers"].items() if name not in activations]
    beside = (format_ for constraint in named for format_ in named_formats(request, constraint))
    return list(dict.fromkeys([*requested_formats(request), *beside]))


def named_formats(request: Request, constraint: Mapping[str, Any]) -> list[WeightFormat]:
    """The formats that a constraint of `layers` names, none if it names none."""
    if "formats" in constraint:
        return [weight_format(name) for name in constraint["formats"]]
    asked = requested_formats(request)
    of_width = {bits: [format_ for format_ in asked if format_.bits == bits] for bits in constraint.get("bits", ())}
    return [format_ for bits, found in of_width.items() for format_ in found or [_integers(request, bits)]]


def allowed_to(request: Request, site: Site, constraint: Mapping[str, Any]) -> list[WeightFormat]:
    """What this site may get under its own constraint, in order of bits; empty if nothing is left."""
    if constraint.get("keep"):
        return [FloatFormat()]
    least = constraint.get("min_bits", 0)
    named = named_formats(request, constraint)
    return fitting(site, named or [format_ for format_ in requested_formats(request) if format_.bits >= least])


def fitting(site: Site, formats: Iterable[WeightFormat]) -> list[WeightFormat]:
    """`formats` in order of bits; for one that cannot hold a weight of this shape, integers of as many bits.

    Of as many bits the one to prefer is the last, where nothing is measured and so the last of all is taken: integers
    before power grids, rotated weights and codebooks, which not every weight gains by; of integers those with more
    scales and zero points, which lie nearer to the weight; of codebooks those with more outliers.
    """
    return sorted({_fitting(site, format_) for format_ in formats}, key=_preference)


def halves_of(request: Request, network: Network) -> frozenset[str]:
    """The initializers that are no weights and that the file has as float16, by name."""
    return leftovers(network) if request["weights"]["leftovers"] == "float16" else frozenset()


def names(formats: Sequence[WeightFormat]) -> list[str]:
    return [format_.name for format_ in formats]


def _preference(format_: WeightFormat) -> tuple[int, ...]:
    """Sorts by bits, and of as many bits to what `fitting` prefers, the last."""
    first = (format_.bits, _KINDS.index(format_.kind))
    match format_:
        case IntegerFormat():
            return *first, _SHARED.index(format_.granularity), -format_.block, not format_.symmetric
        case CodebookFormat():
            return *first, format_.outliers
    return first


def _fitting(site: Site, format_: WeightFormat) -> WeightFormat:
    if isinstance(format_, FloatFormat):
        return format_
    try:
        storage(format_, site.shape, site.channel_axis)
    except NotStorable:
        return IntegerFormat(format_.bits, symmetric=not isinstance(format_, IntegerFormat) or format_.symmetric)
    return format_


def _integers(request: Request, bits: int) -> IntegerFormat:
    weights = request["weights"]
    block = weights["block_size"] if weights["granularity"] == "block" else 0
    return IntegerFormat(bits, weights["granularity"], weights["symmetric"], block)
