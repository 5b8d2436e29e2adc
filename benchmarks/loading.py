"""Times to load as plans predict them, against ONNX Runtime here.

    python -m benchmarks.loading

Networks of six layers, small and large, in each of many formats and in mixes of several, at an opset with types of 2
bits and at one without. Times are processor time of one thread, of the first load of a file in a process, so that what
else the machine does counts little. Predictions are those of a reference machine: what counts is how far
they are off once all are scaled by one factor.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks.coded import load_seconds
from network.graph import Network
from network.normalise import normalise
from quantization.export.cost import skeleton_bytes
from quantization.export.export import export
from quantization.formats import FloatFormat, WeightFormat, weight_format
from quantization.rounding.nearest import round_nearest
from quantization.storage.loading import network_load_ms, weight_load_ms

OPSETS = (18, 25)
LAYERS, SIDES, RUNS = 6, (64, 384), 3
FORMATS = (
    *("float32", "float16", "int8/channel", "int8/channel/asymmetric", "int6/channel", "int5/channel", "int4/channel"),
    *("int4/block32", "int3/channel", "int2/channel", "codebook2/channel", "codebook3/channel", "codebook4/channel"),
    *("codebook3/channel/outliers45", "power3/channel", "power4/channel", "hadamard3/channel", "hadamard4/channel"),
    *("coded1.2/tensor", "coded1.5/tensor", "coded2.0/tensor", "coded2.8/tensor", "coded3.2/tensor", "coded4.0/tensor"),
)
MIXES = {
    "integers": ("int8/channel", "int4/channel", "int2/channel"),
    "packed": ("int3/channel", "int5/channel", "int7/channel"),
    "codebooks": ("codebook2/channel", "codebook3/channel", "codebook4/channel"),
    "coded": ("coded1.5/tensor", "coded2.0/tensor", "coded2.8/tensor"),
    "all": ("int8/channel", "int3/channel", "codebook3/channel", "coded2.0/tensor"),
}


@dataclass(frozen=True)
class Loaded:
    """A file with what is predicted of it, and what it took."""

    name: str
    predicted_ms: float
    measured_ms: float


def main() -> None:
    loaded = list(_networks())
    logs = np.array([np.log(one.predicted_ms / one.measured_ms) for one in loaded])
    scale = float(np.median(logs))
    table = Table("file", "predicted, ms", "measured, ms", "off by")
    for one, log in zip(loaded, logs, strict=True):
        table.add_row(one.name, f"{one.predicted_ms:.2f}", f"{one.measured_ms:.2f}", f"{np.exp(log - scale):.2f}")
    Console(file=sys.stderr).print(table)
    off = np.exp(np.abs(logs - scale))
    mixed = off[[one.name.split(",")[0] in MIXES for one in loaded]]
    times = np.array([[one.predicted_ms, one.measured_ms] for one in loaded])
    figures = {
        "load_reference_over_this_machine": round(float(np.exp(scale)), 2),
        "load_prediction_off_by_at_most": round(float(off.max()), 2),
        "load_prediction_off_by_typically": round(float(np.median(off)), 2),
        "load_prediction_of_mixes_off_by_at_most": round(float(mixed.max()), 2),
        "load_rank_correlation": round(float(spearmanr(times).statistic), 3),
    }
    print(json.dumps(figures))


def _networks() -> Iterator[Loaded]:
    formats = {name: (name,) for name in FORMATS} | MIXES
    for opset, side in itertools.product(OPSETS, SIDES):
        network = _chain(side, opset)
        for name, names in formats.items():
            yield _loaded(f"{name}, {side}, opset {opset}", network, names)


def _loaded(name: str, network: Network, names: Sequence[str]) -> Loaded:
    """The network with its weights in these formats, by turns."""
    formats = itertools.cycle(map(weight_format, names))
    chosen = {site.weight: format_ for site, format_ in zip(network.sites, formats, strict=False)}
    predicted = network_load_ms(len(network.nodes), skeleton_bytes(network))
    predicted += sum(weight_load_ms(chosen[site.weight], site.size, network.opset) for site in network.sites)
    return Loaded(name, predicted, 1e3 * load_seconds(_file(network, chosen), _file(network, {}), RUNS))


def _file(network: Network, formats: dict[str, WeightFormat]) -> bytes:
    weights = {
        name: round_nearest(network.weight(name), format_, 1)
        for name, format_ in formats.items()
        if not isinstance(format_, FloatFormat)
    }
    return export(network, weights, {})


def _chain(side: int, opset: int) -> Network:
    """`LAYERS` products with a `[side, side]` matrix, each with a Tanh behind it."""
    generator = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(LAYERS):
        values = generator.normal(size=(side, side)).astype(np.float32)
        weights.append(numpy_helper.from_array(values / np.sqrt(side).astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"m{layer}"], f"layer{layer}"))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"x{layer + 1}"], f"tanh{layer}"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", side]) for name in ("x0", f"x{LAYERS}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), opset=opset)


if __name__ == "__main__":
    main()
