"""The weights of a whole plan rounded anew for each other, before it is measured and delivered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.candidates import weights_from_arrays, weights_to_arrays
from pipeline.results import pack, unpack
from pipeline.stage import StageContext
from pipeline.workspace import Inputs, opset_of
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import ActivationsNotFinite
from quantization.plans.sequential import Effort, RoundedPlan, round_plan
from quantization.storage.weights import QuantizedWeight

Weights = Mapping[str, QuantizedWeight]

# Every plan that is evaluated is rounded anew: more of either wins little (docs/methods.md) and costs in proportion.
SAMPLES = 128
POSITIONS_PER_SAMPLE = 64
VERSION = 4  # of what is computed: another one finds nothing that an older one stored
BATCH = 64  # larger ones leave the processor's caches

BROKEN = "the errors of this plan drive a layer to infinity or to no number"

OF_WHOLE_PLANS = ("refinement", "leftovers")
"""Fields of `weights` that say how a whole plan is rounded and written, and nothing of its candidates."""


def refined(
    context: StageContext, inputs: Inputs, weights: Weights, activations: Mapping[str, QuantizedActivation]
) -> RoundedPlan:
    """`weights` of a plan, by initializer name, rounded anew as `weights.refinement` asks, or as they are.

    They stay as they are, too, where their errors drive a layer to infinity or to no number: the plan is then measured
    like any other.
    """
    asked = context.request["weights"]
    as_they_are = RoundedPlan(weights, {}, {}, {})
    if not weights or not _refines(asked):
        return as_they_are
    effort = Effort(
        threads=context.threads,
        batch=inputs.static_batch or min(inputs.batch, BATCH),
        positions_per_sample=POSITIONS_PER_SAMPLE,
        memory_bytes=inputs.kept_bytes,
    )

    def compute() -> bytes:
        samples = inputs.take(inputs.splits.calibration[: max(SAMPLES, inputs.static_batch or 0)])
        try:
            found = round_plan(inputs.network, weights, samples, activations, effort, lambda _: context.check())
        except ActivationsNotFinite:
            found = replace(as_they_are, kept=dict.fromkeys(weights, BROKEN))
        return _packed(found)

    # the same plan is certified, or asked for by another budget
    return _unpacked(context.cached(_key(context, weights, activations, effort), compute))


def _key(
    context: StageContext, weights: Weights, activations: Mapping[str, QuantizedActivation], effort: Effort
) -> str:
    """What the result depends on."""
    told = [VERSION, *(context.request[name] for name in ("model_id", "dataset_id", "seed")), SAMPLES, effort.threads]
    told += [effort.batch, effort.positions_per_sample, effort.memory_bytes, opset_of(context.request)]
    told += [repr(sorted(activations.items(), key=lambda item: item[0]))]
    digest = hashlib.sha256(json.dumps(told).encode())
    for name, weight in weights.items():
        digest.update(f"{name} {weight.format.name}".encode())
        for array in weight.arrays().values():
            digest.update(np.ascontiguousarray(array).data)
    return f"refined/{digest.hexdigest()}"


def _packed(plan: RoundedPlan) -> bytes:
    document, arrays = weights_to_arrays({name: [weight] for name, weight in plan.weights.items()})
    document |= {"biases": list(plan.biases), "notes": dict(plan.notes), "kept": dict(plan.kept)}
    arrays |= {f"bias/{index}": values for index, values in enumerate(plan.biases.values())}
    return pack(document, arrays)


def _unpacked(blob: bytes) -> RoundedPlan:
    document, arrays = unpack(blob)
    weights = {name: weight for name, (weight,) in weights_from_arrays(document, arrays).items()}
    biases = {name: arrays[f"bias/{index}"] for index, name in enumerate(document["biases"])}
    return RoundedPlan(weights, biases, document["notes"], document["kept"])


def _refines(asked: Mapping[str, Any]) -> bool:
    if asked["refinement"] == "auto":
        return bool(asked["rounding"] == "gptq")
    return bool(asked["refinement"] != "none")
