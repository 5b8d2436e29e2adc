"""Calibrate: every weight rounded to every candidate format, from the inputs that the calibration samples give it, each
weight a chunk, and the range of every activation, where activations are to be quantized. Several processes share groups
of weights whose statistics fit into memory together and are collected in the same forward passes.

All sites get all formats of the request, whatever `layers` says about them: another constraint on an analysed model
then finds everything here. A plan that the request brings needs its own alone.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import IO

import numpy as np
from numpy.typing import NDArray

from network.activations import ActivationSite, ranges_at_other_lengths
from network.graph import Layer, Network, Site
from network.taps import Taps
from pipeline.allowed_formats import activation_widths, candidate_formats, fitting, offered
from pipeline.candidates import (
    ActivationCandidates,
    Candidates,
    format_names,
    pack_candidates,
    pack_candidates_into,
)
from pipeline.config import CalibrateConfig, FormatConfig
from pipeline.context import Context
from pipeline.given_plan import given_formats
from pipeline.process import release
from pipeline.reach import planned_activations
from pipeline.workspace import Inputs
from quantization.activations.quantized import QuantizedActivation
from quantization.activations.ranges import Histogram, RangeMethod, calibrated
from quantization.formats import UnsignedFormat, WeightFormat
from quantization.rounding.formats import round_to_formats
from quantization.rounding.layers import read_by
from quantization.rounding.reduction import NotReducible
from quantization.rounding.routing import Routing, routing_of, unreached_note
from quantization.rounding.statistics import InputStatistics, input_statistics
from quantization.storage.weights import QuantizedWeight

# Second moments of several weights are collected in one forward pass, as long as they take no more than all weights, or
# the first of these where the weights are small, and the second where they are large.
LEAST_STATISTICS_BYTES, MOST_STATISTICS_BYTES = 1 << 24, 1 << 30
# multiply-accumulates of the sums of a group that are worth to be shared, and in those of the network's forward pass
LEAST_MACS = 1e10
LEAST_SUMS = 2


def run(context: Context, config: CalibrateConfig) -> bytes | IO[bytes]:
    """Rounded weights and parameters of activations of all candidates (`pipeline.candidates`)."""
    inputs = context.workspace.inputs(config.samples)
    weights, activations = candidates_of(config.candidates, inputs.network)
    with tempfile.TemporaryFile() as rounded:
        rounding = _Rounding(context, inputs, weights, rounded)
        if config.gptq:
            groups = list(statistics_groups(inputs.network, len(inputs.splits.calibration)))
            names = [f"group {place}" for place in range(len(groups))]
            spread = context.spread(names, lambda place: rounding.gptq(groups[place]))
            for sites, _ in zip(groups, spread, strict=True):
                rounding.gptq(sites)  # what another process has rounded is read
            if context.helping:
                return b""  # the rest is not shared
        else:
            rounding.nearest()
        names = [site.name for site in inputs.network.sites]
        formats = {name: rounding.formats[name] for name in names}
        methods = {name: rounding.methods[name] for name in names}
        ranges = _activations(context, inputs, activations, config.ranges)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever stores it closes it
        pack_candidates_into(file, formats, rounding.weights, methods, ranges, rounding.notes)
        return file


def candidates_of(
    config: FormatConfig, network: Network
) -> tuple[Mapping[str, Sequence[WeightFormat]], Mapping[ActivationSite, Sequence[UnsignedFormat]]]:
    """The formats of every weight, by site name, and of every activation; no activations where they stay float32."""
    sites = {site.name: site for site in planned_activations(network)}
    if config.plan is not None:
        plan = given_formats(config.plan, config.target, network)
        weights = {site.name: plan.rounded_with.get(site.name, ()) for site in network.sites}
        given = plan.activations.items()
        return weights, {sites[name]: [own] if isinstance(own, UnsignedFormat) else [] for name, own in given}
    if config.activations is None:
        sites = {}
    formats = offered(config, network, candidate_formats(config, sites))
    widths = [UnsignedFormat(width) for width in activation_widths(config, sites)]
    of_weights = {site.name: fitting(site, formats[site.name]) for site in network.sites}
    return of_weights, dict.fromkeys(sites.values(), widths)


def _activations(
    context: Context,
    inputs: Inputs,
    sites: Mapping[ActivationSite, Sequence[UnsignedFormat]],
    method: RangeMethod,
) -> list[ActivationCandidates]:
    """Every activation site in each of its formats, from the same histograms."""
    if not sites:
        return []
    histograms = {site.tensors[0]: Histogram(site.tensors[0]) for site in sites}

    def visit(name: str, values: NDArray[np.generic]) -> None:
        histograms[name].add(np.asarray(values, dtype=np.float32))

    taps = Taps(inputs.network, list(histograms), context.machine.threads)
    for batch in inputs.backward_batches(inputs.range_samples):  # taps, too, keep about every value
        taps.run(batch, visit)
        context.check()
    known = ranges_at_other_lengths(inputs.network)

    def candidate(site: ActivationSite, format_: UnsignedFormat) -> QuantizedActivation:
        tensor = site.tensors[0]
        if tensor in known:
            return QuantizedActivation.covering(format_, *known[tensor])
        return calibrated(histograms[tensor], format_, method)

    return [
        ActivationCandidates(site, tuple(candidate(site, format_) for format_ in formats))
        for site, formats in sites.items()
    ]


class _Rounding:
    """Sites rounded so far: the names of their formats, and in words how. The weights lie in `file`: all formats of all
    sites are several times the network."""

    def __init__(
        self, context: Context, inputs: Inputs, formats: Mapping[str, Sequence[WeightFormat]], file: IO[bytes]
    ) -> None:
        self.formats: dict[str, list[str]] = {}
        self.methods: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self._routings: dict[str, Routing] = {}  # of the sites of the group, until these are rounded
        self._context = context
        self._inputs = inputs
        self._candidates = formats
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}  # of blobs in the file, and their bytes

    def weights(self, site: str) -> Sequence[QuantizedWeight]:
        """Of a site by its name, formats in order of bits."""
        if site not in self._places:
            return []
        place, size = self._places[site]
        self._file.seek(place)
        return Candidates.unpack(self._file.read(size)).weights[site]

    def nearest(self) -> None:
        """All sites without statistics, as the request asks."""
        for site in self._inputs.network.sites:
            self._add(site, lambda: NotReducible("the request asks for it"))
            self._report(0.0)

    def gptq(self, sites: Sequence[Site]) -> bytes:
        """One group of sites; its statistics end with this call, before those of the next group begin. What it gives is
        in the chunks of the sites."""
        statistics: dict[str, InputStatistics | NotReducible] = {}
        for number, site in enumerate(sites):

            def collected(number: int = number, site: Site = site) -> InputStatistics | NotReducible:
                if site.name not in statistics:  # the first of the group that no earlier attempt rounded
                    remaining = sites[number:]
                    statistics.update(
                        (other.name, input_statistics(self._inputs.network, other)) for other in remaining
                    )
                    self._accumulate(sites, statistics)
                return statistics.pop(site.name)

            self._add(site, collected)
            self._report(0.5 * len(statistics))  # of each site half is its statistics
        release()  # the next group takes as much
        return b""

    def _accumulate(self, sites: Sequence[Site], statistics: Mapping[str, InputStatistics | NotReducible]) -> None:
        """Fill the `statistics` of those of `sites` that have any.

        The inputs of all are tapped: what is a graph output is not fused away, so that a job that goes on after a kill
        sees the same numbers, to the bit.
        """
        readers: dict[str, list[tuple[Layer, InputStatistics]]] = {}
        for site in sites:
            own = statistics.get(site.name)
            for layer in site.outer_layers:
                for tensor in read_by(self._inputs.network, layer):
                    if tensor in self._inputs.network.initializers:  # a constant state, mostly zeros
                        continue
                    reading = readers.setdefault(tensor, [])
                    if isinstance(own, InputStatistics):
                        reading.append((layer, own))
        routings = self._begin_routings(sites)
        if not any(readers.values()) and not routings:
            return

        def visit(name: str, values: NDArray[np.generic]) -> None:
            for layer, own in readers.get(name, ()):
                own.add(layer, np.asarray(values, dtype=np.float32))
            for routing in routings.get(name, ()):
                routing.add(name, values)

        taps = Taps(self._inputs.network, [*readers, *routings], self._context.machine.threads)
        batches = list(self._inputs.backward_batches(self._inputs.splits.calibration))
        for number, batch in enumerate(batches):
            taps.run(batch, visit)
            self._report(0.5 * len(sites) * (number + 1) / len(batches))

    def _begin_routings(self, sites: Sequence[Site]) -> dict[str, list[Routing]]:
        """The tables that entries are picked from, by the names of values that say which."""
        routings: dict[str, list[Routing]] = {}
        for site in sites:
            if (routing := routing_of(self._inputs.network, site)) is not None:
                self._routings[site.name] = routing
                for name in routing.operands:
                    routings.setdefault(name, []).append(routing)
        return routings

    def _note(self, site: Site, statistics: InputStatistics | NotReducible) -> dict[str, str]:
        """Of a stack of matrices, and of rows that are picked, how many the samples did not reach."""
        routing = self._routings.pop(site.name, None)
        if routing is not None:
            note = routing.note()
        elif isinstance(statistics, InputStatistics) and site.layers[0].stacked and len(statistics.hessian) > 1:
            note = unreached_note(statistics.unreached, len(statistics.hessian), "matrices")
        else:
            note = ""
        return {site.name: note} if note else {}

    def _add(self, site: Site, statistics: Callable[[], InputStatistics | NotReducible]) -> None:
        """The rounded weight of a site, computed or from an earlier attempt or another process."""
        if site.name in self.formats:
            return
        formats = self._candidates[site.name]
        if not formats:
            self.formats[site.name], self.methods[site.name] = [], "none"
            return

        def compute() -> bytes:
            weight = self._inputs.network.weight(site.weight)
            own = statistics()
            rounded, method = round_to_formats(weight, formats, site.channel_axis, own, self._context.check)
            return pack_candidates({site.name: rounded}, {site.name: method}, notes=self._note(site, own))

        blob = self._context.chunk(site.name, compute)
        self._places[site.name] = (self._file.seek(0, os.SEEK_END), len(blob))
        self._file.write(blob)
        rounded = Candidates.unpack(blob)
        self.formats[site.name] = format_names(rounded.weights[site.name])
        self.methods |= rounded.methods
        self.notes |= rounded.notes

    def _report(self, begun: float) -> None:
        """Progress, with what of the sites that are not rounded yet is done, counted in sites."""
        self._context.progress(min(1.0, (len(self.formats) + begun) / len(self._inputs.network.sites)))


def statistics_groups(network: Network, samples: int) -> Iterator[list[Site]]:
    """Sites whose statistics fit into memory together; where these take long, in halves that take about as long."""
    group: list[tuple[Site, InputStatistics | None]] = []
    used = 0
    weights = 4 * sum(site.size for site in network.sites)
    most = min(max(weights, LEAST_STATISTICS_BYTES), MOST_STATISTICS_BYTES)
    for site in network.sites:
        own = input_statistics(network, site)
        statistics = own if isinstance(own, InputStatistics) else None
        needed = 0 if statistics is None else statistics.memory_bytes
        if group and used + needed > most:
            yield from _halves(group, samples)
            group, used = [], 0
        group.append((site, statistics))
        used += needed
    yield from _halves(group, samples)


def _halves(group: Sequence[tuple[Site, InputStatistics | None]], samples: int) -> Iterator[list[Site]]:
    """Two processes take one each. Whoever is alone pays with a second forward pass, which is little beside sums that
    take so long."""
    sites = [site for site, _ in group]
    macs = list(accumulate(0 if own is None else own.macs_per_sample for _, own in group))
    forward = sum(site.macs for site in sites)
    if macs[-1] * samples < LEAST_MACS or macs[-1] < LEAST_SUMS * forward:
        yield sites
        return
    cut = bisect_right(macs, macs[-1] // 2) or 1
    yield from (part for part in (sites[:cut], sites[cut:]) if part)
