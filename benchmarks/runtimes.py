"""Files of every format and of older opsets, in other versions of ONNX Runtime.

`python -m benchmarks.runtimes PYTHON...`: each interpreter has its own `onnxruntime` and numpy. Prints for each version
and opset how many files load, whether their outputs are those of the simulated plan to the bit in this version, and
how many keep nothing of the unpacking in the optimised graph.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import normalise
from quantization.export.export import export, simulate
from quantization.formats import (
    CodebookFormat,
    Granularity,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
    WeightFormat,
)
from quantization.rounding.nearest import round_nearest

OPSETS = (18, 19, 20, 21, 23, 25)
SHAPE = (37, 48)

# runs in the other interpreter, whose onnxruntime may be years old
_RUN = """
import glob, json, os, sys
import numpy, onnxruntime
found = {}
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.onnx"))):
    opset = found.setdefault(os.path.basename(path)[:2], {"files": 0, "load": 0, "equal": 0, "folded": 0})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = path + ".optimised"
    opset["files"] += 1
    try:
        outputs = [
            onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(
                None, {"x": numpy.load(os.path.join(sys.argv[1], "x.npy"))}
            )[0]
            for data in (path[:-5] + ".simulated", path)
        ]
    except Exception as error:  # of several classes, which differ from version to version
        opset.setdefault("because", str(error)[:160])
        continue
    opset["load"] += 1
    opset["equal"] += bool((outputs[0] == outputs[1]).all())
    with open(path + ".optimised", "rb") as file:
        optimised = file.read()
    opset["folded"] += not any(name in optimised for name in (b"Cast", b"Reshape", b"BitShift", b"GatherElements"))
print(json.dumps([onnxruntime.__version__, found]))
"""


def formats() -> Iterator[WeightFormat]:
    """Of every family and layout."""
    yield HalfFormat()
    for bits in range(2, 9):
        for symmetric in (True, False):
            yield IntegerFormat(bits, Granularity.CHANNEL, symmetric)
            yield IntegerFormat(bits, Granularity.BLOCK, symmetric, 16)
        yield PowerFormat(bits)
        yield HadamardFormat(bits)
    for bits in (2, 3, 4):
        yield CodebookFormat(bits)
        yield CodebookFormat(bits, 45)


def network(opset: int) -> Network:
    """One Gemm whose weight does not fill the bytes of its packed digits."""
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], "layer", transB=1)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SHAPE[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", SHAPE[0]])],
        [numpy_helper.from_array(values, "w")],
    )
    return normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), opset=opset)


def write(folder: Path) -> None:
    """Every file, the same plan simulated, and an input."""
    np.save(folder / "x.npy", np.random.default_rng(1).standard_normal((3, SHAPE[1])).astype(np.float32))
    for opset in OPSETS:
        one = network(opset)
        for format_ in formats():
            weights = {"w": round_nearest(one.weight("w"), format_, 0)}
            path = folder / f"{opset}_{format_.name.replace('/', '_')}.onnx"
            path.write_bytes(export(one, weights, {}))
            path.with_suffix(".simulated").write_bytes(simulate(one, weights))


def main(interpreters: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        print(f"files by opset: {', '.join(map(str, OPSETS))}; onnx {onnx.__version__}")
        for python in interpreters:
            done = subprocess.run([python, "-c", _RUN, folder], capture_output=True, text=True, check=True)
            version, found = json.loads(done.stdout.splitlines()[-1])
            for opset, counts in found.items():
                because = counts.pop("because", None)  # of the first file that is not run
                told = ", ".join(f"{count} {what}" for what, count in counts.items())
                told += f" ({because})" if because else ""
                print(f"onnxruntime {version}, opset {opset}: {told}")


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable])
