"""The plan as tables: a row for each layer, and for each quantized activation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from network.graph import Site
from pipeline.analysis import Analysis
from pipeline.candidates import Candidates, format_names
from pipeline.reach import unmeasured_sites
from pipeline.results import number
from pipeline.search_space import SearchSpace
from planner.problem import Candidate, Plan
from quantization.export.narrow import stored_format
from quantization.formats import FloatFormat, UnsignedFormat
from quantization.storage.weights import zero_share

UNMEASURED = "no measured output depends on it, so nothing measures its damage: the widest format allowed"
UNMEASURED_IN_A_PLAN = "no measured output depends on it, so nothing measures its damage"
KEPT = "not rounded anew for the errors of other layers"
UNCOUNTED = "no run showed how often it is used: its bit operations are the least, of using each weight once"
UNUSED = "the sample that costs are counted on does not run it: its bit operations are 0"


@dataclass(frozen=True, eq=False)
class Search:
    """What the search for a plan leaves behind: the `document` of the stage `plan`, and what predicted damages."""

    document: Mapping[str, Any]
    analysis: Analysis
    method: str

    @cached_property
    def stderr(self) -> NDArray[np.float64]:
        """[K]: the standard error of every candidate's damage."""
        return self.analysis.stderr(self.method)


@dataclass(frozen=True, eq=False)
class PlanFacts:
    """A plan with what is known of its candidates; nothing is known of their damages where it was applied, without a
    search."""

    space: SearchSpace
    plan: Plan
    search: Search | None

    def candidates(self) -> Iterator[tuple[str, Candidate, float | None]]:
        """Site, chosen candidate and standard error of its damage; None where it stays float, or is not known."""
        for site, choice in zip(self.space.problem.sites, self.plan.choices, strict=True):
            candidate = site.candidates[choice]
            stderr = None
            if self.search is not None and not isinstance(candidate.format, FloatFormat):
                place = self.search.analysis.scores.places[site.name, candidate.format.name]
                stderr = number(self.search.stderr[place])
            yield site.name, candidate, stderr

    def damage(self, candidate: Candidate) -> float | None:
        """What is predicted of the candidate alone; None where nothing is."""
        return None if self.search is None else candidate.damage

    def trace(self, name: str, index: int) -> float | None:
        """Entry `index` of the array `name`, of the weight of that number; None where no traces were taken."""
        return None if self.search is None else number(self.search.analysis.scores.arrays[name][index])


def layer_rows(
    facts: PlanFacts, candidates: Candidates, delivered: Candidates, kept: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row for each weight, in graph order.

    Args:
        delivered: the weights as the file stores them, and how those were rounded that were rounded anew.
        kept: why not, of those that were not although others were.
    """
    notes = _notes(facts, candidates.notes, kept)
    chosen = {name: (candidate, stderr) for name, candidate, stderr in facts.candidates()}
    formats = facts.space.problem.formats(facts.plan)
    coupling = facts.space.coupling
    rows = []
    for index, site in enumerate(facts.space.network.sites):
        candidate, stderr = chosen[site.name]
        stored = stored_format(facts.space.network, site.weight, candidate.format)
        method = None if isinstance(candidate.format, FloatFormat) else candidates.methods[site.name]
        rounded_with = format_names(candidates.weights[site.name])
        rows.append(
            {
                "name": site.name,
                "op_type": site.layers[0].op_type,
                "weight": site.weight,
                "nodes": [layer.name for layer in site.layers],
                "shape": list(site.shape),
                "weights": site.size,
                "format": stored.name,
                "bits": stored.bits,
                "input_bits": coupling.input_bits(site, formats),
                "bytes": candidate.size_bytes,
                "bit_operations": coupling.bit_operations(site, formats),
                "latency_ms": coupling.latency_ms(site, formats),
                "load_ms": candidate.load_ms,
                "sparsity": _sparsity(facts, site, delivered),
                "damage": facts.damage(candidate),
                "damage_stderr": stderr,
                "trace_mean": facts.trace("trace_mean", index),
                "trace_stderr": facts.trace("trace_stderr", index),
                "rounding": method if method is None else delivered.methods.get(site.name, method),
                "rounded_with": rounded_with if method is not None and method.startswith("gptq") else None,
                "note": "; ".join(notes[site.name]) or None,
            }
        )
    return rows


def _sparsity(facts: PlanFacts, site: Site, delivered: Candidates) -> float:
    """The share of the codes that the file stores of a weight which stand for 0, of floats that of its values."""
    stored = delivered.weights.get(site.name)
    return stored[0].sparsity() if stored else zero_share(facts.space.network.weight(site.weight))


def _notes(facts: PlanFacts, given: Mapping[str, str], kept: Mapping[str, str]) -> dict[str, list[str]]:
    """What the figures of each weight do not say."""
    unmeasured = unmeasured_sites(facts.space.network)
    of_unmeasured = UNMEASURED_IN_A_PLAN if facts.search is None else UNMEASURED
    notes: dict[str, list[str]] = {}
    for site in facts.space.network.sites:
        notes[site.name] = [of_unmeasured] if site.name in unmeasured else []
        if site.name in given:
            notes[site.name].append(given[site.name])
        if not site.macs_known:
            notes[site.name].append(UNCOUNTED)
        if site.macs == 0 and not site.outer_layers:
            notes[site.name].append(UNUSED)
        if site.name in kept:
            notes[site.name].append(f"{KEPT}: {kept[site.name]}")
    return notes


def activation_rows(facts: PlanFacts, candidates: Candidates) -> list[dict[str, Any]]:
    """One row for each activation that was planned, in graph order; none where activations stay float32."""
    layers = {site.name for site in facts.space.network.sites}
    rows = []
    for name, candidate, stderr in facts.candidates():
        if name in layers:
            continue
        activation = candidates.activations[name]
        row = {
            "name": name,
            "tensors": list(activation.site.tensors),
            "elements": activation.site.elements,
            "format": candidate.format.name,
            "bits": candidate.format.bits,
            "bytes": candidate.size_bytes,
            "damage": facts.damage(candidate),
            "damage_stderr": stderr,
        }
        if isinstance(candidate.format, UnsignedFormat):
            parameters = activation.quantized(candidate.format)[activation.site.tensors[0]]
            row |= {"scale": parameters.scale, "zero_point": parameters.zero_point}
        rows.append(row)
    return rows
