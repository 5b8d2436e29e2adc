"""Sparse initializers and Constants: dense, they compute what ONNX Runtime computes with them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from network.admission import AdmissionLimits, admit
from network.errors import ModelTooLarge
from tests.network.models import LIMITS, linear, refusal

W: NDArray[np.float32] = np.array([[0, 2, 0], [0, 0, 0], [-1, 0, 0], [0, 0, 3]], np.float32)


def sparse_weight(flat: bool, shape: tuple[int, ...] = (4, 3)) -> onnx.SparseTensorProto:
    places = np.flatnonzero(W) if flat else np.argwhere(W)
    values = numpy_helper.from_array(W[W != 0], "W")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64), "i"), shape)


def with_sparse(flat: bool, constant: bool, shape: tuple[int, ...] = (4, 3)) -> onnx.ModelProto:
    model = linear()
    del model.graph.initializer[0]
    tensor = sparse_weight(flat, shape)
    if constant:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["W"], sparse_value=tensor))
    else:
        model.graph.sparse_initializer.append(tensor)
    return model


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("constant", [True, False])
def test_they_become_dense(flat: bool, constant: bool) -> None:
    model = with_sparse(flat, constant)
    admitted = admit(model.SerializeToString(), LIMITS)
    assert not admitted.graph.sparse_initializer
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    results = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (admitted, linear(W=W))
    ]
    np.testing.assert_array_equal(*results)


def test_a_few_numbers_of_a_huge_tensor_are_refused_before_it_is_made() -> None:
    text = refusal(with_sparse(True, False, (1 << 20, 1 << 20)), ModelTooLarge, AdmissionLimits())
    assert "'W' of shape [1048576, 1048576] takes 4,398,046,511,104 bytes when it is dense" in text
