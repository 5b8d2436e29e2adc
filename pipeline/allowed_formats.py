"""Which formats each site may get: those of the request, as far as the network, the target and the opset have them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from network.errors import NothingToQuantize, listing
from network.graph import Network, Site
from pipeline.config import NO_CONSTRAINT, FormatConfig, LayerConstraint
from pipeline.given_plan import given_formats
from pipeline.reach import measured_outputs, planned_activations, unmeasured_sites
from pipeline.site_names import sites_named
from pipeline.ties import shared_formats, tied_groups
from planner.errors import ConstraintImpossible
from planner.targets import target
from quantization.export.products import Products, packed_products
from quantization.formats import (
    ACTIVATION_BITS,
    MIN_BITS,
    CodebookFormat,
    FloatFormat,
    Granularity,
    IntegerFormat,
    UnsignedFormat,
    WeightFormat,
)
from quantization.storage.parts import NotStorable, storage

Allowed = dict[str, list[str]]
"""Format names by site name, weights and then activations, by bits."""

MOST_CODED = 1 << 25
"""Numbers of all weights that are coded, small weights first. While the file is loaded each takes some 60 bytes, and
ONNX Runtime keeps those of all weights until the last is decoded: 1.9 GB."""
LEAST_CODED = 50_000
"""Numbers of all weights of the network. Fewer do not save what the function that decodes them takes in the file."""

# ascending preference among formats of as many bits
_KINDS = ("coded", "codebook", "hadamard", "power", "float", "int")
_SHARED = (Granularity.TENSOR, Granularity.CHANNEL, Granularity.BLOCK)


def allowed_formats(
    network: Network, config: FormatConfig, unreached: Collection[str] = ()
) -> tuple[Allowed, list[list[str]]]:
    """The formats of every site, and the groups of sites that must share one.

    Args:
        unreached: sites whose damage no sample shows.

    Raises:
        UnknownLayer: `layers` names what is no layer, weight or site; the text lists what there is.
        ConstraintImpossible: it names one weight twice and says different things of it, a name is that of several
            weights, weights that must share a format have none in common, or the target does not have a format.
        NothingToQuantize: no weight leads to a measured output.
        PlanUnfit: the request brings a plan, and that does not fit the network.
    """
    if config.plan is not None:
        return given_formats(config.plan, config.target, network).allowed(), []
    activations = _allowed_activations(network, config)
    _check_target(config, activations, network.opset)
    unmeasured = unmeasured_sites(network)
    if len(unmeasured) == len(network.sites):
        raise NothingToQuantize(
            f"the measured outputs {listing([repr(name) for name in measured_outputs(network)])} depend on no weight "
            f"that can be quantized; got {listing(sorted(unmeasured))} before outputs of integers only, or before "
            "none: export the network with the floats that the integers are made from"
        )
    layers = {name: constraint for name, constraint in config.layers.items() if name not in activations}
    constraints = _by_site(layers, network)
    of_all = offered(config, network, config.weights)
    allowed = {site.name: _names(_allowed_to(config, site, constraints, of_all[site.name])) for site in network.sites}
    if nothing := [name for name, formats in allowed.items() if not formats]:
        raise ConstraintImpossible(
            f"layers.{nothing[0]} asks for at least {constraints[nothing[0]].min_bits} bits, and weights has no "
            'format of as many; allow wider weights, or keep the layer in float32 with {"keep": true}'
        )
    tied = tied_groups(network, constraints)
    candidates = offered(config, network, candidate_formats(config, activations))
    rounded = {site.name: _names(fitting(site, candidates[site.name])) for site in network.sites}
    allowed = shared_formats(tied, constraints, allowed, rounded)
    # Nothing would measure what fewer bits do to outputs of integers; of the widest the last is the one to prefer.
    unmeasured |= set(unreached)
    widest = unmeasured.union(*(group for group in tied if unmeasured.intersection(group)))
    allowed = {name: formats[-1:] if name in widest else formats for name, formats in allowed.items()}
    return {**allowed, **activations}, tied


def candidate_formats(config: FormatConfig, activations: Collection[str]) -> list[WeightFormat]:
    """Every format that any weight may get: what the request names for all, and for single layers in addition.

    `activations` are the names among `layers` that mean an activation.
    """
    constraints = [constraint for name, constraint in config.layers.items() if name not in activations]
    added = (format_ for constraint in constraints for format_ in config.named(constraint))
    return list(dict.fromkeys([*config.weights, *added]))


def product_formats(network: Network, site: Site, config: FormatConfig) -> list[WeightFormat]:
    """The formats that the weight of this site may get besides all others, because its layers multiply with it packed,
    and that hold a weight of its shape."""
    return [
        format_
        for format_ in config.products
        if packed_products(network, {site.weight: format_}, Products.PACKED) and format_ in fitting(site, [format_])
    ]


def activation_widths(config: FormatConfig, activations: Collection[str]) -> list[int]:
    """Every width that any activation may get, ascending: what the request names for all, and for single ones.

    `activations` are the names among `layers` that mean one.
    """
    named = [constraint.bits for name, constraint in config.layers.items() if name in activations]
    return sorted({*(config.activations or ()), *(width for bits in named for width in bits)})


def offered(config: FormatConfig, network: Network, formats: Sequence[WeightFormat]) -> dict[str, list[WeightFormat]]:
    """By site `formats`, and those that are offered besides: coded ones to weights that they pay for, and products to
    those that can be multiplied packed."""
    sizes = {site.weight: math.prod(site.shape) for site in network.sites}
    ascending = sorted(sizes, key=sizes.__getitem__)
    behind = dict(zip(ascending, itertools.accumulate(sizes[weight] for weight in ascending), strict=True))
    coded = config.coded if sum(sizes.values()) >= LEAST_CODED else ()
    return {
        site.name: [
            *formats,
            *(coded if behind[site.weight] <= MOST_CODED else ()),
            *product_formats(network, site, config),
        ]
        for site in network.sites
    }


def fitting(site: Site, formats: Iterable[WeightFormat]) -> list[WeightFormat]:
    """`formats` in order of bits; for one that cannot hold a weight of this shape, integers of as many bits.

    Of as many bits the one to prefer is the last, where nothing is measured and so the last of all is taken: integers
    before power grids, rotated weights and codebooks, which not every weight gains by; of integers those with more
    scales and zero points, which lie nearer to the weight; of codebooks those with more outliers.
    """
    return sorted({_stored(site, format_) for format_ in formats}, key=_preference)


def _stored(site: Site, format_: WeightFormat) -> WeightFormat:
    if isinstance(format_, FloatFormat):
        return format_
    try:
        storage(format_, site.shape, site.channel_axis)
    except NotStorable:
        bits = max(MIN_BITS, round(format_.bits))
        return IntegerFormat(bits, symmetric=not isinstance(format_, IntegerFormat) or format_.symmetric)
    return format_


def _preference(format_: WeightFormat) -> tuple[float, ...]:
    """Sorts by bits, and of as many bits to what `fitting` prefers, the last."""
    first = (format_.bits, _KINDS.index(format_.kind))
    match format_:
        case IntegerFormat():
            return *first, _SHARED.index(format_.granularity), -format_.block, not format_.symmetric
        case CodebookFormat():
            return *first, format_.outliers
    return first


def _names(formats: Sequence[WeightFormat]) -> list[str]:
    return [format_.name for format_ in formats]


def _allowed_to(
    config: FormatConfig, site: Site, constraints: Mapping[str, LayerConstraint], of_all: Sequence[WeightFormat]
) -> list[WeightFormat]:
    """What this weight may get under its own constraint, or of what it is offered, `of_all`, in order of bits; empty if
    nothing is left.

    A table may stay float32, unless the constraint names formats: coordinates, for one, need all their digits.
    """
    constraint = constraints.get(site.name, NO_CONSTRAINT)
    if constraint.keep:
        return [FloatFormat()]
    if named := config.named(constraint):
        return fitting(site, named)
    wide = [format_ for format_ in of_all if format_.bits >= constraint.min_bits]
    return fitting(site, [*wide, FloatFormat()] if site.is_table else wide)


def _allowed_activations(network: Network, config: FormatConfig) -> Allowed:
    """Format names by activation site; none if the request leaves activations in float32.

    Raises:
        ConstraintImpossible: a constraint leaves nothing.
    """
    if config.activations is None:
        return {}
    sites = planned_activations(network)
    constraint_of = {site.name: config.layers.get(site.name, NO_CONSTRAINT) for site in sites}
    return {name: _activation_formats(config.activations, name, own) for name, own in constraint_of.items()}


def _activation_formats(widths: tuple[int, ...], name: str, constraint: LayerConstraint) -> list[str]:
    if constraint.keep:
        return [FloatFormat().name]
    remedy = f'name its widths: {{"bits": {list(widths)}}}'
    if constraint.same_as is not None:
        raise ConstraintImpossible(f"layers.{name} is an activation, which cannot be the same as another; {remedy}")
    if constraint.formats:
        formats = ", ".join(_names(constraint.formats))
        raise ConstraintImpossible(f"layers.{name} is an activation, and {formats} are formats of weights; {remedy}")
    chosen = constraint.bits or [width for width in widths if width >= constraint.min_bits]
    if not chosen or set(chosen) - set(ACTIVATION_BITS):
        got = {"bits": list(constraint.bits)} if constraint.bits else {"min_bits": constraint.min_bits}
        raise ConstraintImpossible(
            f"layers.{name} is an activation and may get {' or '.join(map(str, ACTIVATION_BITS))} bits, of which "
            f"activations.bits leaves {', '.join(map(str, widths))}; got {got}"
        )
    return [UnsignedFormat(width).name for width in sorted(chosen)]


def _by_site(layers: Mapping[str, LayerConstraint], network: Network) -> dict[str, LayerConstraint]:
    """The constraints of `layers` by site name, whichever of its names the request takes.

    Raises:
        UnknownLayer, ConstraintImpossible: as `allowed_formats`.
    """
    constraints: dict[str, LayerConstraint] = {}
    for name, site in sites_named(network, layers, "layers").items():
        constraint = layers[name]
        if constraints.setdefault(site.name, constraint) != constraint:
            raise ConstraintImpossible(
                f"layers names the weight {site.weight!r} twice with different constraints, {name!r} being one "
                f"of its names; say it once, as {site.name!r}"
            )
    return constraints


def _check_target(config: FormatConfig, activations: Collection[str], opset: int) -> None:
    """Every format that the request names must be one of its target's; `activations` are those among its `layers`.

    Raises:
        ConstraintImpossible: one is not; the text names the nearest that is. Or the opset of the result lacks it.
    """
    runs = target(config.target)
    for format_ in config.weights:
        runs.check_weight_format(format_, "weights.formats" if config.by_name else "weights.bits")
    for bits in config.activations or ():
        runs.check_activation_bits(bits, "activations.bits", opset)
    for name, constraint in config.layers.items():
        if name in activations:
            for bits in constraint.bits:
                runs.check_activation_bits(bits, f"layers.{name}.bits", opset)
            continue
        for format_ in config.named(constraint):
            runs.check_weight_format(format_, f"layers.{name}.{'formats' if constraint.formats else 'bits'}")
