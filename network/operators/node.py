"""One ONNX node as a rule sees it, and what ONNX element types mean in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from network.errors import UnsupportedOperators
from network.onnx_graph import label

# Every floating type is computed in the one dtype that the network is run in: a float64 run of a float16 file
# is float64 throughout. The 8-bit floats are not here: casting to them rounds visibly, so it is refused.
_FLOATING = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})

_EXACT: Mapping[int, torch.dtype] = {
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
}

SMALL_INTEGERS: Mapping[int, type[np.integer[Any]]] = MappingProxyType(
    {TensorProto.INT4: np.int8, TensorProto.INT2: np.int8, TensorProto.UINT4: np.uint8, TensorProto.UINT2: np.uint8}
)
"""Integers of 4 bits or less, and the type that they are kept in."""

Value = Any
"""What a graph computes with: a `Tensor`, or of a sequence a tuple of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A frozen view of an `onnx.NodeProto`.

    `attributes` are Python values; tensor-valued ones are torch tensors on the CPU, inner graphs functions of their
    inputs and of what they read from outside by name (`Body`). `opset` is the version of its operator set,
    `output_count` the number of outputs up to the last that is read, `float_dtype` what stands for every floating ONNX
    type. `captured` names what inner graphs read from outside: these values follow the inputs.
    `codes_pass_gradients` says that the codes that it makes are floats (`network.operators.quantized`).
    """

    name: str
    op_type: str
    opset: int
    attributes: Mapping[str, Any]
    output_count: int
    float_dtype: torch.dtype
    captured: tuple[str, ...] = ()
    codes_pass_gradients: bool = False

    def get(self, attribute: str, default: Any = None) -> Any:
        """The attribute, or `default` (the operator's own default, as the ONNX specification states it)."""
        return self.attributes.get(attribute, default)

    def integers(self, attribute: str, given: Tensor | None = None) -> list[int] | None:
        """The values of the input `given`, or of the attribute that older versions of the operator have instead."""
        if given is not None:
            return [int(value) for value in given.reshape(-1).tolist()]
        return self.attributes.get(attribute)

    def dtype(self, attribute: str) -> torch.dtype:
        """The torch dtype of the element type that `attribute` names."""
        return torch_dtype(int(self.attributes[attribute]), self.float_dtype)

    def dtype_or(self, attribute: str, default: torch.dtype) -> torch.dtype:
        """That dtype, or `default` where the attribute is not there or names none."""
        return self.dtype(attribute) if self.attributes.get(attribute) else default


def has_torch_dtype(element_type: int) -> bool:
    return element_type in _FLOATING or element_type in _EXACT


def torch_dtype(element_type: int, float_dtype: torch.dtype) -> torch.dtype:
    """The torch dtype of an ONNX element type, `float_dtype` for every floating one.

    Raises:
        UnsupportedOperators: strings, complex numbers and floats of 8 bits or less have no counterpart here.
    """
    if element_type in _FLOATING:
        return float_dtype
    if element_type not in _EXACT:
        raise UnsupportedOperators(
            f"element type {TensorProto.DataType.Name(element_type)} is not computed here; expected one of "
            f"{', '.join(sorted(TensorProto.DataType.Name(t) for t in (*_FLOATING, *_EXACT)))}; "
            "export the model without it"
        )
    return _EXACT[element_type]


def tensor_of(proto: TensorProto, float_dtype: torch.dtype) -> Tensor:
    """The values of `proto` on the CPU, floating ones as `float_dtype`, 2- and 4-bit integers as 8-bit ones.

    Raises:
        UnsupportedOperators: the element type has no counterpart in torch.
    """
    if proto.data_type in SMALL_INTEGERS:
        return torch.from_numpy(numpy_helper.to_array(proto).astype(SMALL_INTEGERS[proto.data_type]))
    dtype = torch_dtype(proto.data_type, float_dtype)
    array = numpy_helper.to_array(proto)
    if proto.data_type == TensorProto.BFLOAT16:  # numpy knows it by an extension type that torch does not read
        array = array.astype(np.float32)
    # A copy: the array is a read-only view of the file, and torch tensors can be written.
    return torch.from_numpy(np.array(array)).to(dtype)


def read_node(proto: onnx.NodeProto, opset: int, float_dtype: torch.dtype, output_count: int) -> Node:
    """The `Node` of `proto`, of whose outputs the first `output_count` are computed; without its inner graphs.

    Raises:
        UnsupportedOperators: an attribute is a tensor whose element type has no counterpart in torch.
    """
    given = (a for a in proto.attribute if a.type != onnx.AttributeProto.GRAPH)
    attributes = {a.name: _attribute_value(a, float_dtype) for a in given}
    return Node(label(proto), proto.op_type, opset, attributes, output_count, float_dtype)


def _attribute_value(attribute: onnx.AttributeProto, float_dtype: torch.dtype) -> Any:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return tensor_of(attribute.t, float_dtype)
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [item.decode() if isinstance(item, bytes) else item for item in value]
    return value
