"""Agreement: random plans are run, and every method's prediction of their damage is held against what was measured.

The samples are the last of the search: no method has seen them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis import Scores
from pipeline.config import AnalysisConfig
from pipeline.context import Context
from pipeline.methods import PREFERRED
from pipeline.results import number, pack, unpack
from pipeline.workspace import Arrays, Inputs
from sensitivity.agreement import FEWEST_PLANS, agreement, choose, random_plans
from sensitivity.interaction_weight import fit_lambda
from sensitivity.loss import Loss
from sensitivity.plan_losses import MeasuredPlans

PLANS = 20
SAMPLES = 512


def run(context: Context, config: AnalysisConfig) -> bytes:
    """For each method how well it predicts, in order of preference, and which one `auto` takes."""
    inputs, scores, seed = context.workspace.inputs(config.samples), context.workspace.scores(), config.samples.seed
    plans = random_plans([len(formats) for formats in scores.document["formats"]], PLANS, seed)
    if len(np.unique(plans, axis=0)) < FEWEST_PLANS:
        few = f"the formats allow too few plans to compare: fewer than {FEWEST_PLANS} of {PLANS} drawn ones differ"
        return pack(_uncompared(few))
    samples = inputs.take(plan_samples(inputs))
    measured = _measured(context, inputs, samples, plans, inputs.loss(config.squared_error))
    usable = np.isfinite(measured)  # a plan may destroy the network, and then its loss is no number
    if usable.sum() < FEWEST_PLANS:
        return pack(_uncompared(f"of {PLANS} random plans only {usable.sum()} have a damage that is a number"))
    document = _compared(scores, plans[usable], measured[usable], seed)
    return pack({**document, "samples": len(next(iter(samples.values())))}, {"plans": plans, "measured": measured})


def _uncompared(note: str) -> dict[str, Any]:
    return {"chosen": PREFERRED, "note": note, "lambda": None, "methods": [], "plans": 0, "samples": 0}


def plan_samples(inputs: Inputs) -> NDArray[np.int64]:
    """The search samples on which whole plans are measured: no more than may be alive at once, or one batch.

    The last ones: candidates were scored on the first.
    """
    half = max(1, len(inputs.splits.search) // 2)
    return inputs.splits.search[-max(min(SAMPLES, half, inputs.group), inputs.static_batch or 0) :]


def _measured(
    context: Context, inputs: Inputs, samples: Arrays, plans: NDArray[np.int64], loss: Loss
) -> NDArray[np.float64]:
    """[P]: the mean loss of every plan, NaN where it is no number; each is a chunk."""
    count = len(next(iter(samples.values())))
    runs: list[MeasuredPlans] = []

    def losses(plan: NDArray[np.int64]) -> bytes:
        if not runs:  # made when the first plan is not there yet
            changes = context.workspace.candidates().changes(inputs.network)
            runs.append(
                MeasuredPlans(
                    inputs.network,
                    changes,
                    samples,
                    loss,
                    threads=context.machine.threads,
                    batch=inputs.batch,
                    check=context.check,
                )
            )
        return pack({"loss": number(runs[0].losses(plan.tolist()).mean())})

    measured = []
    for index, plan in enumerate(plans):
        name = f"plan/{count}/" + "-".join(map(str, plan))
        document, _ = unpack(context.chunk(name, partial(losses, plan)))
        measured.append(math.nan if document["loss"] is None else document["loss"])
        context.progress((index + 1) / len(plans))
    return np.array(measured)


def _compared(scores: Scores, plans: NDArray[np.int64], measured: NDArray[np.float64], seed: int) -> dict[str, Any]:
    predictions = {prediction.method: prediction for prediction in scores.predictions()}
    predicted = {name: prediction.damages(plans) for name, prediction in predictions.items()}
    agreements = [agreement(name, damages, measured, seed) for name, damages in predicted.items()]
    chosen = choose(list(predicted.items()), measured, seed)
    weight = None
    if (measured > 0).all():
        preferred = predictions[PREFERRED]
        lam = fit_lambda(preferred.own, np.asarray(preferred.interactions), plans, measured)
        weight = {"value": lam.value, "stderr": number(lam.stderr)}
    return {
        "chosen": chosen,
        "note": "",
        "plans": len(plans),
        "lambda": weight,
        "methods": [_all_finite(asdict(one)) for one in agreements],
    }


def _all_finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: number(value) if isinstance(value, float) else value for name, value in values.items()}
