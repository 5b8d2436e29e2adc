"""What is not finite in weights and data is judged by the outputs of the uploaded file: a network may mask it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from evaluation.errors import DatasetNotFinite
from evaluation.metrics.measurement import Output
from evaluation.runner import OnnxRunner
from network.errors import WeightsNotFinite, listing
from network.finite import not_finite
from pipeline.context import Context
from pipeline.reference import outputs_of
from pipeline.workspace import Inputs
from quantization.errors import ActivationsNotFinite

_MOST_SAMPLES = 256
"""That are run for nothing else."""


def require_numbers(context: Context, inputs: Inputs, runner: OnnxRunner) -> None:
    """Refuse samples that are not finite, where the network gives no number for them.

    Raises:
        DatasetNotFinite: every value of an output is NaN or infinite for such a sample; names its first.
    """
    bad = inputs.dataset.not_finite()[:_MOST_SAMPLES]
    if not len(bad):
        return
    whole = -(-len(bad) // (inputs.static_batch or 1)) * (inputs.static_batch or 1)
    outputs = outputs_of(context, inputs, runner, np.resize(bad, whole))
    for name, output in outputs.items():
        if output.dtype.kind != "f" or name in runner.without_samples:
            continue
        lost = ~np.isfinite(output[: len(bad)]).reshape(len(bad), -1).any(1)
        if lost.any():
            place = inputs.dataset.first_not_finite(int(bad[np.argmax(lost)]))
            raise DatasetNotFinite(
                f"{place}, and the network gives no number for this sample: no value of its output {name!r} is finite; "
                "remove or repair such samples"
            )


def require_finite_outputs(model: Path, outputs: Mapping[str, Output]) -> None:
    """Refuse an uploaded `model` that gives NaN in the same places for all samples.

    Raises:
        WeightsNotFinite: it does, and holds constants that are not finite; names both.
        ActivationsNotFinite: an output holds nothing but NaN.
    """
    always = {name: _always_nan(output) for name, output in outputs.items() if output.dtype.kind == "f"}
    for name, nan in always.items():
        if not nan.any():
            continue
        constants = [f"{constant} ({kind})" for constant, kind in not_finite(ModelProto.FromString(model.read_bytes()))]
        if constants:
            raise WeightsNotFinite(
                f"{int(nan.sum())} of {nan.size} values of the output {name!r} are NaN for every sample, and constants "
                f"are not finite: {listing(constants)}; expected finite numbers: was the training run diverging?"
            )
        if nan.all():
            raise ActivationsNotFinite(
                f"the output {name!r} is NaN for every sample; check the samples' scale and preprocessing"
            )


def _always_nan(output: Output) -> NDArray[np.bool_]:
    return np.asarray(np.isnan(output).all(0))
