"""Traces against the usual ways to estimate them: time to the same standard error, and the memory of a large network.

`hessian_traces` probes the outputs and gives all layers at once. Two plain loops stand beside it, both probing the
weights with Hessian-vector products in torch: all layers jointly, as many probes; and layer by layer to the same
standard error, as PyHessian (Yao et al., arXiv 1912.07145) is used to get a trace for each layer. All draw probes on
micro-batches of the same samples, which spares PyHessian's way the pass over all data that it makes for each probe.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from network.execution import TorchNetwork
from network.graph import Network
from network.normalise import normalise
from sensitivity.hutchinson import TraceRule
from sensitivity.loss import Kind, Loss
from sensitivity.traces import hessian_traces

BATCH = 64
RTOL = 0.05
JOINT_PROBES = 32
# of one layer; what has not converged by then is extended by the law that errors fall with the root of the probes
MOST_LAYER_PROBES = 24
LARGE_WIDTH, LARGE_DEPTH = 2048, 12


@dataclass(frozen=True)
class Draws:
    """Draws of the mean trace of one or more weights, `[probes, weights]`, and the seconds that they took."""

    values: NDArray[np.float64]
    seconds: float

    @property
    def relative_error(self) -> NDArray[np.float64]:
        return self.values.std(0, ddof=1) / np.sqrt(len(self.values)) / np.abs(self.values.mean(0))


def joint_loop(network: Network, samples: NDArray[np.float32]) -> dict[str, float]:
    """As many output probes as joint weight probes: time, and the standard errors that both leave."""
    model, weights = TorchNetwork(network), [site.weight for site in network.sites]
    rule = TraceRule(rtol=1e-9, min_probes=JOINT_PROBES, max_probes=JOINT_PROBES)
    inputs, loss = {network.inputs[0].name: samples}, Loss.of(Kind.KL, network.outputs[0].name)
    started = time.perf_counter()
    ours = hessian_traces(model, weights, inputs, loss, torch.Generator().manual_seed(0), rule, BATCH)
    seconds = time.perf_counter() - started
    plain = weight_probes(model, weights, samples, range(JOINT_PROBES))
    error = ours.trace_stderr / ours.trace_mean
    return {
        "trace_time_vs_plain_loop": round(seconds / plain.seconds, 3),
        "trace_relative_stderr_median": round(float(np.median(error)), 3),
        "trace_relative_stderr_worst": round(float(error.max()), 3),
        "plain_loop_relative_stderr_median": round(float(np.median(plain.relative_error)), 3),
        "plain_loop_relative_stderr_worst": round(float(plain.relative_error.max()), 3),
    }


def layerwise_speedup(network: Network, samples: NDArray[np.float32]) -> float:
    """How many times longer the traces of all layers take one by one, all to a relative standard error of `RTOL`."""
    model, weights = TorchNetwork(network), [site.weight for site in network.sites]
    inputs, loss = {network.inputs[0].name: samples}, Loss.of(Kind.KL, network.outputs[0].name)
    rule = TraceRule(rtol=RTOL, min_probes=8, max_probes=2048)
    started = time.perf_counter()
    ours = hessian_traces(model, weights, inputs, loss, torch.Generator().manual_seed(0), rule, BATCH)
    seconds = time.perf_counter() - started
    layerwise, extended = 0.0, 0
    for weight in weights:
        draws = weight_probes(model, [weight], samples, range(8))
        while draws.relative_error[0] > RTOL and len(draws.values) < MOST_LAYER_PROBES:
            done = len(draws.values)
            more = weight_probes(model, [weight], samples, range(done, done + 8))
            draws = Draws(np.concatenate([draws.values, more.values]), draws.seconds + more.seconds)
        factor = max(1.0, float(draws.relative_error[0] / RTOL) ** 2)
        extended += factor > 1
        layerwise += factor * draws.seconds
    print(
        f"traces to {RTOL:.0%}: {ours.probes} probes ({ours.status}), {seconds:.1f} s; layer by layer "
        f"{layerwise:.1f} s, of {len(weights)} layers {extended} extended from {MOST_LAYER_PROBES} probes"
    )
    return layerwise / seconds


def weight_probes(model: TorchNetwork, weights: list[str], samples: NDArray[np.float32], probes: range) -> Draws:
    """Rademacher probes of these weights, each on a micro-batch: `z' H z / n` as it is usually written in torch."""
    name = model.network.inputs[0].name
    started = time.perf_counter()
    draws = []
    for probe in probes:
        start = probe * BATCH % (len(samples) - BATCH + 1)
        z = model.run({name: torch.from_numpy(samples[start : start + BATCH])})[0]
        reference = torch.log_softmax(z.detach(), -1)
        loss = (reference.exp() * (reference - torch.log_softmax(z, -1))).sum(-1).mean()
        parameters = [model.parameters[weight] for weight in weights]
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        signs = [_signs(w, probe) for w in parameters]
        products = torch.autograd.grad(gradients, parameters, signs)
        draws.append([(s * h).double().mean().item() for s, h in zip(signs, products, strict=True)])
    return Draws(np.array(draws), time.perf_counter() - started)


def _signs(weight: Tensor, seed: int) -> Tensor:
    return torch.randint(0, 2, weight.shape, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


def large_network_peak_bytes() -> int:
    """The most memory that a process of its own takes for the traces of a network of 50 million weights."""
    run = subprocess.run([sys.executable, "-m", "benchmarks.traces"], check=True, capture_output=True, text=True)
    return int(run.stdout.splitlines()[-1])


def _large_network() -> Network:
    """A stack of `LARGE_DEPTH` square linear layers with Relu between them: 50,331,648 weights and a small head."""
    generator, nodes, value = np.random.default_rng(0), [], "x"
    shapes = [(LARGE_WIDTH, LARGE_WIDTH)] * LARGE_DEPTH + [(10, LARGE_WIDTH)]
    initializers = []
    for index, shape in enumerate(shapes):
        weight = generator.standard_normal(shape, dtype=np.float32) * np.sqrt(2 / LARGE_WIDTH, dtype=np.float32)
        initializers.append(numpy_helper.from_array(weight, f"layer{index}.weight"))
        nodes.append(helper.make_node("Gemm", [value, f"layer{index}.weight"], [f"y{index}"], transB=1))
        value = f"y{index}"
        if index < LARGE_DEPTH:
            nodes.append(helper.make_node("Relu", [value], [f"r{index}"]))
            value = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", LARGE_WIDTH])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", 10])],
        initializers,
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return normalise(model, {"x": (LARGE_WIDTH,)})


def main() -> None:
    """The memory of `large_network_peak_bytes`, on the last line."""
    network = _large_network()
    samples = np.random.default_rng(1).standard_normal((256, LARGE_WIDTH), dtype=np.float32)
    weights = [site.weight for site in network.sites]
    rule, loss = TraceRule(min_probes=8, max_probes=16), Loss.of(Kind.KL, network.outputs[0].name)
    hessian_traces(TorchNetwork(network), weights, {"x": samples}, loss, torch.Generator().manual_seed(0), rule, BATCH)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
