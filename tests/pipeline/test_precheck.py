"""What is said of samples before a job begins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.precheck import main, mismatch


@pytest.fixture
def model(tmp_path: Path) -> Path:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 4])
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 3, 4])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3, 4])
    graph = helper.make_graph([helper.make_node("Add", ["image", "mask"], ["out"])], "g", [image, mask], [out])
    onnx.save(helper.make_model(graph), path := tmp_path / "model.onnx")
    return path


def _saved(tmp_path: Path, samples: int = 60, **shapes: tuple[int, ...]) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **{name: np.zeros((samples, *shape), np.float32) for name, shape in shapes.items()})
    return path


def test_samples_that_fit_pass(model: Path, tmp_path: Path) -> None:
    assert mismatch(model, _saved(tmp_path, image=(3, 4), mask=(3, 4), labels=())) is None


@pytest.mark.parametrize(
    ("shapes", "samples", "code", "said"),
    [
        ({"image": (3, 4), "masks": (3, 4)}, 60, "dataset_wrong_names", "missing: 'mask'"),
        ({"image": (4, 3), "mask": (3, 4)}, 60, "dataset_shape_mismatch", "takes [any, 3, 4]"),
        ({"image": (3, 4), "mask": (3, 4)}, 10, "dataset_too_few_samples", "at least 48"),
    ],
)
def test_what_the_headers_say_is_said_at_once(
    model: Path, tmp_path: Path, shapes: dict[str, tuple[int, ...]], samples: int, code: str, said: str
) -> None:
    problem = mismatch(model, _saved(tmp_path, samples, **shapes))
    assert problem is not None
    assert problem.code == code
    assert said in str(problem)


def test_a_metric_graph_may_read_further_arrays(model: Path, tmp_path: Path) -> None:
    data = _saved(tmp_path, image=(3, 4), mask=(3, 4), weight=())
    assert mismatch(model, data) is not None
    assert mismatch(model, data, own_metric=True) is None


def test_a_model_that_cannot_be_read_is_for_the_job_to_judge(tmp_path: Path, capsys) -> None:
    broken = tmp_path / "model.zip"
    broken.write_bytes(b"PK\x03\x04 not a model")
    assert main([str(broken), str(_saved(tmp_path, x=()))]) == 0
    assert json.loads(capsys.readouterr().out) is None


def test_it_loads_nothing_that_takes_long() -> None:
    heavy = "{'torch', 'onnxruntime', 'onnx_ir', 'onnxscript', 'scipy'}"
    code = f"import sys, pipeline.precheck; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
