"""Agreement: random plans are run, and every method's prediction of their damage is held against what was measured.

The samples are those of the search: no method has seen them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.agreement import FEWEST_PLANS, agreement, choose, random_plans
from sensitivity.dependencies.augmented import fit_lambda
from sensitivity.dependencies.measured import MeasuredPlans
from sensitivity.dependencies.saturation import fit_saturation_of_predictions
from workers.stage import StageContext
from workers.stages.analysis import Scores
from workers.stages.candidates import Rounded
from workers.stages.changes import changes_of
from workers.stages.inputs import Inputs
from workers.stages.methods import PREFERRED
from workers.stages.payload import number, pack, unpack

PLANS = 20
SAMPLES = 512


def run(context: StageContext) -> bytes:
    """For each method how well it predicts, in order of preference, and which one `auto` takes."""
    inputs = Inputs.read(context)
    scores = Scores.read(context)
    plans = random_plans([len(formats) for formats in scores.document["formats"]], PLANS, int(context.request["seed"]))
    if len(np.unique(plans, axis=0)) < FEWEST_PLANS:
        few = f"the formats allow too few plans to compare: fewer than {FEWEST_PLANS} of {PLANS} drawn ones differ"
        nothing: dict[str, Any] = {"methods": [], "lambda": None, "saturation": None, "plans": 0, "samples": 0}
        return pack({"chosen": PREFERRED, "note": few, **nothing})
    measured = _measured(context, inputs, plans)
    document = _compared(scores, plans, measured, int(context.request["seed"]))
    return pack({**document, "samples": len(plan_samples(inputs))}, {"plans": plans, "measured": measured})


def plan_samples(inputs: Inputs) -> NDArray[np.int64]:
    """The search samples on which whole plans are measured, or one batch if that is larger."""
    return inputs.splits.search[: max(SAMPLES, inputs.static_batch or 0)]


def _measured(context: StageContext, inputs: Inputs, plans: NDArray[np.int64]) -> NDArray[np.float64]:
    """[P]: the mean loss of every plan; each is a chunk."""
    runs: list[MeasuredPlans] = []

    def losses(plan: NDArray[np.int64]) -> bytes:
        if not runs:  # made when the first plan is not there yet
            changes = changes_of(inputs.network, Rounded.unpack(context.read("calibrate")))
            samples = inputs.take(plan_samples(inputs))
            threads, batch = context.threads, inputs.batch
            runs.append(MeasuredPlans(inputs.network, changes, samples, inputs.loss, threads=threads, batch=batch))
        return pack({"loss": float(runs[0].losses(plan.tolist()).mean())})

    measured = []
    for index, plan in enumerate(plans):
        found, _ = unpack(context.chunk("plan/" + "-".join(map(str, plan)), lambda plan=plan: losses(plan)))  # type: ignore[misc]
        measured.append(found["loss"])
        context.progress((index + 1) / len(plans))
    return np.array(measured)


def _compared(scores: Scores, plans: NDArray[np.int64], measured: NDArray[np.float64], seed: int) -> dict[str, Any]:
    found = scores.predictions()
    predicted = {one.method: one.damages(plans) for one in found}
    chosen = choose(list(predicted.items()), measured, seed)
    fitted: dict[str, Any] = {"lambda": None, "saturation": None}
    if (measured > 0).all():
        preferred = found[0]
        lam = fit_lambda(preferred.own, np.asarray(preferred.interactions), plans, measured)
        fitted["lambda"] = {"value": lam.value, "stderr": number(lam.stderr)}
        saturation = fit_saturation_of_predictions(np.maximum(predicted[chosen], 0.0), measured)
        fitted["saturation"] = _all_finite(asdict(saturation))
    return {
        "chosen": chosen,
        "note": "",
        "plans": len(plans),
        **fitted,
        "methods": [_all_finite(asdict(agreement(name, one, measured, seed))) for name, one in predicted.items()],
    }


def _all_finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: number(value) if isinstance(value, float) else value for name, value in values.items()}
