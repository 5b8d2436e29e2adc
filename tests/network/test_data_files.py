"""Tensors whose bytes lie in files beside the model, put back into it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from network.admission import AdmissionLimits, admit
from network.errors import ExternalData, ModelTooLarge, NetworkError
from network.external_data import embedded, locations
from tests.network.models import LIMITS, linear

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)
FILE = b"\0" * 64 + WEIGHTS.tobytes()


def outside(location: str = "weights.bin", **entries: object) -> ModelProto:
    model = linear()
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[4, 3]))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 64, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


def together(model: ModelProto, files: Mapping[str, bytes], limits: AdmissionLimits = LIMITS) -> ModelProto:
    sizes = {name: len(contents) for name, contents in files.items()}
    return embedded(model.SerializeToString(), sizes, files.__getitem__, limits)


@pytest.mark.parametrize("entries", [{}, {"length": 48}])
def test_the_model_is_as_if_it_had_been_saved_in_one_file(entries: dict[str, object]) -> None:
    model = outside("./weights.bin", **entries)
    assert locations(model) == ["weights.bin"]
    whole = together(model, {"weights.bin": FILE, "another": b""})
    assert admit(whole.SerializeToString(), LIMITS) == linear(W=WEIGHTS)


def test_tensors_in_attributes_and_in_several_files_are_found() -> None:
    model = outside()
    constant = onnx.helper.make_node("Constant", [], ["b"], value=TensorProto(data_type=TensorProto.FLOAT, dims=[3]))
    tensor = constant.attribute[0].t
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="sub/bias")
    del model.graph.initializer[1]
    model.graph.node.insert(0, constant)
    whole = together(model, {"weights.bin": FILE, "sub/bias": np.ones(3, np.float32).tobytes()})
    assert not locations(whole)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(whole.graph.node[0].attribute[0].t), np.ones(3))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (outside("other.bin"), r"'other\.bin', which did not come along \(what came: 'weights\.bin'\)"),
        (outside("/etc/passwd"), r"lies in '/etc/passwd'; expected the name of a file beside"),
        (outside("a/../../b"), r"lies in 'a/\.\./\.\./b'"),
        (outside(""), "lies in ''"),
        (outside("*/_ORT_MEM_ADDR_/*"), "did not come along"),
        (outside(offset=80), r"tensor 'W' ends at byte 128 of 'weights\.bin', which has 112; is the file cut off"),
        (outside(length=1 << 40), r"ends at byte 1,099,511,627,840"),
        (outside(offset=-4), "'-4' as the place of its bytes; expected a number"),
        (outside(length="9" * 5000), "as the place of its bytes"),
    ],
)
def test_what_does_not_fit_together_is_named(model: ModelProto, text: str) -> None:
    with pytest.raises(ExternalData, match=text):
        together(model, {"weights.bin": FILE})


def test_many_tensors_of_the_same_bytes_are_counted_before_they_are_read() -> None:
    model = outside(offset=0)
    model.graph.initializer.extend([model.graph.initializer[0]] * 30)
    data = model.SerializeToString()
    limits = AdmissionLimits(max_model_bytes=len(data) + 30 * 48 - 1)
    sizes = {"weights.bin": 112}

    def read(_name: str) -> bytes:
        raise AssertionError("nothing is read")

    with pytest.raises(ModelTooLarge, match="with its tensors inside the model has"):
        embedded(data, sizes, read, limits)


def test_what_is_no_model_is_told_as_ever() -> None:
    with pytest.raises(NetworkError, match="not ONNX"):
        embedded(b"hello", {}, dict[str, bytes]().__getitem__, LIMITS)
