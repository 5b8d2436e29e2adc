"""A plan made real: its weights rounded for each other, and the ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from network.graph import Network
from pipeline.context import Context
from pipeline.plan_rounding import round_weights, unchanged
from pipeline.search_space import SearchSpace
from pipeline.workspace import Inputs
from planner.problem import Plan
from quantization.activations.quantized import QuantizedActivation
from quantization.export.export import export
from quantization.export.leftovers import LARGEST
from quantization.export.narrow import narrow_weights
from quantization.export.products import Products
from quantization.plans.bias_correction import with_biases
from quantization.plans.sequential import RoundedPlan


@dataclass(frozen=True, slots=True, eq=False)
class ExportedPlan:
    """The file of a plan and what it was made from; `rounded` has no notes where no weights were rounded anew, and
    `unpacked` names the weights that are not multiplied as `products` says."""

    file: bytes
    network: Network
    rounded: RoundedPlan
    activations: Mapping[str, QuantizedActivation]
    products: Products
    unpacked: frozenset[str]


def export_plan(
    context: Context, inputs: Inputs, space: SearchSpace, plan: Plan, *, rounds_whole_plans: bool
) -> ExportedPlan:
    """The quantized ONNX file of a plan of `space.problem`."""
    formats, candidates = space.problem.formats(plan), context.workspace.candidates()
    activations = candidates.planned_activations(formats)
    weights = candidates.planned_weights(inputs.network, formats)
    rounded = unchanged(weights)
    if weights and rounds_whole_plans:
        rounded = round_weights(context, inputs, weights, activations)
    halves = space.halves
    biases = {name: _within_float16(values) if name in halves else values for name, values in rounded.biases.items()}
    network = with_biases(inputs.network, biases) if biases else inputs.network
    products, unpacked = space.config.export.products, space.unpacked(plan)
    provenance = space.provenance(plan)
    stored = {**narrow_weights(network, rounded.weights), **rounded.weights}
    file = export(network, stored, provenance, activations, products=products, unpacked=unpacked, halves=halves)
    return ExportedPlan(file, network, rounded, activations, products, unpacked)


def _within_float16(bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """What float16 holds: the file of a plan has one size, whatever its biases are corrected to."""
    return np.clip(bias, -LARGEST, LARGEST)
