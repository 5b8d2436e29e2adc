"""The standard's own tests of its operators through differentiable execution, with ONNX Runtime as the oracle.

Where ONNX Runtime does not run a test, the outputs that the test itself expects stand in for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

from network.errors import UnsupportedOperators
from network.execution import TorchNetwork
from network.graph import Network
from network.runtime import FATAL, RUNTIME_FAILURES
from network.tensor_spec import TensorSpec

Arrays = Mapping[str, NDArray[Any]]

IN_NUMPY = frozenset(
    {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL}
    | {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}
    | {TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}
)
"""Element types that numpy has; inputs of others are constants, and outputs of them are cast."""

_ROUNDINGS = 100
"""By how many units of rounding of the largest number two computations of a float may differ."""

_OF_HALVES = 0.02
"""By what part of it where floats of 16 bits are involved: nothing is rounded to them in differentiable execution."""

_AS_PRINTED = 1e-3
"""By what part of it from what a test expects, which may be written with few digits."""

_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


@dataclass(frozen=True)
class Case:
    """A test of one operator, or of a graph that stands for one, with its inputs and expected outputs in order."""

    name: str
    model: ModelProto
    inputs: tuple[Any, ...]
    expected: tuple[Any, ...]


class Kind(Enum):
    """What became of a test."""

    RIGHT = "right"
    UNSUPPORTED = "unsupported"
    WRONG = "wrong"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Outcome:
    """`text` says what is wrong with it, or why it is refused."""

    name: str
    kind: Kind
    text: str = ""


@cache
def cases() -> tuple[Case, ...]:
    """Those of the installed onnx."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it casts numbers that are too large on purpose
        tests = load_model_tests(kind="node")
    return tuple(Case(t.name, t.model, *(tuple(part) for part in t.data_sets[0])) for t in tests)


def run_execution(case: Case) -> Outcome:
    """What differentiable execution makes of a test."""
    values = [*case.model.graph.input, *case.model.graph.output]
    if not all(map(holds_numbers, values)):
        return Outcome(case.name, Kind.UNSUPPORTED, "an input or output that is no tensor of numbers")
    model, fed = _fed(case)
    computed = _in_runtime(model, fed)
    expected = _expected(case, model) if computed is None else computed
    try:
        results = _execute(model, fed)
    except UnsupportedOperators as error:
        return Outcome(case.name, Kind.UNSUPPORTED, str(error))
    except Exception as error:
        return Outcome(case.name, Kind.FOREIGN, f"{error!r} {getattr(error, '__notes__', '')}")
    least = 0.0 if computed is not None else _AS_PRINTED
    if any(value.type.tensor_type.elem_type in _HALVES for value in values):
        least = _OF_HALVES
    for value, result, reference in zip(model.graph.output, results, expected, strict=True):
        if text := _unlike(result, reference, least):
            return Outcome(case.name, Kind.WRONG, f"{value.name}: {text}")
    return Outcome(case.name, Kind.RIGHT)


def by_kind(outcomes: Iterable[Outcome]) -> dict[Kind, list[Outcome]]:
    """The outcomes of each kind, in order."""
    kinds: dict[Kind, list[Outcome]] = {kind: [] for kind in Kind}
    for outcome in outcomes:
        kinds[outcome.kind].append(outcome)
    return kinds


def holds_numbers(value: ValueInfoProto) -> bool:
    """Whether an input or output is a tensor, and not of strings."""
    kind = value.type.tensor_type.elem_type
    return value.type.WhichOneof("value") in (None, "tensor_type") and kind != TensorProto.STRING


def as_tensor(given: Any, name: str) -> TensorProto:
    """An input of a test, as a constant of that name."""
    tensor = TensorProto()
    tensor.CopyFrom(given if isinstance(given, TensorProto) else numpy_helper.from_array(np.asarray(given)))
    tensor.name = name
    return tensor


def _fed(case: Case) -> tuple[ModelProto, Arrays]:
    """The model with inputs and outputs of types that numpy has, and what it is fed."""
    model = ModelProto.FromString(case.model.SerializeToString())
    fed: dict[str, NDArray[Any]] = {}
    # Inputs that the test leaves out are the last ones.
    for value, given in zip(case.model.graph.input, case.inputs, strict=False):
        tensor = as_tensor(given, value.name)
        if tensor.data_type in IN_NUMPY:
            fed[value.name] = numpy_helper.to_array(tensor)
        else:
            model.graph.initializer.append(tensor)
    inputs = [value for value in case.model.graph.input if value.name in fed]
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.extend(inputs)
    for value in case.model.graph.output:
        if value.type.tensor_type.elem_type in (0, *IN_NUMPY):
            model.graph.output.append(value)
        else:
            cast = helper.make_node("Cast", [value.name], [f"{value.name}/cast"], to=TensorProto.FLOAT)
            model.graph.node.append(cast)
            model.graph.output.append(helper.make_tensor_value_info(cast.output[0], TensorProto.FLOAT, None))
    model.ir_version = max(model.ir_version, 4)
    return model, fed


def _in_runtime(model: ModelProto, fed: Arrays) -> Sequence[NDArray[Any]] | None:
    """What ONNX Runtime makes of the model; None where it does not run it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = FATAL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        outputs: Sequence[NDArray[Any]] = session.run(None, dict(fed))
    except RUNTIME_FAILURES:
        return None
    return outputs


def _expected(case: Case, model: ModelProto) -> list[NDArray[Any]]:
    return [
        _as_cast(numpy_helper.to_array(x) if isinstance(x, TensorProto) else np.asarray(x), value)
        for x, value in zip(case.expected, model.graph.output, strict=True)
    ]


def _as_cast(array: NDArray[Any], value: ValueInfoProto) -> NDArray[Any]:
    """An array of a type that numpy lacks as the float that the output of the model is cast to."""
    return array.astype(np.float32) if value.name.endswith("/cast") else array


def _execute(model: ModelProto, fed: Arrays) -> list[NDArray[Any]]:
    inputs = tuple(TensorSpec(name, array.dtype.name, array.shape) for name, array in fed.items())
    network = Network(model, inputs, tuple(TensorSpec(value.name, "", ()) for value in model.graph.output), ())
    types = {array.dtype for array in fed.values()}
    network_in_torch = TorchNetwork(network, dtype=torch.float64 if np.dtype(np.float64) in types else torch.float32)
    outputs = network_in_torch.run({name: torch.from_numpy(array.copy()) for name, array in fed.items()})
    return [output.detach().numpy() for output in outputs]


def _unlike(result: NDArray[Any], reference: NDArray[Any], least: float) -> str:
    """How they differ in shape, kind of type, or by more than rounding, of which `least` is allowed at any rate."""
    if result.shape != reference.shape:
        return f"shape {result.shape}, expected {reference.shape}"
    if not np.issubdtype(reference.dtype, np.floating):
        if result.dtype != reference.dtype:
            return f"type {result.dtype}, expected {reference.dtype}"
        return "" if np.array_equal(result, reference) else f"{_shown(result)}, expected {_shown(reference)}"
    if not np.issubdtype(result.dtype, np.floating):
        return f"type {result.dtype}, expected {reference.dtype}"
    rounding = max(least, _ROUNDINGS * max(np.finfo(reference.dtype).eps, np.finfo(result.dtype).eps))
    wide = reference.astype(np.float64)
    largest = max(1.0, float(np.abs(wide[np.isfinite(wide)]).max(initial=0)))
    alike = np.allclose(result, wide, rtol=rounding, atol=rounding * largest, equal_nan=True)
    return "" if alike else f"{_shown(result)}, expected {_shown(reference)}"


def _shown(array: NDArray[Any]) -> str:
    return np.array2string(array, threshold=8, separator=",").replace("\n", "")[:160]
