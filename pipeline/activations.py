"""Which activations a job plans, and in which formats."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from network.activations import ActivationSite, find_activations
from network.graph import Network
from pipeline.reach import measured_values
from planner.errors import ConstraintImpossible
from quantization.formats import ACTIVATION_BITS, FloatFormat, UnsignedFormat


def planned_activations(network: Network) -> tuple[ActivationSite, ...]:
    """The activation sites that the first output depends on, in graph order; nothing would measure the others."""
    measured = measured_values(network)
    return tuple(site for site in find_activations(network) if measured.intersection(site.tensors))


def allowed_activations(network: Network, request: Mapping[str, Any]) -> dict[str, list[str]]:
    """Format names by activation site; none if the request leaves activations in float32.

    Raises:
        ConstraintImpossible: a tensor of an activation site has the name of a layer, or a constraint leaves nothing.
    """
    bits = request["activations"]["bits"]
    if bits is None:
        return {}
    sites = planned_activations(network)
    layers = {alias for site in network.sites for alias in site.aliases}
    if both := sorted(layers.intersection(site.name for site in sites)):
        raise ConstraintImpossible(
            f"a layer and an activation are both called {', '.join(map(repr, both))}; rename one of them in the "
            "network, or leave activations.bits null"
        )
    return {site.name: _formats(bits, site.name, request["layers"].get(site.name, {})) for site in sites}


def activation_bits(request: Mapping[str, Any], activations: Collection[str]) -> list[int]:
    """Every width that any activation may get, ascending: those of `activations`, and what `layers` asks for beside.

    `activations` are the names among `layers` that mean one.
    """
    named = [constraint for name, constraint in request["layers"].items() if name in activations]
    return sorted({*request["activations"]["bits"], *(bits for one in named for bits in one.get("bits") or ())})


def _formats(bits: list[int], name: str, constraint: Mapping[str, Any]) -> list[str]:
    if constraint.get("keep"):
        return [FloatFormat().name]
    if "same_as" in constraint:
        raise ConstraintImpossible(
            f'layers.{name} is an activation, which cannot be the same as another; name its widths: {{"bits": {bits}}}'
        )
    if "formats" in constraint:
        raise ConstraintImpossible(
            f"layers.{name} is an activation, and {', '.join(constraint['formats'])} are formats of weights; name its "
            f'widths: {{"bits": {bits}}}'
        )
    chosen = constraint.get("bits") or [width for width in bits if width >= constraint.get("min_bits", 0)]
    if not chosen or set(chosen) - set(ACTIVATION_BITS):
        raise ConstraintImpossible(
            f"layers.{name} is an activation and may get {' or '.join(map(str, ACTIVATION_BITS))} bits, of which "
            f"activations.bits leaves {', '.join(map(str, bits))}; got {dict(constraint)}"
        )
    return [UnsignedFormat(width).name for width in sorted(chosen)]
