"""Claims: which metric is measured on which outputs, by the request or chosen, so that a certificate can fail."""

from __future__ import annotations

from evaluation.choice import OutputChoice, Question, choose
from evaluation.metrics.claim import measure
from evaluation.nulls import blind_to, null_drops
from evaluation.outputs import Meaning
from network.normalise import dump
from pipeline.config import ClaimsConfig
from pipeline.context import Context
from pipeline.damage import looked_at, with_values
from pipeline.reference import runner_of
from pipeline.results import pack
from pipeline.workspace import Inputs


def run(context: Context, config: ClaimsConfig) -> bytes:
    """The claims, what each says of networks that know nothing, and what all of them cannot see, on the search
    samples.

    Raises:
        MetricNotApplicable: a metric of the request fits no output, or not with these labels.
        DatasetLabelsOutOfRange: labels that are no classes of the network.
        ModelInvalid: an output that counts has not the samples along its first axis.
    """
    inputs, reference = context.workspace.inputs(config.samples), context.workspace.reference()
    if not config.samples.as_uploaded:
        _check_sample_axes(context, config, inputs)
    truth = inputs.dataset.truth.take(inputs.splits.search[: reference.samples])
    budget = config.budget
    question = Question(reference.facts, reference.outputs, truth, budget.kind, budget.max_drop)
    claims = choose(question, config.metric, config.outputs)
    measure(claims, reference.outputs, reference.outputs, truth, budget.kind).drop(budget.kind, budget.max_drop)
    nulls = [null_drops(claim, reference.outputs, truth, budget.kind, budget.max_drop) for claim in claims]
    unseen = blind_to(claims, reference.facts, reference.outputs, truth, budget.kind, budget.max_drop)
    return pack(
        {
            "claims": [claim.document() for claim in claims],
            "nulls": nulls,
            "blind_to": [{"null": blind.null, "drop": blind.drop} for blind in unseen],
        }
    )


def _check_sample_axes(context: Context, config: ClaimsConfig, inputs: Inputs) -> None:
    """Damage is measured on batches: refuse values without the samples along their first axis, unless they weigh 0."""
    looked = looked_at(inputs.network)
    counting = [name for name in looked if config.outputs.get(name, OutputChoice()).weight > 0]
    names = list(dict.fromkeys(value for name in counting for value in looked[name]))
    facts = {fact.name: fact for fact in context.workspace.reference().values}
    names = [name for name in names if facts[name].meaning is not Meaning.CODES and not facts[name].padded]
    if not names:
        return
    runner = runner_of(context, inputs, dump(with_values(inputs.network, names)))
    runner.check_sample_axes(inputs.dataset.take(inputs.splits.search[:3]).inputs, names)
