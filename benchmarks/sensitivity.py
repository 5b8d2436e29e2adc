"""Sensitivity on real networks: what it costs beside the plain ways to compute it, and which method to trust.

    python -m benchmarks.sensitivity DATA

DATA as for `benchmarks.job`. The last line is one JSON object. Everything but the memory of a large network runs in
this process, with as many threads as the machine has cores, each pair of figures from the same samples.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# As in the service's workers: threads sleep between operators instead of spinning against each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.agreement import cases, correlations
from benchmarks.traces import joint_loop, large_network_peak_bytes, layerwise_speedup
from network.graph import Network
from network.normalise import normalise
from quantization.formats import IntegerFormat
from quantization.rounding.nearest import round_nearest
from sensitivity.cross_layer import cross_layer
from sensitivity.estimate import WeightChange
from sensitivity.loss import Kind, Loss, Term

SAMPLES = 512
BATCH = 64
BITS = range(2, 9)
THREADS = os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--skip-agreement", action="store_true", help="leave out what predicts damage: times alone")
    arguments = parser.parse_args()
    data: Path = arguments.data
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "calibration.npz"
        script = [sys.executable, str(data / "prepare.py"), str(data / "calibration_images.npz"), str(archive)]
        subprocess.run(script, check=True)
        with np.load(archive) as arrays:
            samples = arrays["input"][:SAMPLES]
    network = normalise(onnx.load(str(data / "resnet20.onnx")), {"input": samples.shape[1:]})
    speedups = {"resnet20": layerwise_speedup(network, samples)}
    figures: dict[str, Any] = {**joint_loop(network, samples), **matrix(network, samples)}
    figures["trace_50m_peak_bytes"] = large_network_peak_bytes()
    compared = cases(data)
    transformer = next(case for case in compared if case.name == "transformer")
    speedups["transformer"] = layerwise_speedup(transformer.network, transformer.scoring)
    figures["trace_speedup_vs_layerwise"] = round(min(speedups.values()), 2)
    print(json.dumps(figures), flush=True)
    spearman = {} if arguments.skip_agreement else correlations(compared)
    _print(figures, speedups, spearman)
    print(json.dumps({**figures, "spearman": spearman}))


def _print(figures: dict[str, Any], speedups: dict[str, float], spearman: dict[str, dict[str, float]]) -> None:
    table = Table("figure", "measured")
    for name, value in {
        **figures,
        **{f"speed-up, {name}": round(value, 2) for name, value in speedups.items()},
    }.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)
    if not spearman:
        return
    agreements = Table("Spearman with the measured damage", *spearman)
    for method in next(iter(spearman.values())):
        agreements.add_row(method, *(f"{values[method]:.3f}" for values in spearman.values()))
    Console().print(agreements)


def matrix(network: Network, samples: NDArray[np.float32]) -> dict[str, Any]:
    """The cross-layer matrix, and the same by one full forward pass for each candidate."""
    rounded = {
        site.name: [round_nearest(network.weight(site.weight), IntegerFormat(bits), site.channel_axis) for bits in BITS]
        for site in network.sites
    }
    started = time.perf_counter()
    ours = cross_layer(
        network,
        [
            WeightChange(site.name, weight.format.name, site.weight, weight.dequantize)
            for site in network.sites
            for weight in rounded[site.name]
        ],
        {"input": samples},
        Loss.of(Kind.KL, network.outputs[0].name),
        threads=THREADS,
        generator=np.random.default_rng(0),
        batch=BATCH,
    )
    our_seconds = time.perf_counter() - started
    started = time.perf_counter()
    reference = full_pass(network, {}, samples)
    rows, term = [], Term(network.outputs[0].name, Kind.KL)
    for site in network.sites:
        for weight in rounded[site.name]:
            outputs = full_pass(network, {site.weight: weight.dequantize()}, samples)
            rows.append(term.root_times(outputs, reference).ravel())
    Z = np.array(rows)
    plain = Z @ Z.T / (2 * len(samples))
    plain_seconds = time.perf_counter() - started
    difference = np.abs(ours.matrix - plain) / np.sqrt(np.outer(np.diag(plain), np.diag(plain)))
    return {
        "cross_layer_time_vs_plain_loop": round(our_seconds / plain_seconds, 3),
        "cross_layer_largest_difference": float(f"{difference.max():.2g}"),
    }


def full_pass(
    network: Network, weights: dict[str, NDArray[np.float32]], samples: NDArray[np.float32]
) -> NDArray[np.float32]:
    proto = onnx.ModelProto()
    proto.CopyFrom(network.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batches = range(0, len(samples), BATCH)
    return np.concatenate([session.run(None, {"input": samples[i : i + BATCH]})[0] for i in batches])


if __name__ == "__main__":
    main()
