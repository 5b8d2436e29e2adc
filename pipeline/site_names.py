"""The weights that a request means: by the name of the weight, of its layer, or of a node that it alone has."""

from __future__ import annotations

from collections.abc import Iterable

from network.graph import Network, Site
from planner.errors import ConstraintImpossible, UnknownLayer


def sites_named(
    network: Network,
    names: Iterable[str],
    where: str,
    unknown: type[ValueError] = UnknownLayer,
    ambiguous: type[ValueError] = ConstraintImpossible,
) -> dict[str, Site]:
    """The site that each name means; several names may mean one.

    Args:
        where: the part of the request that names them.

    Raises:
        unknown: the network has nothing of such a name that can be planned; the text lists what it has.
        ambiguous: a name is that of several sites; the text lists them.
    """
    known = network.sites_by_name
    names = list(names)
    if missing := [name for name in names if name not in known]:
        raise unknown(
            f"{where} names {', '.join(map(repr, missing))}, which is no layer; the layers that can be planned are "
            f"{', '.join(site.name for site in network.sites)}"
        )
    for name in names:
        if len(known[name]) > 1:
            raise ambiguous(
                f"{where} names {name!r}, which is a node or a weight of several layers: "
                f"{', '.join(site.name for site in known[name])}; say which by these names"
            )
    return {name: known[name][0] for name in names}
