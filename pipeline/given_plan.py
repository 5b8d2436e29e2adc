"""A plan that the request brings: what every weight and activation gets, so that nothing is left to search for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from app.schemas.plan import ALL_FLOAT, AppliedFormat, AppliedLayer, AppliedPlan
from network.activations import ActivationSite
from network.graph import Network, Site
from pipeline.reach import planned_activations
from pipeline.site_names import sites_named
from planner.errors import UnknownLayer
from planner.targets import Target, target
from quantization.formats import FloatFormat, Format, UnsignedFormat, WeightFormat, parse_format
from quantization.storage.parts import NotStorable, storage

Row = TypeVar("Row", bound=AppliedFormat)


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


def given_formats(plan: AppliedPlan, target_name: str, network: Network) -> GivenFormats:
    """The plan that the request brings, as one of this network.

    Raises:
        UnknownLayer: it names what the network does not have; the text lists what there is.
        PlanUnfit: it leaves a site out, names one twice, or names a format that the site cannot get.
        ConstraintImpossible: the target, or the opset of the result, does not have a format.
    """
    if not plan.stands_alone:
        raise PlanUnfit(
            "plan.base is a job, which only its service knows; take float32, or name every layer: a plan.json does"
        )
    runs = target(target_name)
    is_partial = plan.base == ALL_FLOAT
    sites = sites_named(network, [row.name for row in plan.layers], "plan.layers", ambiguous=PlanUnfit)
    meant = {name: site.name for name, site in sites.items()}
    layers = _by_name(plan.layers, meant, network.sites, "plan.layers", AppliedLayer if is_partial else None)
    weights = {site.name: _weight_format(layers[site.name], site, runs) for site in network.sites}
    activations: dict[str, Format] = {}
    if plan.activations:
        planned = planned_activations(network)
        names = [site.name for site in planned]
        if unknown := [row.name for row in plan.activations if row.name not in names]:
            raise UnknownLayer(
                f"plan.activations names {', '.join(map(repr, unknown))}, which the network does not have; those that "
                f"can be planned are {', '.join(names)}"
            )
        others = AppliedFormat if is_partial else None
        rows = _by_name(plan.activations, {name: name for name in names}, planned, "plan.activations", others)
        activations = {name: _activation_format(row, name, runs, network.opset) for name, row in rows.items()}
    rounded_with = {
        site.name: _rounded_with(layers[site.name], weights[site.name], site)
        for site in network.sites
        if not isinstance(weights[site.name], FloatFormat)
    }
    return GivenFormats(weights, activations, rounded_with)


def _by_name(
    rows: Sequence[Row],
    meant: Mapping[str, str],
    sites: Sequence[Site | ActivationSite],
    part: str,
    others: type[Row] | None,
) -> dict[str, Row]:
    """The row of each of the `sites`, by its name; `meant` has the site's name for that of each row.

    Args:
        others: the kind of rows, if sites that have none stay float32; None: each must have one.
    """
    row_of = {meant[row.name]: row for row in rows}
    if len(row_of) < len(rows):
        twice = [row.name for row in rows if row_of[meant[row.name]] is not row]
        raise PlanUnfit(f"{part} names {', '.join(map(repr, twice))} twice, once by another name; keep one of both")
    if others is not None:
        left_float = {site.name: others(name=site.name, format=ALL_FLOAT) for site in sites}
        row_of = {**left_float, **row_of}
    if left_out := [site.name for site in sites if site.name not in row_of]:
        raise PlanUnfit(
            f"{part} leaves out {', '.join(map(repr, left_out))}; give each a format, "
            f'{{"name": "{left_out[0]}", "format": "float32"}} where it is to stay as it is, or the plan "base": '
            '"float32" if that holds for all'
        )
    return {site.name: row_of[site.name] for site in sites}


def _weight_format(row: AppliedLayer, site: Site, runs: Target) -> WeightFormat:
    where = f"plan.layers, {site.name},"
    format_ = _storable(row, site, where)
    if not isinstance(format_, FloatFormat):
        runs.check_weight_format(format_, where)
    return format_


def _storable(row: AppliedFormat, site: Site, where: str) -> WeightFormat:
    """The format of a row, if the weight of the site can have it."""
    format_ = _format(row, where)
    if isinstance(format_, UnsignedFormat):
        raise PlanUnfit(f"{where} is a weight, and {format_.name} a format of activations; take e.g. int8/channel")
    if isinstance(format_, FloatFormat):
        return format_
    try:
        storage(format_, site.shape, site.channel_axis)
    except NotStorable as error:
        raise PlanUnfit(f"{where} cannot have the format {format_.name}: {error}; take e.g. int4/channel") from None
    return format_


def _activation_format(row: AppliedFormat, name: str, runs: Target, opset: int) -> Format:
    where = f"plan.activations, {name},"
    format_ = _format(row, where)
    if isinstance(format_, UnsignedFormat):
        runs.check_activation_bits(format_.bits, where, opset)
    elif not isinstance(format_, FloatFormat):
        raise PlanUnfit(f"{where} is an activation, and {format_.name} a format of weights; take e.g. uint8/tensor")
    return format_


def _format(row: AppliedFormat, where: str) -> Format:
    try:
        return parse_format(row.format)
    except ValueError as error:
        raise PlanUnfit(f"{where} has the format {row.format!r}, which does not exist: {error}") from None


def _rounded_with(row: AppliedLayer, format_: WeightFormat, site: Site) -> tuple[WeightFormat, ...]:
    names = dict.fromkeys(row.rounded_with or ())
    if format_.name not in names:
        return (format_,)
    where = f"plan.layers, {site.name}, rounded_with,"
    formats = (_storable(AppliedFormat(name=row.name, format=name), site, where) for name in names)
    return tuple(storable for storable in formats if not isinstance(storable, FloatFormat))
