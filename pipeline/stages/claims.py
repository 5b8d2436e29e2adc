"""Claims: which metric is measured on which outputs, by the request or chosen, so that a certificate can fail."""

from __future__ import annotations

from dataclasses import replace

from evaluation.choice import Question, choose
from evaluation.dataset import check_names
from evaluation.metrics.claim import measure
from evaluation.nulls import blind_to, null_drops
from pipeline.config import ClaimsConfig
from pipeline.context import Context
from pipeline.own_metric import own_metric, truth_of
from pipeline.results import pack


def run(context: Context, config: ClaimsConfig) -> bytes:
    """The claims, what each says of networks that know nothing, and what all of them cannot see, on the search
    samples.

    Raises:
        MetricNotApplicable: a metric of the request fits no output, or not with these labels.
        MetricGraphInvalid: the metric graph cannot be run on these outputs and data, or is no metric.
        DatasetWrongNames: arrays beside the inputs that the metric graph does not read.
        DatasetLabelsOutOfRange: labels that are no classes of the network.
    """
    inputs, reference = context.workspace.inputs(config.samples), context.workspace.reference()
    own = own_metric(context, inputs, list(reference.outputs))
    check_names(inputs.dataset, () if own is None else own.arrays)
    truth = truth_of(inputs.dataset, own).take(inputs.splits.search[: reference.samples])
    budget = config.budget
    question = Question(reference.facts, reference.outputs, truth, budget.kind, budget.max_drop)
    claims = choose(question, config.metric, config.outputs, own)
    measure(claims, reference.outputs, reference.outputs, truth, budget.kind).drop(budget.kind, budget.max_drop)
    # each in the unit of its claim, as its drop is
    alone = [replace(claim, max_drop=None) for claim in claims]
    nulls = [null_drops(claim, reference.outputs, truth, budget.kind, budget.max_drop) for claim in alone]
    unseen = blind_to(claims, reference.facts, reference.outputs, truth, budget.kind, budget.max_drop)
    return pack(
        {
            "claims": [claim.document() for claim in claims],
            "nulls": nulls,
            "blind_to": [{"null": blind.null, "drop": blind.drop} for blind in unseen],
        }
    )
