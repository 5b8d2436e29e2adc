"""A plan that the request brings: what every weight and activation gets, so that nothing is left to search for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from network.graph import Network, Site
from pipeline.config import GivenPlan, PlanRow
from pipeline.reach import planned_activations
from planner.errors import UnknownLayer
from planner.targets import Target, target
from quantization.formats import FloatFormat, Format, UnsignedFormat, WeightFormat, parse_format
from quantization.storage.parts import NotStorable, storage


class PlanUnfit(ValueError):
    """The plan does not fit the network: it leaves out a layer, or gives one what it cannot get."""

    code: ClassVar[str] = "plan_invalid"


@dataclass(frozen=True, slots=True)
class GivenFormats:
    """The formats of a plan that the request brings, by names of sites, in graph order.

    `activations` is empty where they stay float32. `rounded_with` has for each weight that is rounded its format among
    those that GPTQ is to round it to at once: its sums in float32 differ in their last bits with that company, so that
    only the same one gives the same weight bit for bit.
    """

    weights: Mapping[str, WeightFormat]
    activations: Mapping[str, Format]
    rounded_with: Mapping[str, tuple[WeightFormat, ...]]

    def allowed(self) -> dict[str, list[str]]:
        """The one format name that each site may get, weights and then activations."""
        return {name: [format_.name] for name, format_ in {**self.weights, **self.activations}.items()}


def given_formats(plan: GivenPlan, target_name: str, network: Network) -> GivenFormats:
    """The plan that the request brings, as one of this network.

    Raises:
        UnknownLayer: it names what the network does not have; the text lists what there is.
        PlanUnfit: it leaves a site out, names one twice, or names a format that the site cannot get.
        ConstraintImpossible: the target, or the opset of the result, does not have a format.
    """
    runs = target(target_name)
    layers = _by_site(plan.layers, network.sites_by_name, [site.name for site in network.sites])
    weights = {site.name: _weight_format(layers[site.name], site, runs) for site in network.sites}
    activations: dict[str, Format] = {}
    if plan.activations:
        names = [site.name for site in planned_activations(network)]
        rows = _by_name(plan.activations, names, "activations", [row.name for row in plan.activations])
        activations = {name: _activation_format(row, name, runs, network.opset) for name, row in rows.items()}
    rounded_with = {
        site.name: _rounded_with(layers[site.name], weights[site.name], site)
        for site in network.sites
        if not isinstance(weights[site.name], FloatFormat)
    }
    return GivenFormats(weights, activations, rounded_with)


def _by_site(rows: Sequence[PlanRow], known: Mapping[str, Sequence[Site]], sites: Sequence[str]) -> dict[str, PlanRow]:
    meant = []
    for row in rows:
        sites_of = known.get(row.name, ())
        if len(sites_of) > 1:
            raise PlanUnfit(
                f"plan.layers names {row.name!r}, which is a node or a weight of several layers: "
                f"{', '.join(site.name for site in sites_of)}; give each its format by these names"
            )
        meant.append(sites_of[0].name if sites_of else row.name)
    return _by_name(rows, sites, "layers", meant)


def _by_name(rows: Sequence[PlanRow], there: Sequence[str], part: str, meant: Sequence[str]) -> dict[str, PlanRow]:
    """The row of each name that is `there`, in that order; `meant` are the names that the rows stand for."""
    unknown = [row.name for row, name in zip(rows, meant, strict=True) if name not in there]
    if unknown:
        raise UnknownLayer(
            f"plan.{part} names {', '.join(map(repr, unknown))}, which the network does not have; those that can be "
            f"planned are {', '.join(there)}"
        )
    row_of = dict(zip(meant, rows, strict=True))
    if len(row_of) < len(rows):
        twice = [row.name for row, name in zip(rows, meant, strict=True) if row_of[name] is not row]
        raise PlanUnfit(
            f"plan.{part} names {', '.join(map(repr, twice))} twice, once by another name; keep one of both"
        )
    if left_out := [name for name in there if name not in row_of]:
        raise PlanUnfit(
            f"plan.{part} leaves out {', '.join(map(repr, left_out))}; give each a format, "
            f'{{"name": "{left_out[0]}", "format": "float32"}} where it is to stay as it is'
        )
    return {name: row_of[name] for name in there}


def _weight_format(row: PlanRow, site: Site, runs: Target) -> WeightFormat:
    asked_by = f"plan.layers, {site.name},"
    format_ = _storable(row, site, asked_by)
    if not isinstance(format_, FloatFormat):
        runs.check_weight_format(format_, asked_by)
    return format_


def _storable(row: PlanRow, site: Site, asked_by: str) -> WeightFormat:
    """The format of a row, if the weight of the site can have it."""
    format_ = _format(row, asked_by)
    if isinstance(format_, UnsignedFormat):
        raise PlanUnfit(f"{asked_by} is a weight, and {format_.name} a format of activations; take e.g. int8/channel")
    if isinstance(format_, FloatFormat):
        return format_
    try:
        storage(format_, site.shape, site.channel_axis)
    except NotStorable as error:
        raise PlanUnfit(f"{asked_by} cannot have the format {format_.name}: {error}; take e.g. int4/channel") from None
    return format_


def _activation_format(row: PlanRow, name: str, runs: Target, opset: int) -> Format:
    asked_by = f"plan.activations, {name},"
    format_ = _format(row, asked_by)
    if isinstance(format_, UnsignedFormat):
        runs.check_activation_bits(format_.bits, asked_by, opset)
    elif not isinstance(format_, FloatFormat):
        raise PlanUnfit(f"{asked_by} is an activation, and {format_.name} a format of weights; take e.g. uint8/tensor")
    return format_


def _format(row: PlanRow, asked_by: str) -> Format:
    try:
        format_ = parse_format(row.format)
    except ValueError as error:
        raise PlanUnfit(f"{asked_by} has the format {row.format!r}, which does not exist: {error}") from None
    if row.bits is not None and row.bits != format_.bits:
        raise PlanUnfit(
            f"{asked_by} has the format {format_.name} and {row.bits} bits, which contradict each other; the format "
            "decides: change it, and leave bits out"
        )
    return format_


def _rounded_with(row: PlanRow, format_: WeightFormat, site: Site) -> tuple[WeightFormat, ...]:
    if format_.name not in row.rounded_with:
        return (format_,)
    asked_by = f"plan.layers, {site.name}, rounded_with,"
    names = dict.fromkeys(row.rounded_with)
    formats = (_storable(PlanRow(row.name, name), site, asked_by) for name in names)
    return tuple(one for one in formats if not isinstance(one, FloatFormat))
