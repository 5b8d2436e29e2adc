"""The weights of a whole plan rounded anew for each other, before it is measured and delivered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantization.activations.quantized import QuantizedActivation
from quantization.plans.sequential import Effort, RoundedPlan, round_plan
from quantization.storage.weights import QuantizedWeight
from workers.stage import StageContext
from workers.stages.inputs import Inputs

Weights = Mapping[str, QuantizedWeight]

OF_WHOLE_PLANS = ("refinement", "adaround_seconds")
"""Fields of `weights` that say how a whole plan is rounded, and nothing of its candidates."""


def refined(
    context: StageContext, inputs: Inputs, weights: Weights, activations: Mapping[str, QuantizedActivation]
) -> RoundedPlan:
    """`weights` of a plan, by initializer name, rounded anew as `weights.refinement` asks, or as they are."""
    asked = context.request["weights"]
    if not weights or not _refines(asked):
        return RoundedPlan(weights, {}, {}, {}, 0)
    seconds = asked["adaround_seconds"] if asked["refinement"] == "adaround" else 0.0
    effort = Effort(
        threads=context.threads, batch=inputs.batch, memory_bytes=inputs.kept_bytes, adaround_seconds=seconds
    )
    samples = inputs.take(inputs.splits.calibration)
    return round_plan(inputs.network, weights, samples, activations, effort, lambda _fraction: context.check())


def _refines(asked: Mapping[str, Any]) -> bool:
    if asked["refinement"] == "auto":
        return bool(asked["rounding"] == "gptq")
    return bool(asked["refinement"] != "none")
