"""Rounding of a whole plan: every layer for the inputs that the quantized network really gives it.

Candidates are rounded one by one, for the inputs that the float network gives their layer: each then adds its own
error to those that come in from before. Once a plan has settled every format, its layers can be rounded anew in graph
order, each from the inputs `x` of the network whose earlier weights (and activations) are quantized already, and
towards what the float layer makes of the float network's inputs `x_float`:

    minimise  sum |W_q x - W x_float|^2        (GPTAQ, Li et al., arXiv 2504.02692)

which is GPTQ with H = sum x x' for the weight `W + W (sum (x_float - x) x') H**-1` (`quantization.rounding.gptq`).
Errors of earlier layers are made up for as far as a linear layer can. Where the layer has a bias, that takes the mean
error (`quantization.plans.bias_correction`), and the weight is rounded for what is left: all moments are about the
means [ours]. Neither is done where an integer kernel's bias has steps larger than the mean error. Coordinate descent
ends each weight's rounding, in every format that GPTQ rounds (`quantization.plans.weight_rounding`).

Both networks run in lockstep, so that all of this takes one forward pass of each (`quantization.plans.lockstep`), and
one GPTQ of one format for each weight.

Deviations from GPTAQ:

1. All of the correction is solved for in the weight before the rounding, with the damping of GPTQ; the paper adds it
   column by column within the loop, which has the same optimum.
2. A tied weight is rounded at its first use. Uses whose inputs do not exist yet by then count with the inputs of the
   float network (one more float pass, only for networks with such weights); the bias correction sees each in its place.
3. Weights without second moments (embeddings, stacks of matrices), formats that GPTQ does not round, and the recurrent
   matrix of LSTM, GRU and RNN, whose inputs are made by its own node, keep the rounding they had, from the start on, so
   that the others make up for them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from network.graph import Network, Site
from network.onnx_graph import names_read
from network.taps import Taps
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import QuantizationError
from quantization.plans.bias_correction import Biases, BiasSteps
from quantization.plans.coordinate_descent import SWEEPS
from quantization.plans.lockstep import Arrays, Floats, Lockstep, affordable
from quantization.plans.order import Stage, Use, stages
from quantization.plans.weight_rounding import reason_to_keep, round_anew
from quantization.rounding.statistics import POSITIONS_PER_SAMPLE, InputStatistics, input_statistics
from quantization.storage.weights import QuantizedWeight

DAMPING = 0.03
MEMORY_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class RoundedPlan:
    """The weights of a plan after they were rounded for each other.

    `weights` has every weight that was given, in the same formats; `biases` new values of float32 initializers, by
    name; `notes` says of each weight that was rounded anew how, `kept` of the others why they were not.
    """

    weights: Mapping[str, QuantizedWeight]
    biases: Mapping[str, Floats]
    notes: Mapping[str, str]
    kept: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Effort:
    """How a plan is rounded.

    Args:
        threads: threads of ONNX Runtime.
        batch: samples in one run.
        positions_per_sample: of a layer's input (pixels, tokens) that count, about; more where memory leaves fewer
            samples than there are.
        memory_bytes: most that the values kept between two cuts may take, in both networks together.
        damping: of GPTQ and of the correction, as `quantization.rounding.gptq.gptq` takes it.
        sweeps: of coordinate descent behind GPTQ.
        correct_biases: also give every bias the mean error of its layer (`quantization.plans.bias_correction`).
    """

    threads: int
    batch: int = 64
    positions_per_sample: int = POSITIONS_PER_SAMPLE
    memory_bytes: int = MEMORY_BYTES
    damping: float = DAMPING
    sweeps: int = SWEEPS
    correct_biases: bool = True


def round_plan(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    inputs: Arrays,
    activations: Mapping[str, QuantizedActivation],
    effort: Effort,
    check: Callable[[float], None] = lambda _fraction: None,
) -> RoundedPlan:
    """All `weights` of a plan rounded anew, each for the quantized network before it.

    The same bytes for the same arguments.

    Args:
        network: the float network, normalised; not changed.
        weights: by initializer name, as rounded one by one: their formats are kept, their codes and scales only where a
            weight cannot be rounded anew. Weights that are not named stay float.
        inputs: calibration arrays `[samples, ...]` by graph input name.
        activations: by tensor name, as `quantization.export.export.export` takes them.
        check: called with the fraction done, several times for each layer; what it raises ends the work.

    Raises:
        QuantizationError: a weight is no site's, or of another shape.
        ActivationsNotFinite: the samples drive a layer to infinity or to no number.
        ValueError: there are no samples, or an activation is no value of the main graph.
    """
    kept = affordable(network, inputs, effort.memory_bytes, effort.threads)
    given = len(next(iter(inputs.values())))
    if kept < given:  # as many positions in all
        effort = replace(effort, positions_per_sample=effort.positions_per_sample * math.ceil(given / kept))
    inputs = {name: array[:kept] for name, array in inputs.items()}
    lockstep = Lockstep(network, inputs, activations, batch=effort.batch, threads=effort.threads)
    work = _Rounding(network, weights, lockstep, activations, effort)
    work.see_later_uses(inputs)
    nodes = len(network.proto.graph.node)
    for stage in work.order if work.has_any() else ():
        begun = lockstep.cut
        for done in lockstep.advance(stage.cut, work.replaced):
            check((begun + (stage.cut - begun) * (done + 1) / lockstep.batches) / nodes)
        work.forget(stage.cut)
        for use in stage.uses:
            work.round(use.site, stage, partial(check, stage.cut / nodes))
            if effort.correct_biases:
                work.correct_bias(use)
            check(stage.cut / nodes)
    check(1.0)
    return RoundedPlan({name: work.weights[name] for name in weights}, work.biases, work.notes, work.kept)


class _Rounding:
    """What is rounded so far: `weights`, new `biases`, `notes`, and the values of all that is `replaced`."""

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, QuantizedWeight],
        lockstep: Lockstep,
        activations: Mapping[str, QuantizedActivation],
        effort: Effort,
    ) -> None:
        _check_weights(network, weights)
        self._network = network
        self._given = weights
        self._lockstep = lockstep
        self._effort = effort
        self._biases = Biases(network)
        self._steps = BiasSteps(network, {name: weight.format for name, weight in weights.items()}, activations)
        self._uncorrected: set[str] = set()  # layers
        self._later: dict[str, InputStatistics] = {}
        self.order = stages(network, weights)
        self.weights: dict[str, QuantizedWeight] = {}
        self.notes: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.biases: dict[str, Floats] = {}
        for site in network.sites:
            if site.weight in weights and (reason := self._reason_to_keep(site)):
                self.weights[site.weight] = weights[site.weight]
                self.kept[site.weight] = reason
        self.replaced: dict[str, Floats] = {name: weight.dequantize() for name, weight in self.weights.items()}

    def has_any(self) -> bool:
        """Whether any weight is to be rounded anew; corrected biases alone make a plan worse (docs/methods.md)."""
        return any(use.site.weight not in self.weights for stage in self.order for use in stage.uses)

    def forget(self, cut: int) -> None:
        """Drop the values that no node from `cut` on reads, and no layer that is still to be rounded reads in another
        order of axes: those of all weights are a float file."""
        nodes = self._network.proto.graph.node
        needed = {name for node in itertools.islice(nodes, cut, None) for name in names_read(node)}
        needed |= {use.site.weight for stage in self.order if stage.cut >= cut for use in stage.uses}
        self.replaced = {name: values for name, values in self.replaced.items() if name in needed}

    def see_later_uses(self, inputs: Arrays) -> None:
        """Collect what the float network gives the uses of tied weights that come after the weight's rounding."""
        later: dict[str, list[Use]] = {}
        rounded = set(self.weights)
        for stage in self.order:
            for use in stage.uses:
                if use.site.weight in rounded and use.site.weight not in self.weights:
                    later.setdefault(use.tensor, []).append(use)
            rounded.update(use.site.weight for use in stage.uses)
        if not later:
            return

        def visit(name: str, values: NDArray[np.generic]) -> None:
            for use in later[name]:
                statistics = self._later.get(use.site.weight) or self._statistics(use.site)
                self._later[use.site.weight] = statistics
                statistics.add(use.layer, np.asarray(values, dtype=np.float32))

        taps = Taps(self._network, list(later), self._effort.threads)
        for part in self._network.batching.batches(inputs, self._effort.batch):
            taps.run(part, visit)

    def round(self, site: Site, stage: Stage, check: Callable[[], None]) -> None:
        """Round the weight of `site`, unless it is rounded, from all uses in `stage`, where the networks stand."""
        name = site.weight
        if name in self.weights:
            return
        uses = [use for use in stage.uses if use.site.weight == name]
        statistics = self._later.pop(name, None) or self._statistics(site)
        for use in uses:
            for quantized, exact in self._lockstep.pairs(use.tensor):
                statistics.add(use.layer, quantized, exact)
        about_means = self._effort.correct_biases and len(site.layers) == 1 and self._biases.of(site.layers[0])
        if about_means and self._steps.has(site.layers[0]):
            weight, note = self._round_weight(site, statistics.centered(), check)
            error = self._biases.mean_error(uses[0], self._lockstep, weight.dequantize())
            if error is not None and self._steps.are_coarse(site.layers[0], weight, error):
                self._uncorrected.add(site.layers[0].name)
                weight, note = self._round_weight(site, statistics, check)
        else:
            statistics = statistics.centered() if about_means else statistics
            weight, note = self._round_weight(site, statistics, check)
        self.weights[name], self.replaced[name] = weight, weight.dequantize()
        self.notes[name] = "sequential gptq" + (f": {note}" if note else "")

    def _round_weight(
        self, site: Site, statistics: InputStatistics, check: Callable[[], None]
    ) -> tuple[QuantizedWeight, str]:
        """The weight of `site`, and GPTQ's note."""
        weight, given, effort = self._network.weight(site.weight), self._given[site.weight], self._effort
        damping, sweeps = effort.damping, effort.sweeps
        return round_anew(weight, given.format, site.channel_axis, statistics, damping, sweeps, check, given)

    def correct_bias(self, use: Use) -> None:
        """Give the bias of one use, if it has one, the mean error of its layer, unless its steps are too coarse; in the
        quantized network it becomes what the file makes of it."""
        name, layer, bias = use.site.weight, use.layer, self._biases.of(use.layer)
        error = self._biases.mean_error(use, self._lockstep, self.replaced[name])
        if bias is None or error is None:
            return
        weight = self.weights[name]
        if layer.name not in self._uncorrected and not self._steps.are_coarse(layer, weight, error):
            self.biases.update(self._biases.corrected(layer, error))
        values = self.biases.get(bias.initializer, self._network.weight(bias.initializer))
        self.replaced[bias.initializer] = self._steps.kept(layer, weight, values)

    def _statistics(self, site: Site) -> InputStatistics:
        statistics = input_statistics(self._network, site, self._effort.positions_per_sample)
        if not isinstance(statistics, InputStatistics):
            raise TypeError(f"{site.name} has no second moments: {statistics.reason}")
        return statistics

    def _reason_to_keep(self, site: Site) -> str:
        """Why a weight cannot be rounded anew; empty if it can."""
        statistics = input_statistics(self._network, site, self._effort.positions_per_sample)
        if not isinstance(statistics, InputStatistics):
            return statistics.reason
        if reason := reason_to_keep(self._given[site.weight], statistics.reduction):
            return reason
        if not any(use.site == site for stage in self.order for use in stage.uses):
            return "its inputs are made by its own node"
        return ""


def _check_weights(network: Network, weights: Mapping[str, QuantizedWeight]) -> None:
    shapes = {site.weight: site.shape for site in network.sites}
    for name, weight in weights.items():
        if shapes.get(name) != weight.shape:
            raise QuantizationError(
                f"weight {name} must be that of a site, of shape {weight.shape}; the network has {shapes.get(name)}"
            )
