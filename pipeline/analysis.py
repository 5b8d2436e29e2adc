"""What is known of the candidates once they were analysed, and what each method predicts from it for whole plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.methods import scores_of
from pipeline.results import Arrays
from planner.errors import MethodNotApplicable
from quantization.formats import Format
from sensitivity.estimate import Unit
from sensitivity.prediction import Prediction, augmented, cross_layer_prediction

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

    def index(self, site: str, format_: Format) -> int:
        """Position of the candidate in the arrays."""
        position = 0
        for name, formats in zip(self.document["sites"], self.document["formats"], strict=True):
            if name == site:
                return position + int(formats.index(format_.name))
            position += len(formats)
        raise KeyError(site)

    def predictions(self) -> list[Prediction]:
        """What can predict whole plans, the preferred method first."""
        matrix = self.arrays["matrix"]
        found = [augmented(self.arrays["score/measured"], matrix), cross_layer_prediction(matrix)]
        alone = [name for name in self.document["methods"] if name != "cross_layer"]
        found += [Prediction(name, self.arrays[f"score/{name}"]) for name in alone]
        # a method that does not cover every candidate says nothing about whole plans
        return [one for one in found if np.isfinite(one.own if one.interactions is None else one.interactions).all()]


@dataclass(frozen=True)
class Analysis:
    """Scores, and what the stage `agreement` found about which of them predict best."""

    scores: Scores
    agreement: Mapping[str, Any]

    def method(self, asked: str) -> str:
        """The method that predicts: the one asked for, or for `auto` the one that agreed best."""
        return str(self.agreement["chosen"]) if asked == "auto" else asked

    def stderr(self, asked: str) -> NDArray[np.float64]:
        """[K]: the standard error of each candidate's own damage by that method."""
        method = self.method(asked)
        return np.asarray(self._scale(method) * self.scores.arrays[f"stderr/{scores_of(method)}"])

    def prediction(self, asked: str) -> Prediction:
        """How that method predicts the damage of plans; scores that only order are scaled to damages.

        Raises:
            MethodNotApplicable: the method did not run on this network, or covers not every candidate.
        """
        method = self.method(asked)
        found = {prediction.method: prediction for prediction in self.scores.predictions()}
        if method not in found:
            why = self.scores.document["unavailable"].get(method, "it does not cover every candidate")
            raise MethodNotApplicable(
                f"sensitivity.method {method} cannot plan this network: {why}; take auto, or {', '.join(found)}"
            )
        return found[method].times(self._scale(method))

    def _scale(self, method: str) -> float:
        """What makes damages of scores that only order: by the measured plans, or, without, by the measured damages."""
        if self.scores.document["methods"].get(method, {}).get("unit") != Unit.RELATIVE:
            return 1.0
        ratio = next((one["ratio"] for one in self.agreement["methods"] if one["method"] == method), None)
        if ratio:
            return float(ratio)
        total = float(self.scores.arrays[f"score/{method}"].sum())
        return float(self.scores.arrays["score/measured"].sum()) / total if total > 0 else 1.0
