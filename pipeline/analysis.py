"""What is known of the candidates once they were analysed, and what each method predicts from it for whole plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.methods import scores_of
from pipeline.results import Arrays
from planner.errors import MethodNotApplicable
from sensitivity.estimate import Unit
from sensitivity.interaction_matrix import InteractionMatrix
from sensitivity.prediction import Prediction, augmented, cross_layer_prediction

DESTROYED = 1e3

Part = tuple[dict[str, Any], Arrays]


@dataclass(frozen=True)
class Scores:
    """What the stages `cross_layer` and `sensitivity` wrote, put together.

    `arrays` have one entry for each candidate, sites in order, formats by bits; `document["methods"]` says of each
    method what it took.
    """

    document: Mapping[str, Any]
    arrays: Mapping[str, NDArray[np.float64]]

    @classmethod
    def combined(cls, measured: Part, estimated: Part) -> Scores:
        """The documents and arrays of both stages as one."""
        (document, arrays), (further_document, further_arrays) = measured, estimated
        methods = {**document["methods"], **further_document["methods"]}
        return cls({**document, **further_document, "methods": methods}, {**arrays, **further_arrays})

    @cached_property
    def matrix(self) -> InteractionMatrix:
        """The cross-layer matrix of all candidates."""
        arrays = self.arrays
        root, own = arrays["root"], arrays["score/cross_layer"]
        return InteractionMatrix(
            arrays["anchors"], np.asarray(arrays["anchor_of"], dtype=np.intp), root, np.ones(len(root)), own
        )

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """Position of every candidate in the arrays, by site and format name."""
        sites = zip(self.document["sites"], self.document["formats"], strict=True)
        candidates = ((site, format_) for site, formats in sites for format_ in formats)
        return {candidate: place for place, candidate in enumerate(candidates)}

    def predictions(self) -> list[Prediction]:
        """What can predict whole plans, the preferred method first."""
        measured, matrix = destroyed_last(self.arrays["score/measured"], self.matrix)
        every = [augmented(measured, matrix), cross_layer_prediction(matrix), Prediction("measured", measured)]
        alone = [name for name in self.document["methods"] if name not in ("cross_layer", "measured")]
        every += [Prediction(name, self.arrays[f"score/{name}"]) for name in alone]
        # a method that does not cover every candidate says nothing about whole plans
        return [
            own
            for own in every
            if (np.isfinite(own.own).all() if own.interactions is None else own.interactions.is_finite)
        ]


def destroyed_last(
    measured: NDArray[np.float64], matrix: InteractionMatrix
) -> tuple[NDArray[np.float64], InteractionMatrix]:
    """Damages `[K]` and interactions `[K, K]` with numbers for candidates that leave the network without a number.

    Such a candidate (a logarithm of what became negative) loses without bound. It counts as `DESTROYED` times the worst
    of the others, and interacts with none: that keeps it out of every plan.
    """
    destroyed = ~(np.isfinite(measured) & np.isfinite(matrix.own))
    if not destroyed.any():
        return measured, matrix
    worst = float(measured[~destroyed].max(initial=1.0))
    return np.where(destroyed, DESTROYED * worst, measured), replace(
        matrix,
        anchors=np.where(np.isfinite(matrix.anchors), matrix.anchors, 0.0),
        root=np.where(destroyed, 0.0, matrix.root),
        own=np.where(destroyed, DESTROYED * worst, matrix.own),
    )


@dataclass(frozen=True)
class Analysis:
    """Scores, and what the stage `agreement` found about which of them predict best."""

    scores: Scores
    agreement: Mapping[str, Any]

    def method(self, requested: str) -> str:
        """The method that predicts: the requested one, or for `auto` the one that agreed best."""
        return str(self.agreement["chosen"]) if requested == "auto" else requested

    def stderr(self, requested: str) -> NDArray[np.float64]:
        """[K]: the standard error of each candidate's own damage by that method."""
        method = self.method(requested)
        return np.asarray(self._scale(method) * self.scores.arrays[f"stderr/{scores_of(method)}"])

    def prediction(self, requested: str) -> Prediction:
        """How that method predicts the damage of plans; scores that only order are scaled to damages.

        Raises:
            MethodNotApplicable: the method did not run on this network, or covers not every candidate.
        """
        method = self.method(requested)
        predictions = {prediction.method: prediction for prediction in self.scores.predictions()}
        if method not in predictions:
            why = self.scores.document["unavailable"].get(method, "it does not cover every candidate")
            raise MethodNotApplicable(
                f"sensitivity.method {method} cannot plan this network: {why}; take auto, or {', '.join(predictions)}"
            )
        return predictions[method].times(self._scale(method))

    def _scale(self, method: str) -> float:
        """What makes damages of scores that only order: by the measured plans, or, without, by the measured damages."""
        if self.scores.document["methods"].get(method, {}).get("unit") != Unit.RELATIVE:
            return 1.0
        ratio = next((own["ratio"] for own in self.agreement["methods"] if own["method"] == method), None)
        if ratio:
            return float(ratio)
        total = float(self.scores.arrays[f"score/{method}"].sum())
        return float(self.scores.arrays["score/measured"].sum()) / total if total > 0 else 1.0
