"""One operator as a graph of one node, run in torch and in ONNX Runtime.

A case is a dictionary. `op`: operator. `inputs`: an array each, a tuple for the shape of a float array of standard
normal numbers, None for an optional input left out. `attributes`. `opset`: default 25. `outputs`: how many, default 1.
`smooth`: False where the gradient is zero or does not exist. `constant`: positions of float inputs that stay constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from network.execution import TorchNetwork
from network.graph import Network
from network.opset import lower
from network.tensor_spec import TensorSpec

OPSET = 25
IR_VERSION = 10

Case = Mapping[str, Any]
Arrays = dict[str, NDArray[Any]]


def _arrays(case: Case) -> Arrays:
    generator = np.random.default_rng(0)
    arrays = {}
    for position, given in enumerate(case["inputs"]):
        if isinstance(given, tuple):
            given = generator.standard_normal(given).astype(np.float32)
        if given is not None:
            arrays[f"x{position}"] = np.asarray(given)
    return arrays


def _network(case: Case, arrays: Arrays) -> Network:
    outputs = [f"y{position}" for position in range(case.get("outputs", 1))]
    names = [f"x{i}" if f"x{i}" in arrays else "" for i in range(len(case["inputs"]))]
    node = helper.make_node(case["op"], names, outputs, name="node", **case.get("attributes", {}))
    graph = helper.make_graph(
        [node],
        "one node",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in arrays.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    opset = helper.make_opsetid("", case.get("opset", OPSET))
    proto = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    inputs = tuple(TensorSpec(name, array.dtype.name, array.shape) for name, array in arrays.items())
    return Network(proto, inputs, tuple(TensorSpec(name, "", ()) for name in outputs), ())


@pytest.fixture
def compare() -> Callable[..., None]:
    """Fails unless torch gives the outputs of ONNX Runtime: same shape, same type, to within rounding.

    With `opset` the network is given that older one before.
    """

    def run(case: Case, opset: int = OPSET) -> None:
        arrays = _arrays(case)
        network = _network(case, arrays)
        if opset != OPSET:
            lower(network.proto, opset)
            onnx.shape_inference.infer_shapes(network.proto, check_type=True, strict_mode=True)
        expected = _onnx_runtime(network.proto, arrays)
        results = TorchNetwork(network).run({k: torch.from_numpy(v.copy()) for k, v in arrays.items()})
        for result, reference in zip(results, expected, strict=True):
            assert result.numpy().dtype == reference.dtype
            _close(result.numpy(), reference)

    return run


def _close(result: NDArray[Any], reference: NDArray[Any]) -> None:
    """Equal shapes, equal integers, floats equal to 100 units of rounding of the largest number."""
    assert result.shape == reference.shape
    if not np.issubdtype(reference.dtype, np.floating) or reference.size == 0:
        np.testing.assert_array_equal(result, reference)
        return
    finite = reference[np.isfinite(reference)]
    rounding = 100 * np.finfo(reference.dtype).eps
    largest = max(1.0, float(np.abs(finite).max(initial=0)))
    np.testing.assert_allclose(result, reference, rtol=rounding, atol=rounding * largest)


def _onnx_runtime(proto: onnx.ModelProto, arrays: Arrays) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, arrays))


@pytest.fixture
def differentiate() -> Callable[[Case], None]:
    """Fails unless first and second derivatives in float64 agree with finite differences, for every float input."""

    def run(case: Case) -> None:
        arrays = _arrays(case)
        network = TorchNetwork(_network(case, arrays), dtype=torch.float64)
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        constant = {f"x{position}" for position in case.get("constant", ())}
        names = [name for name, x in tensors.items() if x.is_floating_point() and name not in constant]

        def function(*variables: torch.Tensor) -> tuple[torch.Tensor, ...]:
            outputs = network.run({**tensors, **dict(zip(names, variables, strict=True))})
            return tuple(y for y in outputs if y.is_floating_point())

        variables = [tensors[name].double().requires_grad_() for name in names]
        assert torch.autograd.gradcheck(function, variables, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, variables, fast_mode=True)

    return run
