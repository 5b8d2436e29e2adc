"""Layers that must share a format (`{"same_as": "conv2"}`): which sites go together, and what they may get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from network.graph import Network
from pipeline.config import NO_CONSTRAINT, LayerConstraint
from pipeline.site_names import sites_named
from planner.errors import ConstraintImpossible

Constraints = Mapping[str, LayerConstraint]
Formats = Mapping[str, Sequence[str]]


def tied_groups(network: Network, constraints: Constraints) -> list[list[str]]:
    """Names of the sites that share a format, in groups of at least two, everything in graph order.

    Args:
        constraints: by site name.

    Raises:
        UnknownLayer: `same_as` names no layer; the text lists what there is.
        ConstraintImpossible: it names several layers, or the layer itself.
    """
    leader = {site.name: site.name for site in network.sites}

    def root(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for name, constraint in constraints.items():
        if constraint.same_as is not None:
            same = constraint.same_as
            other = sites_named(network, [same], f"layers.{name}.same_as")[same].name
            if other == name:
                raise ConstraintImpossible(
                    f"layers.{name}.same_as names the layer itself, as {same!r}; name another one"
                )
            leader[root(name)] = root(other)
    groups: dict[str, list[str]] = {}
    for site in network.sites:
        groups.setdefault(root(site.name), []).append(site.name)
    return [group for group in groups.values() if len(group) > 1]


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
