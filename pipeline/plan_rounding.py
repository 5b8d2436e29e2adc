"""The weights of a whole plan rounded anew for each other, before it is measured and delivered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.candidates import weights_from_arrays, weights_to_arrays
from pipeline.context import Context
from pipeline.process import release
from pipeline.results import pack, unpack
from pipeline.stage import UPLOADS, digest_of
from pipeline.workspace import Inputs
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import ActivationsNotFinite
from quantization.plans.sequential import Effort, RoundedPlan, round_plan
from quantization.storage.weights import QuantizedWeight

Weights = Mapping[str, QuantizedWeight]
Activations = Mapping[str, QuantizedActivation]

# Every plan that is evaluated is rounded anew: more of either wins little (docs/methods.md) and costs in proportion.
SAMPLES = 128
POSITIONS_PER_SAMPLE = 64
VERSION = 10  # of what is computed: another one finds nothing that an older one stored
BATCH = 64  # larger ones leave the processor's caches

BROKEN = "the errors of this plan drive a layer to infinity or to no number"


def round_weights(context: Context, inputs: Inputs, weights: Weights, activations: Activations) -> RoundedPlan:
    """`weights` of a plan, by initializer name, rounded anew for each other.

    They stay as they are where their errors drive a layer to infinity or to no number: the plan is then measured like
    any other. The result is kept for whoever certifies the same plan, or asks for it with another budget.
    """
    effort = Effort(
        threads=context.machine.threads,
        batch=inputs.static_batch or min(inputs.batch, BATCH),
        positions_per_sample=POSITIONS_PER_SAMPLE,
        memory_bytes=inputs.config.kept_bytes,
    )

    def compute() -> bytes:
        release()  # a plan follows another, and each takes some float files
        samples = inputs.take(inputs.splits.calibration[: max(SAMPLES, inputs.static_batch or 0)])
        try:
            rounded = round_plan(inputs.network, weights, samples, activations, effort, lambda _: context.check())
        except ActivationsNotFinite:
            rounded = replace(unchanged(weights), kept=dict.fromkeys(weights, BROKEN))
        return _packed(rounded)

    uploads = [context.keys[name] for name in UPLOADS]
    settings = [VERSION, uploads, inputs.config.seed, SAMPLES, effort, inputs.network.opset]
    return _unpacked(context.cached(_key(settings, weights, activations), compute))


def unchanged(weights: Weights) -> RoundedPlan:
    """The weights of a plan as each was rounded by itself."""
    return RoundedPlan(weights, {}, {}, {})


def _key(settings: list[object], weights: Weights, activations: Activations) -> str:
    """Settings and contents: all that the result depends on."""
    digest = hashlib.sha256(digest_of([*settings, dict(activations)]).encode())
    for name, weight in weights.items():
        digest.update(f"{name} {weight.format.name}".encode())
        for array in weight.arrays().values():
            digest.update(np.ascontiguousarray(array).data)
    return f"rounded/{digest.hexdigest()}"


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
