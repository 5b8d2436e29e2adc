"""Calibrate: every weight rounded to every candidate format, from the inputs that the calibration samples give it.

All sites get all formats of the request, whatever `layers` says about them: another constraint on an analysed model
then finds everything here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from network.execution import TorchNetwork
from network.graph import Layer, Network, Site
from quantization.formats import Granularity, IntegerFormat
from quantization.gptq import gptq
from quantization.nearest import round_nearest
from quantization.reduction import NotReducible
from quantization.statistics import InputStatistics, input_statistics
from quantization.weights import QuantizedWeight
from workers.stage import StageContext
from workers.stages.candidates import pack_candidates
from workers.stages.inputs import Inputs
from workers.stages.resolve import candidate_bits

# Second moments of several weights are collected in one forward pass, as long as they fit into this.
STATISTICS_BYTES = 1 << 30


def run(context: StageContext) -> bytes:
    """Rounded weights of all candidates (`workers.stages.candidates`)."""
    inputs = Inputs.read(context)
    network = inputs.network
    granularity = Granularity(context.request["weights"]["granularity"])
    formats = [IntegerFormat(bits, granularity) for bits in candidate_bits(context.request)]
    rounded: dict[str, Sequence[QuantizedWeight]] = {}
    reasons: dict[str, str] = {}
    done = 0
    for sites, statistics in _collected(context, inputs):
        for site in sites:
            weight = network.weight(site.weight)
            found = statistics[site.name]
            if isinstance(found, InputStatistics):
                rounded[site.name] = gptq(weight, formats, site.channel_axis, found).weights
            else:
                rounded[site.name] = [round_nearest(weight, format_, site.channel_axis) for format_ in formats]
                reasons[site.name] = found.reason
            done += 1
            context.progress(0.5 + 0.5 * done / len(network.sites))
    return pack_candidates({site.name: rounded[site.name] for site in network.sites}, reasons)


def _collected(
    context: StageContext, inputs: Inputs
) -> Iterator[tuple[list[Site], dict[str, InputStatistics | NotReducible]]]:
    """Groups of sites with their statistics; with nearest rounding none are needed."""
    if context.request["weights"]["rounding"] == "nearest":
        reason = NotReducible("the request asks for nearest rounding")
        yield list(inputs.network.sites), dict.fromkeys((site.name for site in inputs.network.sites), reason)
        return
    torch_network = TorchNetwork(inputs.network)
    for sites in _groups(inputs.network):
        statistics = {site.name: input_statistics(inputs.network, site) for site in sites}
        _accumulate(context, inputs, torch_network, sites, statistics)
        yield sites, statistics


def _groups(network: Network) -> Iterator[list[Site]]:
    group: list[Site] = []
    used = 0
    for site in network.sites:
        statistics = input_statistics(network, site)
        needed = statistics.memory_bytes if isinstance(statistics, InputStatistics) else 0
        if group and used + needed > STATISTICS_BYTES:
            yield group
            group, used = [], 0
        group.append(site)
        used += needed
    yield group


def _accumulate(
    context: StageContext,
    inputs: Inputs,
    network: TorchNetwork,
    sites: Sequence[Site],
    statistics: dict[str, InputStatistics | NotReducible],
) -> None:
    owner = {layer.name: site.name for site in sites for layer in site.layers}

    def visit(layer: Layer, activation: torch.Tensor) -> None:
        found = statistics.get(owner.get(layer.name, ""))
        if isinstance(found, InputStatistics):
            found.add(layer, activation)

    batches = list(inputs.batches(inputs.splits.calibration))
    for number, batch in enumerate(batches):
        network.layer_inputs({name: torch.from_numpy(array) for name, array in batch.items()}, visit)
        context.progress(0.5 * (number + 1) / len(batches))
