"""What the command line sends along with a model: the files that its tensors lie in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitbudget_client.data_files import with_data_files
from pipeline.archives import is_archive, unpacked


@pytest.fixture
def model() -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.full((30, 30), k, np.float32), f"w{k}") for k in range(3)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 30]) for name in "xy")
    nodes = [helper.make_node("MatMul", [f"v{k}" if k else "x", f"w{k}"], [f"v{k + 1}"]) for k in range(2)]
    nodes.append(helper.make_node("MatMul", ["v2", "w2"], ["y"]))
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights), ir_version=10)


@pytest.mark.parametrize("together", [True, False])
def test_the_files_beside_a_model_are_packed_with_it(model: onnx.ModelProto, tmp_path: Path, together: bool) -> None:
    path = tmp_path / "net.onnx"
    whole = model.SerializeToString()
    onnx.save_model(
        model, path, save_as_external_data=True, all_tensors_to_one_file=together, size_threshold=8, location="w" * 200
    )
    (tmp_path / "not named in it").write_bytes(b"x")
    sent = []
    for _ in range(2):
        with with_data_files(path) as file:
            assert is_archive(file)
            sent.append(file.read_bytes())
            assert onnx.load(unpacked(file, tmp_path / "again.onnx")) == onnx.load_from_string(whole)
        assert not file.exists()
    assert sent[0] == sent[1], "the same files are the same upload"


@pytest.mark.parametrize("contents", [b"", b"nonsense", b"\x0a\x08location\x12\x05../ab", b"\x0a\x08location\x12\x7f"])
def test_a_file_that_names_nothing_beside_it_is_sent_as_it_is(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "ab").write_bytes(b"x")
    path = tmp_path / "folder" / "net.onnx"
    path.parent.mkdir()
    path.write_bytes(contents)
    with with_data_files(path) as file:
        assert file == path
