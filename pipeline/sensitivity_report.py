"""The document `sensitivity` of a job: what every method says of every candidate, and what the plans were made from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis import Analysis
from pipeline.methods import scores_of
from pipeline.results import number
from pipeline.search_space import SearchSpace
from sensitivity.interaction_matrix import InteractionMatrix
from sensitivity.prediction import Prediction


@dataclass(frozen=True, slots=True, eq=False)
class MatrixLine:
    """A row of the interactions, whose numbers are made when it is written: those of all rows take gigabytes."""

    matrix: InteractionMatrix
    row: int

    def numbers(self) -> list[float | None]:
        """As a document has them: six digits, null where there is no number."""
        (line,) = self.matrix.block([self.row], np.arange(len(self.matrix.own)))
        return [number(float(f"{value:.6g}")) for value in line]


def sensitivity_of(analysis: Analysis, requested: str, space: SearchSpace) -> dict[str, Any]:
    """Every candidate's score by each method, with standard errors, the traces, and which method agrees best.

    With that, of each candidate what a plan that has it is predicted to lose and to take: the `damage` of a plan is the
    sum of those of its candidates k, and of `interaction_k interaction_l G_kl` over all pairs k != l of them.
    """
    arrays, document = analysis.scores.arrays, analysis.scores.document
    places = analysis.scores.places
    prediction = analysis.prediction(requested)
    matrix = analysis.scores.matrix
    interaction = _interactions(prediction, matrix)
    sizes = {(site.name, own.format.name): own.size_bytes for site in space.problem.sites for own in site.candidates}
    traces = zip(arrays["trace_mean"], arrays["trace_stderr"], strict=True)  # of weights, which come first

    def candidate(site: str, format_: str) -> dict[str, Any]:
        row = places[site, format_]
        scores = {
            name: _scored(arrays[f"score/{name}"][row], arrays[f"stderr/{name}"][row]) for name in document["methods"]
        }
        return {
            "format": format_,
            "size_bytes": sizes.get((site, format_)),
            "damage": number(prediction.own[row]),
            "interaction": number(interaction[row]),
            "squared_error": number(arrays["squared_error"][row]),
            "scores": scores,
        }

    sites = [
        {
            "name": site,
            "trace_mean": _scored(*next(traces, (math.nan, math.nan))),
            "candidates": [candidate(site, format_) for format_ in formats],
        }
        for site, formats in zip(document["sites"], document["formats"], strict=True)
    ]
    return {
        "loss": document["loss"],
        "samples": document["samples"],
        **compared(analysis, requested),
        "unavailable": document["unavailable"],
        "traces": document["traces"],
        "sites": sites,
        "interactions": {
            "candidates": [f"{site}:{format_}" for site, format_ in places],
            "matrix": [MatrixLine(matrix, row) for row in range(len(places))],
            "sketch_error": document["sketch_error"],
        },
    }


def _interactions(prediction: Prediction, matrix: InteractionMatrix) -> NDArray[np.float64]:
    """[K]: what scales the entries of `matrix` to those of the prediction; 0 where they add nothing."""
    if prediction.interactions is None:
        return np.zeros(len(prediction.own))
    own, ours = matrix.own, prediction.interactions.own
    known = np.isfinite(own) & (own > 0)
    return np.sqrt(np.divide(ours, own, out=np.zeros_like(own), where=known))


def compared(analysis: Analysis, requested: str) -> dict[str, Any]:
    """The method in use, and how every method's predictions agree with the random plans that were measured.

    What a method took is given in float passes, the same on every machine: the same input gives the same bytes.
    """
    agreement, facts_of = analysis.agreement, analysis.scores.document["methods"]
    methods = []
    for compared_method in agreement["methods"]:
        facts = facts_of[scores_of(compared_method["method"])]
        names = ("samples", "float_passes", "unit", *(["note"] if facts["note"] else []))
        methods.append({**compared_method, **{name: facts[name] for name in names}})
    shared = {key: agreement[key] for key in ("plans", "samples", "lambda", "note")}
    return {"method": analysis.method(requested), "agreement": {**shared, "methods": methods}}


def _scored(score: float, stderr: float) -> dict[str, float | None]:
    return {"score": number(score), "stderr": number(stderr)}
