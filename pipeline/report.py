"""The chosen plan as tables: a row for each layer, and for each quantized activation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from network.graph import Network
from pipeline.analysis import Scores
from pipeline.candidates import Rounded
from pipeline.coupling import Coupling
from pipeline.reach import unmeasured_sites
from pipeline.results import number
from planner.problem import Candidate, Plan, Problem
from quantization.formats import FloatFormat, UnsignedFormat

UNMEASURED = "the first output does not depend on it, so nothing measures its damage: the widest format allowed"
KEPT = "not rounded anew for the errors of other layers"
UNMEASURED_IN_A_PLAN = "the first output does not depend on it, so nothing measures its damage"


@dataclass(frozen=True, eq=False)
class ChosenPlan:
    """A plan with what is known of its candidates; `stderr` `[K]` is that of their damages.

    Nothing is known of the damages of a plan that was applied: `scores` and `stderr` are then None.
    """

    network: Network
    problem: Problem
    plan: Plan
    scores: Scores | None
    stderr: NDArray[np.float64] | None
    coupling: Coupling

    def candidates(self) -> Iterator[tuple[str, Candidate, float | None]]:
        """Site, chosen candidate and standard error of its damage; None where it stays float, or is not known."""
        for site, choice in zip(self.problem.sites, self.plan.choices, strict=True):
            candidate = site.candidates[choice]
            stderr = None
            if self.scores is not None and self.stderr is not None and not isinstance(candidate.format, FloatFormat):
                stderr = number(self.stderr[self.scores.index(site.name, candidate.format)])
            yield site.name, candidate, stderr

    def damage(self, candidate: Candidate) -> float | None:
        """What is predicted of the candidate alone; None where nothing is."""
        return None if self.scores is None else candidate.damage

    def trace(self, name: str, index: int) -> float | None:
        """Entry `index` of the array `name`, of the weight of that number; None where no traces were taken."""
        return None if self.scores is None else number(self.scores.arrays[name][index])


@dataclass(frozen=True, slots=True)
class Rounding:
    """How weights were rounded, by site name.

    `alone` says of each how by itself; `anew` how with the others, of those that were, and `kept` why not, of those
    that were not although others were.
    """

    alone: Mapping[str, str]
    anew: Mapping[str, str]
    kept: Mapping[str, str]


def layers_of(chosen: ChosenPlan, rounded: Rounded, rounding: Rounding) -> list[dict[str, Any]]:
    """One row for each weight, in graph order."""
    notes = _notes(chosen, rounding)
    found = {name: (candidate, stderr) for name, candidate, stderr in chosen.candidates()}
    formats = chosen.problem.formats(chosen.plan)
    layers = []
    for index, site in enumerate(chosen.network.sites):
        candidate, stderr = found[site.name]
        method = None if isinstance(candidate.format, FloatFormat) else rounding.alone[site.name]
        together = [weight.format.name for weight in rounded.weights[site.name]]
        layers.append(
            {
                "name": site.name,
                "op_type": site.layers[0].op_type,
                "weight": site.weight,
                "nodes": [layer.name for layer in site.layers],
                "shape": list(site.shape),
                "weights": site.size,
                "format": candidate.format.name,
                "bits": candidate.format.bits,
                "input_bits": chosen.coupling.input_bits(site, formats),
                "bytes": candidate.size_bytes,
                "bit_operations": chosen.coupling.bit_operations(site, formats),
                "latency_ms": chosen.coupling.latency_ms(site, formats),
                "damage": chosen.damage(candidate),
                "damage_stderr": stderr,
                "trace_mean": chosen.trace("trace_mean", index),
                "trace_stderr": chosen.trace("trace_stderr", index),
                "rounding": method if method is None else rounding.anew.get(site.name, method),
                "rounded_with": together if method is not None and method.startswith("gptq") else None,
                "note": "; ".join(notes[site.name]) or None,
            }
        )
    return layers


def _notes(chosen: ChosenPlan, rounding: Rounding) -> dict[str, list[str]]:
    """What is to be said of each weight beside its figures."""
    unmeasured = unmeasured_sites(chosen.network)
    of_unmeasured = UNMEASURED_IN_A_PLAN if chosen.scores is None else UNMEASURED
    notes: dict[str, list[str]] = {}
    for site in chosen.network.sites:
        notes[site.name] = [of_unmeasured] if site.name in unmeasured else []
        if site.name in rounding.kept:
            notes[site.name].append(f"{KEPT}: {rounding.kept[site.name]}")
    return notes


def activations_of(chosen: ChosenPlan, rounded: Rounded) -> list[dict[str, Any]]:
    """One row for each activation that was planned, in graph order; none where activations stay float32."""
    layers = {site.name for site in chosen.network.sites}
    rows = []
    for name, candidate, stderr in chosen.candidates():
        if name in layers:
            continue
        found = rounded.activations[name]
        row = {
            "name": name,
            "tensors": list(found.site.tensors),
            "elements": found.site.elements,
            "format": candidate.format.name,
            "bits": candidate.format.bits,
            "bytes": candidate.size_bytes,
            "damage": chosen.damage(candidate),
            "damage_stderr": stderr,
        }
        if isinstance(candidate.format, UnsignedFormat):
            parameters = found.quantized(candidate.format)[name]
            row |= {"scale": parameters.scale, "zero_point": parameters.zero_point}
        rows.append(row)
    return rows
