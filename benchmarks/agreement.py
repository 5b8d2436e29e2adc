"""Which method predicts the damage of plans: rank correlation with what is measured, on several real networks.

Every method scores every candidate (2 to 8 bits) from the same samples, and predicts `PLANS` random plans that are then
measured on other samples. `auto` is what a job does by itself: `TRIED` other random plans, measured on these other
samples too, choose among the methods that a job runs, and the chosen one is judged on the held-out plans like all.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.real_network import BATCH, FORMATS, THREADS, rounded_weights
from evaluation.runner import OnnxRunner
from examples.networks import DigitsMobileNet, DigitsTransformer, save, train
from network.execution import TorchNetwork
from network.graph import Network
from network.normalise import dump, normalise
from quantization.export.export import simulate
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import QuantizedWeight
from sensitivity.agreement import agreement, choose, random_plans
from sensitivity.cross_layer import CrossLayer, cross_layer
from sensitivity.estimate import Change, Subject, WeightChange
from sensitivity.estimators import METHODS
from sensitivity.interaction_matrix import InteractionMatrix
from sensitivity.interaction_weight import fit_lambda
from sensitivity.loss import Kind, Loss, Term
from sensitivity.prediction import Prediction, augmented, cross_layer_prediction

# as a job takes them: a quarter rounds the weights, and half of the search's score
ROUNDING_SHARE = 0.25
SCORING_SHARE = 0.225
# of the methods that cost a pass or more for each candidate or layer, and do not run unless they are asked for
DEAR_SAMPLES = 64
DEAR = ("hawq", "q_bert", "noise", "directional")
MEASURED_SAMPLES = 2048  # all that are left, for ResNet20: over 1,024 the truth itself moves a method by 0.01
PLANS = 100
TRIED = 20
TRACE_AND_INTERACTIONS = "hawq_v2 + lambda x interactions"


@dataclass(frozen=True)
class Case:
    """A network, and samples of its one input: `rounding` for GPTQ, `scoring` for all scores, `measuring` for plans."""

    name: str
    network: Network
    rounding: NDArray[np.float32]
    scoring: NDArray[np.float32]
    measuring: NDArray[np.float32]


def cases(data: Path) -> list[Case]:
    """ResNet20 from `data`, and two networks that are trained here on handwritten digits."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "calibration.npz"
        script = [sys.executable, str(data / "prepare.py"), str(data / "calibration_images.npz"), str(archive)]
        subprocess.run(script, check=True)
        return [
            _case("resnet20", data / "resnet20.onnx", archive),
            _trained("transformer", DigitsTransformer, Path(folder), epochs=60, learning_rate=2e-3),
            _trained("mobilenet", DigitsMobileNet, Path(folder), epochs=40, learning_rate=1e-2),
        ]


def correlations(compared: list[Case]) -> dict[str, dict[str, float]]:
    """Spearman by case and rounding, and by method."""
    return {
        f"{case.name}_{rounding}": _compared(case, rounding) for case in compared for rounding in ("nearest", "gptq")
    }


def _trained(name: str, architecture: type[nn.Module], folder: Path, *, epochs: int, learning_rate: float) -> Case:
    torch.manual_seed(0)  # of the weights that training begins with
    network = architecture()
    train(network, epochs, learning_rate)
    return _case(name, *save(network, folder, name))


def _case(name: str, model: Path, archive: Path) -> Case:
    proto = onnx.load(str(model))
    with np.load(archive) as arrays:
        images = arrays[proto.graph.input[0].name]
    network = normalise(proto, {proto.graph.input[0].name: images.shape[1:]})
    ends = [int(share * len(images)) for share in (ROUNDING_SHARE, ROUNDING_SHARE + SCORING_SHARE)]
    rounding, scoring, measuring = np.split(images, ends)
    return Case(name, network, rounding, scoring, measuring[:MEASURED_SAMPLES])


def _compared(case: Case, rounding: str) -> dict[str, float]:
    rounded = _rounded(case, rounding)
    changes = [
        WeightChange(site.name, weight.format.name, site.weight, weight.dequantize)
        for site in case.network.sites
        for weight in rounded[site.name]
    ]
    name = case.network.inputs[0].name
    matrix = cross_layer(
        case.network,
        changes,
        {name: case.scoring},
        Loss.of(Kind.KL, case.network.outputs[0].name),
        threads=THREADS,
        generator=np.random.default_rng(0),
        batch=BATCH,
    )
    found = _predictions(case, changes, matrix)
    counts = [len(FORMATS)] * len(case.network.sites)
    tried, held_out = random_plans(counts, TRIED, seed=1), random_plans(counts, PLANS, seed=2)
    measured_tried, measured = (_measured(case, rounded, plans) for plans in (tried, held_out))
    offered = [one for one in found if one.method not in DEAR]
    chosen = choose([(one.method, one.damages(tried)) for one in offered], measured_tried)
    figures = {one.method: agreement(one.method, one.damages(held_out), measured).spearman for one in found}
    own = next(one.own for one in found if one.method == "hawq_v2")
    interactions = InteractionMatrix.of(matrix.matrix)
    lam = fit_lambda(own, interactions, tried, measured_tried).value
    weighted = replace(interactions, anchors=lam * matrix.matrix, own=own)
    with_interactions = Prediction(TRACE_AND_INTERACTIONS, own, weighted).damages(held_out)
    figures[TRACE_AND_INTERACTIONS] = agreement(TRACE_AND_INTERACTIONS, with_interactions, measured).spearman
    print(f"{case.name}, {rounding}: auto takes {chosen}; lambda of the trace {lam:.2f}", flush=True)
    return {method: round(value, 4) for method, value in {"auto": figures[chosen], **figures}.items()}


def _rounded(case: Case, rounding: str) -> dict[str, Sequence[QuantizedWeight]]:
    network = case.network
    if rounding == "gptq":
        return dict(rounded_weights(network, case.rounding))
    return {
        site.name: [round_nearest(network.weight(site.weight), format_, site.channel_axis) for format_ in FORMATS]
        for site in network.sites
    }


def _measured(
    case: Case, rounded: dict[str, Sequence[QuantizedWeight]], plans: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[P]: the mean loss of every plan, each a file of its own in ONNX Runtime."""
    inputs = {case.network.inputs[0].name: case.measuring}
    reference = OnnxRunner(dump(case.network), THREADS).first_output(inputs, BATCH).astype(np.float32)
    found, term = [], Term(case.network.outputs[0].name, Kind.KL)
    for plan in plans % len(FORMATS):  # indices into the formats of each site
        chosen = zip(case.network.sites, plan.tolist(), strict=True)
        weights = {site.weight: rounded[site.name][index] for site, index in chosen}
        outputs = OnnxRunner(simulate(case.network, weights), THREADS).first_output(inputs, BATCH)
        found.append(term.sample_loss(outputs.astype(np.float32), reference).mean())
    return np.array(found)


def _predictions(case: Case, changes: Sequence[Change], matrix: CrossLayer) -> list[Prediction]:
    """What a job offers `auto`, in its order of preference, then the methods that a job runs when asked."""
    interactions = InteractionMatrix.of(matrix.matrix)
    found = [augmented(matrix.measured, interactions), cross_layer_prediction(interactions)]
    found.append(Prediction("measured", matrix.measured))
    network = TorchNetwork(case.network)
    for name, method in METHODS.items():
        samples = case.scoring[: DEAR_SAMPLES if name in DEAR else None]
        loss = Loss.of(Kind.KL, case.network.outputs[0].name)
        subject = Subject(network, tuple(changes), {case.network.inputs[0].name: samples}, loss)
        found.append(Prediction(name, method(subject).scores))
    return found
