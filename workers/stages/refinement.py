"""The weights of a whole plan rounded anew for each other, before it is measured and delivered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from quantization.activations.quantized import QuantizedActivation
from quantization.errors import ActivationsNotFinite
from quantization.plans.sequential import Effort, RoundedPlan, round_plan
from quantization.storage.weights import QuantizedWeight
from workers.stage import StageContext
from workers.stages.inputs import Inputs

Weights = Mapping[str, QuantizedWeight]

# Every plan that is evaluated is rounded anew: more of either wins little (docs/methods.md) and costs in proportion.
SAMPLES = 256
POSITIONS_PER_SAMPLE = 32
BATCH = 64  # larger ones leave the processor's caches

OF_WHOLE_PLANS = ("refinement", "adaround_seconds")
"""Fields of `weights` that say how a whole plan is rounded, and nothing of its candidates."""


def refined(
    context: StageContext, inputs: Inputs, weights: Weights, activations: Mapping[str, QuantizedActivation]
) -> RoundedPlan:
    """`weights` of a plan, by initializer name, rounded anew as `weights.refinement` asks, or as they are.

    They stay as they are, too, where their errors drive a layer to infinity or to no number: the plan is then measured
    like any other.
    """
    asked = context.request["weights"]
    as_they_are = RoundedPlan(weights, {}, {}, {}, 0)
    if not weights or not _refines(asked):
        return as_they_are
    effort = Effort(
        threads=context.threads,
        batch=inputs.static_batch or min(inputs.batch, BATCH),
        positions_per_sample=POSITIONS_PER_SAMPLE,
        memory_bytes=inputs.kept_bytes,
        adaround_seconds=_adaround_seconds(context),
    )
    samples = inputs.take(inputs.splits.calibration[: max(SAMPLES, inputs.static_batch or 0)])
    try:
        return round_plan(inputs.network, weights, samples, activations, effort, lambda _fraction: context.check())
    except ActivationsNotFinite:
        return as_they_are


def _adaround_seconds(context: StageContext) -> float:
    """What the request gives learned rounding, within its deadline."""
    asked, deadline = context.request["weights"], context.request["search"]["deadline_seconds"]
    if asked["refinement"] != "adaround":
        return 0.0
    left = math.inf if deadline is None else deadline * (1 - context.time_used())
    return float(min(asked["adaround_seconds"], left))


def _refines(asked: Mapping[str, Any]) -> bool:
    if asked["refinement"] == "auto":
        return bool(asked["rounding"] == "gptq")
    return bool(asked["refinement"] != "none")
