"""Reference: the uploaded file, as it is, run on the search samples; and what its outputs are.

Everything that is measured later is compared with these outputs, never with those of a network that was rewritten.
"""

from __future__ import annotations

from evaluation.outputs import facts_of
from pipeline.config import SampleConfig
from pipeline.context import Context
from pipeline.reference import reference_outputs, samples_that_fit
from pipeline.results import pack


def run(context: Context, config: SampleConfig) -> bytes:
    """The outputs of the search samples by name, and the facts about each output."""
    inputs = context.workspace.inputs(config)
    search = inputs.splits.search
    count = samples_that_fit(context, inputs, search)
    outputs = reference_outputs(context, inputs, search[:count])
    network = inputs.network
    made = [spec.name for spec in network.outputs if spec.name in network.makers]
    makers = {name: network.makers[name].op_type for name in made}
    facts = facts_of(outputs, inputs.dataset.truth.take(search[:count]), makers)
    arrays = {f"output/{name}": array for name, array in outputs.items()}
    return pack({"facts": [fact.document() for fact in facts], "samples": count}, arrays)
