"""Agreement: random plans are run, and every method's prediction of their damage is held against what was measured.

The samples are the last of the search: no method has seen them. Every plan is a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import AnalysisConfig
from pipeline.context import Context
from pipeline.methods import PREFERRED
from pipeline.plan_losses import PlanLosses
from pipeline.results import number, pack
from pipeline.workspace import Arrays, Inputs
from sensitivity.agreement import FEWEST_PLANS, agreement, choose, random_plans
from sensitivity.interaction_weight import fit_lambda
from sensitivity.loss import Loss
from sensitivity.prediction import Prediction

PLANS = 20
SAMPLES = 256


def run(context: Context, config: AnalysisConfig) -> bytes:
    """For each method how well it predicts, in order of preference, and which one `auto` takes."""
    (inputs, loss), scores = context.workspace.analysed(config), context.workspace.scores()
    seed = config.samples.seed
    plans = random_plans([len(formats) for formats in scores.document["formats"]], PLANS, seed)
    if len(np.unique(plans, axis=0)) < FEWEST_PLANS:
        few = f"the formats allow too few plans to compare: fewer than {FEWEST_PLANS} of {PLANS} drawn ones differ"
        return pack(_uncompared(few))
    half = max(1, len(inputs.splits.search) // 2)  # candidates were scored on the others
    samples = inputs.take(inputs.last_of_search(min(SAMPLES, half)))
    measured = _measured(context, inputs, samples, plans, loss)
    usable = np.isfinite(measured)  # a plan may destroy the network, and then its loss is no number
    if usable.sum() < FEWEST_PLANS:
        return pack(_uncompared(f"of {PLANS} random plans only {usable.sum()} have a damage that is a number"))
    predictions = {prediction.method: prediction for prediction in scores.predictions()}
    predicted = {name: prediction.damages(plans) for name, prediction in predictions.items()}
    document = _compared(
        predictions[PREFERRED],
        {name: own[usable] for name, own in predicted.items()},
        plans[usable],
        measured[usable],
        seed,
    )
    arrays = {"plans": plans, "measured": measured, **{f"predicted/{name}": own for name, own in predicted.items()}}
    return pack({**document, "samples": len(next(iter(samples.values())))}, arrays)


def _uncompared(note: str) -> dict[str, Any]:
    return {"chosen": PREFERRED, "note": note, "lambda": None, "methods": [], "plans": 0, "samples": 0}


def _measured(
    context: Context, inputs: Inputs, samples: Arrays, plans: NDArray[np.int64], loss: Loss
) -> NDArray[np.float64]:
    """[P]: the mean loss of every plan, NaN where it is no number."""
    count = len(next(iter(samples.values())))
    losses = PlanLosses(context, inputs, samples, loss, inputs.batch)
    chunks = [f"plan/{count}/" + "-".join(map(str, plan)) for plan in plans.tolist()]
    measured = []
    for loss_of_plan in losses.means(chunks, plans.tolist()):
        measured.append(loss_of_plan)
        context.progress(len(measured) / len(plans))
    return np.array(measured)


def _compared(
    preferred: Prediction,
    predicted: Mapping[str, NDArray[np.float64]],
    plans: NDArray[np.int64],
    measured: NDArray[np.float64],
    seed: int,
) -> dict[str, Any]:
    agreements = [agreement(name, damages, measured, seed) for name, damages in predicted.items()]
    chosen = choose(list(predicted.items()), measured, seed)
    weight = None
    if preferred.interactions is not None and (measured > 0).all():
        lam = fit_lambda(preferred.own, preferred.interactions, plans, measured)
        weight = {"value": lam.value, "stderr": number(lam.stderr)}
    return {
        "chosen": chosen,
        "note": "",
        "plans": len(plans),
        "lambda": weight,
        "methods": [_all_finite(asdict(compared)) for compared in agreements],
    }


def _all_finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: number(value) if isinstance(value, float) else value for name, value in values.items()}
