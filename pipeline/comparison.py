"""The methods of sensitivity side by side, as a user reads them: scores, standard errors, agreement, cost."""

from __future__ import annotations

import math
from typing import Any

from pipeline.analysis import Analysis
from pipeline.methods import scores_of
from pipeline.results import number


def sensitivity_of(analysis: Analysis, asked: str) -> dict[str, Any]:
    """Every candidate's score by each method, with standard errors, the traces, and which method agrees best."""
    arrays, document = analysis.scores.arrays, analysis.scores.document
    sites = []
    row = 0
    traces = zip(arrays["trace_mean"], arrays["trace_stderr"], strict=True)  # of weights, which come first
    for site, formats in zip(document["sites"], document["formats"], strict=True):
        candidates = []
        for format_ in formats:
            scores = {
                name: _scored(arrays[f"score/{name}"][row], arrays[f"stderr/{name}"][row])
                for name in document["methods"]
            }
            candidates.append(
                {"format": format_, "squared_error": number(arrays["squared_error"][row]), "scores": scores}
            )
            row += 1
        trace = _scored(*next(traces, (math.nan, math.nan)))
        sites.append({"name": site, "trace_mean": trace, "candidates": candidates})
    return {
        "loss": document["loss"],
        "samples": document["samples"],
        **compared(analysis, asked, timed=True),
        "unavailable": document["unavailable"],
        "traces": document["traces"],
        "sites": sites,
        "interactions": {
            "candidates": [
                f"{site}:{format_}"
                for site, formats in zip(document["sites"], document["formats"], strict=True)
                for format_ in formats
            ],
            "matrix": [[float(f"{value:.6g}") for value in line] for line in arrays["matrix"]],
            "sketch_error": document["sketch_error"],
        },
    }


def compared(analysis: Analysis, asked: str, *, timed: bool) -> dict[str, Any]:
    """The method in use, and how every method's predictions agree with the random plans that were measured.

    What a method took is given in float passes, the same on every machine; in the sensitivity also in seconds. (The
    plan holds no clock: the same input gives the same plan, to the byte.)
    """
    agreement, took = analysis.agreement, analysis.scores.document["methods"]
    methods = []
    for one in agreement["methods"]:
        facts = took[scores_of(one["method"])]
        names = (
            "samples",
            "float_passes",
            "unit",
            *(["seconds"] if timed else []),
            *(["note"] if facts["note"] else []),
        )
        methods.append({**one, **{name: facts[name] for name in names}})
    told = ("plans", "samples", "lambda", "note")
    shared = {key: agreement[key] for key in told}
    return {"method": analysis.method(asked), "agreement": {**shared, "methods": methods}}


def _scored(score: float, stderr: float) -> dict[str, float | None]:
    return {"score": number(score), "stderr": number(stderr)}
