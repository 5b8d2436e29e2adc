"""Layers that must share a format (`{"same_as": "conv2"}`): which sites go together, and what they may get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from network.graph import Site
from pipeline.config import NO_CONSTRAINT, LayerConstraint
from planner.errors import ConstraintImpossible, UnknownLayer

Constraints = Mapping[str, LayerConstraint]
Formats = Mapping[str, Sequence[str]]


def tied_groups(
    sites: Sequence[Site], known: Mapping[str, Sequence[Site]], constraints: Constraints
) -> list[list[str]]:
    """Names of the sites that share a format, in groups of at least two, everything in graph order.

    Args:
        sites: of the network.
        known: the sites that each name may mean.
        constraints: by site name.

    Raises:
        UnknownLayer: `same_as` names no layer; the text lists what there is.
        ConstraintImpossible: it names several layers, or the layer itself.
    """
    leader = {site.name: site.name for site in sites}

    def root(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for name, constraint in constraints.items():
        if constraint.same_as is not None:
            other = _tied_to(name, constraint.same_as, sites, known)
            leader[root(name)] = root(other)
    groups: dict[str, list[str]] = {}
    for site in sites:
        groups.setdefault(root(site.name), []).append(site.name)
    return [group for group in groups.values() if len(group) > 1]


def _tied_to(name: str, other: str, sites: Sequence[Site], known: Mapping[str, Sequence[Site]]) -> str:
    sites_of = known.get(other, ())
    if not sites_of:
        raise UnknownLayer(
            f"layers.{name}.same_as names {other!r}, which is no layer; the layers that can be planned are "
            f"{', '.join(site.name for site in sites)}"
        )
    if len(sites_of) > 1:
        raise ConstraintImpossible(
            f"layers.{name}.same_as names {other!r}, which is a node or a weight of several layers: "
            f"{', '.join(site.name for site in sites_of)}; say which by these names"
        )
    if sites_of[0].name == name:
        raise ConstraintImpossible(f"layers.{name}.same_as names the layer itself, as {other!r}; name another one")
    return sites_of[0].name


def shared_formats(
    groups: Sequence[Sequence[str]], constraints: Constraints, allowed: Formats, rounded: Formats
) -> dict[str, list[str]]:
    """What every site may get once those of a group may get the same.

    A layer has one constraint, so that of a group all but one say `same_as`: what that one may get, all may, as far as
    all are rounded to it. Weights of other shapes may not be, where one cannot be stored in blocks, say.

    Args:
        groups: of site names.
        constraints: by site name.
        allowed: format names by site name, each by itself.
        rounded: format names by site name, all that the weight can be stored in and is rounded to.

    Raises:
        ConstraintImpossible: that one is kept in float32, or none of its formats fits all.
    """
    shared = {name: list(formats) for name, formats in allowed.items()}
    for group in groups:
        first = next((name for name in group if not constraints.get(name, NO_CONSTRAINT).same_as), group[0])
        if constraints.get(first, NO_CONSTRAINT).keep:
            others = ", ".join(name for name in group if name != first)
            raise ConstraintImpossible(
                f"layers ties {others} with same_as to {first}, which keeps float32, so there is no format to decide; "
                f'say {{"keep": true}} of {others} too, or give {first} widths'
            )
        common = [format_ for format_ in allowed[first] if all(format_ in rounded[name] for name in group)]
        if not common:
            others = "; ".join(f"{name} {', '.join(rounded[name])}" for name in group if name != first)
            raise ConstraintImpossible(
                f"layers ties {' and '.join(group)} with same_as, and none of the formats of {first} "
                f"({', '.join(allowed[first])}) fits all of their shapes; there are for {others}: name in "
                "weights.formats or layers one that fits all, such as int4/channel, or leave out same_as"
            )
        for name in group:
            shared[name] = list(common)
    return shared
