"""Reference: the uploaded file, as it is, run on the search samples; and what its outputs are.

Everything that is measured later is compared with these outputs, never with those of a network that was rewritten.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import MetricNotApplicable
from evaluation.labelled import check_names
from evaluation.metrics.truth import Truth
from evaluation.outputs import OutputFacts, facts_of
from network.batch_axes import output_axes
from network.normalise import dump
from pipeline.config import DamageConfig, SampleConfig
from pipeline.context import Context
from pipeline.damage import damage_loss, looked_at, with_values
from pipeline.finite_outputs import require_finite_outputs, require_numbers
from pipeline.reference import outputs_of, runner_of, samples_that_fit
from pipeline.results import pack
from pipeline.workspace import NOTHING_MEASURABLE, Inputs


def run(context: Context, config: SampleConfig) -> bytes:
    """The outputs of the search samples by name, and the facts about each output."""
    inputs = context.workspace.inputs(config)
    search = inputs.splits.search
    count = samples_that_fit(context, inputs, search)
    runner = runner_of(context, inputs, context.model_path)
    outputs = outputs_of(context, inputs, runner, search[:count])
    check_names(outputs, inputs.dataset.truth)
    require_numbers(context, inputs, runner)
    if not config.as_uploaded:
        require_finite_outputs(context.model_path, outputs)
    network = inputs.network
    made = [spec.name for spec in network.outputs if spec.name in network.makers]
    makers = {name: network.makers[name].op_type for name in made}
    truth = inputs.dataset.truth.take(search[:count])
    facts = facts_of(outputs, truth, makers, runner.without_samples, inputs.varying_axes)
    values, axes = facts, dict[str, int | None]()
    if not config.as_uploaded:  # what is only run has no damage
        more, axes = _facts_of_values(context, inputs, search[:count], [fact.name for fact in facts])
        values += more
        if damage_loss(network, values, DamageConfig((), (), all_values=False)) is None:
            raise MetricNotApplicable(NOTHING_MEASURABLE)
    arrays = {f"output/{name}": array for name, array in outputs.items()}
    document = {
        "facts": [fact.document() for fact in facts],
        "values": [value.document() for value in values],
        "axes": axes,
        "samples": count,
    }
    return pack(document, arrays)


def _facts_of_values(
    context: Context, inputs: Inputs, samples: NDArray[np.int64], outputs: list[str]
) -> tuple[tuple[OutputFacts, ...], dict[str, int | None]]:
    """What the values are that outputs are picked from, and the axes of the samples in them but for first ones."""
    network = inputs.network
    names = dict.fromkeys(name for values in looked_at(network).values() for name in values if name not in outputs)
    if not names:
        return (), {}
    axes: dict[str, int | None] = {}
    if network.batching.inputs or network.batching.outputs:
        file, part = dump(with_values(network, names)), inputs.dataset.take(samples).inputs
        known = output_axes(file, network.batching, part, context.machine.threads)
        axes = {name: known[name] for name in names if known[name] != 0}
    inputs = replace(inputs, network=with_values(network, names, axes))
    runner = runner_of(context, inputs, inputs.network.proto)
    arrays = outputs_of(context, inputs, runner, samples, list(names))
    makers = {name: network.makers[name].op_type for name in names if name in network.makers}
    return facts_of(arrays, Truth(), makers, runner.without_samples, inputs.varying_axes), axes
