"""The standard's own tests of its operators, each as a network beside a layer that has a weight.

The tests are those of `tests.oracles.node_tests`, or files in a folder as onnx publishes them, which older releases
have for older opsets. ONNX Runtime is the oracle, not the outputs that the tests expect: what it does not run is no
upload. Each test becomes up to three networks: its inputs fed as they are, all but the first of floats constant, and
all axes of its inputs free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from network.batching import Batching
from network.onnx_graph import opset_of
from network.proof import Feed
from tests.oracles.node_tests import IN_NUMPY, Case, as_tensor, holds_numbers

Arrays = dict[str, NDArray[Any]]

LAYER = "beside/layer"
_SCALARS_SINCE = 5  # Reshape has its shape as an input
_INITIALIZERS_ALONE_SINCE = 4  # the IR version


class Inputs(Enum):
    """How the inputs of a test become those of a network."""

    FED = "fed"
    CONSTANT = "constant"
    FREE = "free"


@dataclass(frozen=True)
class NodeNetwork:
    """A network, what it is fed, and how: every sample is a call."""

    model: ModelProto
    feed: Feed

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.feed.arrays.items()}

    @property
    def batching(self) -> Batching:
        outputs = (value.name for value in self.model.graph.output)
        return Batching(dict.fromkeys(self.feed.arrays), dict.fromkeys(outputs), None)


def cases_in(folder: Path) -> Iterator[Case]:
    """Those of a folder, `NAME/model.onnx` and `NAME/test_data_set_0/input_0.pb`."""
    for path in sorted(folder.glob("*/model.onnx")):
        model = onnx.load(path)
        files = [path.parent / f"test_data_set_0/input_{place}.pb" for place in range(len(model.graph.input))]
        of_tensors = all(value.type.HasField("tensor_type") for value in model.graph.input)
        if of_tensors and all(file.exists() for file in files):
            tensors = [TensorProto.FromString(file.read_bytes()) for file in files]
            yield Case(path.parent.name, model, tuple(tensors), ())


def network_of(case: Case, inputs: Inputs) -> NodeNetwork | None:
    """The test as a network; None where its inputs or outputs are no tensors of numbers, or are of another domain."""
    values = [*case.model.graph.input, *case.model.graph.output]
    domains = {entry.domain for entry in case.model.opset_import}
    if (
        domains - {"", "ai.onnx"}
        or not all(map(holds_numbers, values))
        or len(case.inputs) != len(case.model.graph.input)
    ):
        return None
    model = ModelProto.FromString(case.model.SerializeToString())
    arrays = _declare_inputs(model, case.inputs, inputs)
    outputs = [_with_output(model, value) for value in case.model.graph.output]
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, f"{LAYER}.weight"))
    model.graph.node.append(helper.make_node("MatMul", [f"{LAYER}.x", f"{LAYER}.weight"], [f"{LAYER}.y"], LAYER))
    rows: list[int | str] = ["rows" if inputs is Inputs.FREE else 2, 4]
    model.graph.input.append(helper.make_tensor_value_info(f"{LAYER}.x", TensorProto.FLOAT, rows))
    outputs.append(helper.make_tensor_value_info(f"{LAYER}.y", TensorProto.FLOAT, rows))
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    arrays[f"{LAYER}.x"] = np.ones((2, 4), np.float32)
    model.ir_version = max(model.ir_version, _INITIALIZERS_ALONE_SINCE)
    return NodeNetwork(model, Feed("the test", arrays))


def _declare_inputs(model: ModelProto, arrays: Sequence[Any], inputs: Inputs) -> Arrays:
    """Give `model` its inputs and constants; what is fed to it."""
    fed: Arrays = {}
    declared = []
    for value, array in zip(model.graph.input, arrays, strict=True):
        tensor = as_tensor(array, value.name)
        floats_before = any(other.dtype.kind == "f" for other in fed.values())
        scalar_of_old = not tensor.dims and opset_of(model) < _SCALARS_SINCE
        if tensor.data_type not in IN_NUMPY or scalar_of_old or (inputs is Inputs.CONSTANT and floats_before):
            model.graph.initializer.append(tensor)
            continue
        fed[value.name] = numpy_helper.to_array(tensor)
        axes: list[int | str] = list(tensor.dims)
        if inputs is Inputs.FREE:
            axes = [f"{value.name}_{axis}" for axis in range(len(axes))]
        declared.append(helper.make_tensor_value_info(value.name, tensor.data_type, axes))
    del model.graph.input[:]
    model.graph.input.extend(declared)
    return fed


def _with_output(model: ModelProto, value: ValueInfoProto) -> ValueInfoProto:
    """The output as it is, or cast to a type that numpy has."""
    if value.type.tensor_type.elem_type in (0, *IN_NUMPY):
        return ValueInfoProto.FromString(value.SerializeToString())
    cast: NodeProto = helper.make_node("Cast", [value.name], [f"{value.name}/cast"], to=TensorProto.FLOAT)
    model.graph.node.append(cast)
    return helper.make_tensor_value_info(cast.output[0], TensorProto.FLOAT, None)
