"""The user's own metric of a job: the uploaded graph, bound to the network's outputs and the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluation.dataset import Dataset
from evaluation.metrics.claim import Claim
from evaluation.metrics.own import OWN, OwnMetric, Readable
from evaluation.metrics.truth import Truth
from pipeline.context import Context
from pipeline.workspace import Inputs, admission_limits


def own_metric(context: Context, inputs: Inputs, outputs: Sequence[str]) -> OwnMetric | None:
    """The uploaded metric, for a network with these outputs; None where the job has none.

    Raises:
        MetricGraphInvalid: it is not admitted, or reads what is not there.
    """
    path = context.path_of("metric")
    if path is None:
        return None
    dataset, machine = inputs.dataset, context.machine
    readable = Readable(tuple(outputs), tuple(dataset.inputs), tuple(dataset.truth.arrays))
    return OwnMetric.of(path.read_bytes(), readable, admission_limits(machine), machine.threads, context.check)


def truth_of(dataset: Dataset, own: OwnMetric | None) -> Truth:
    """What the data say is right, with what else the metric reads."""
    return dataset.truth if own is None else dataset.truth_with(own.network_inputs)


def with_graph(claims: Sequence[Claim], own: OwnMetric | None) -> list[Claim]:
    """The claims with their graph, which no stored claim has."""
    return [replace(claim, own=own) if claim.metric == OWN else claim for claim in claims]
