"""Sensitivity on a real network: traces and the cross-layer matrix against the plain ways to compute them.

    python -m benchmarks.sensitivity DATA

DATA as for `benchmarks.job`. The last line is one JSON object. Everything runs in this process, with as many threads
as the machine has cores, each pair of figures from the same samples.
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

from network.execution import TorchNetwork
from network.graph import Network
from network.normalise import normalise
from quantization.formats import IntegerFormat
from quantization.nearest import round_nearest
from sensitivity.cross_layer import cross_layer
from sensitivity.estimate import WeightChange
from sensitivity.loss import Loss, root_times
from sensitivity.traces import TraceRule, hessian_traces

SAMPLES = 512
BATCH = 64
BITS = range(2, 9)
THREADS = os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    data: Path = parser.parse_args().data
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "calibration.npz"
        script = [sys.executable, str(data / "prepare.py"), str(data / "calibration_images.npz"), str(archive)]
        subprocess.run(script, check=True)
        with np.load(archive) as arrays:
            samples = arrays["input"][:SAMPLES]
    network = normalise(onnx.load(str(data / "resnet20.onnx")), {"input": samples.shape[1:]})
    figures = {**traces(network, samples), **matrix(network, samples)}
    table = Table("figure", "measured")
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console().print(table)
    print(json.dumps(figures))


def traces(network: Network, samples: NDArray[np.float32], probes: int = 32) -> dict[str, Any]:
    """As many output probes as joint weight probes, on micro-batches of the same size: time and standard error."""
    model = TorchNetwork(network)
    weights = {site.name: site.weight for site in network.sites}
    rule = TraceRule(rtol=1e-9, min_probes=probes, max_probes=probes)
    started = time.perf_counter()
    ours = hessian_traces(model, weights, {"input": samples}, Loss.KL, torch.Generator().manual_seed(0), rule, BATCH)
    our_seconds = time.perf_counter() - started
    started = time.perf_counter()
    plain = np.stack([weight_probe(model, list(weights.values()), samples, probe) for probe in range(probes)])
    plain_seconds = time.perf_counter() - started
    plain_error = plain.std(0, ddof=1) / np.sqrt(probes) / np.abs(plain.mean(0))
    our_error = ours.trace_stderr / ours.trace_mean
    return {
        "trace_time_vs_plain_loop": round(our_seconds / plain_seconds, 3),
        "trace_relative_stderr_median": round(float(np.median(our_error)), 3),
        "trace_relative_stderr_worst": round(float(our_error.max()), 3),
        "plain_loop_relative_stderr_median": round(float(np.median(plain_error)), 3),
        "plain_loop_relative_stderr_worst": round(float(plain_error.max()), 3),
    }


def weight_probe(
    model: TorchNetwork, weights: list[str], samples: NDArray[np.float32], probe: int
) -> NDArray[np.float64]:
    """One joint Rademacher probe over all weights: a Hessian-vector product of the KL, as it is usually written."""
    start = probe * BATCH % (len(samples) - BATCH + 1)
    z = model.run({"input": torch.from_numpy(samples[start : start + BATCH])})[0]
    reference = torch.log_softmax(z.detach(), -1)
    loss = (reference.exp() * (reference - torch.log_softmax(z, -1))).sum(-1).mean()
    parameters = [model.parameters[name] for name in weights]
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    signs = [torch.randint(0, 2, w.shape, generator=torch.Generator().manual_seed(probe)) * 2.0 - 1 for w in parameters]
    products = torch.autograd.grad(gradients, parameters, signs)
    return np.array([(s * h).double().mean().item() for s, h in zip(signs, products, strict=True)])


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
        Loss.KL,
        threads=THREADS,
        generator=np.random.default_rng(0),
        batch=BATCH,
    )
    our_seconds = time.perf_counter() - started
    started = time.perf_counter()
    reference = full_pass(network, {}, samples)
    rows = []
    for site in network.sites:
        for weight in rounded[site.name]:
            outputs = full_pass(network, {site.weight: weight.dequantize()}, samples)
            rows.append(root_times(Loss.KL, outputs, reference).ravel())
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
