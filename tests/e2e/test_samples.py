"""Samples as people have them, through the commands to a certified file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SAMPLES = 64
SIDE = 8
STATED = ["--size", "8", "--crop", "none", "--scale", "255", "--mean", "0.5", "--std", "0.25"]
STATED += ["--layout", "nchw", "--channels", "rgb"]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Tells images by their mean colour: one layer of 3 x 8 x 8 inputs."""
    weight = np.repeat(np.eye(3, dtype=np.float32), SIDE * SIDE, axis=0) / (SIDE * SIDE)
    weight += np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32) * 1e-4
    nodes = [helper.make_node("Flatten", ["image"], ["f"]), helper.make_node("MatMul", ["f", "W"], ["scores"])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "g", [image], [scores], [numpy_helper.from_array(weight, "W")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    return tmp_path / "n.onnx"


def pixels(label: int, seed: int) -> np.ndarray:
    """An image with most of the colour `label`."""
    made = np.random.default_rng(seed).integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
    made[..., label] += 100
    return made


def top1(commands: Any, network: Path, data: Path, *options: str) -> tuple[float, str]:
    """What the certificate says of the float network, and what the command said beside it."""
    out = data.parent / "out"
    done = commands.run(
        "plan", str(network), "--data", str(data), *options, "--bits", "8", "--max-drop", "0.5", "--out", str(out)
    )
    assert done.returncode == 0, done.stderr
    certificate = json.loads((out / "plan.json").read_text())["certificate"]
    assert certificate["metric"] == "top1"
    return float(certificate["float_value"]), done.stderr


def test_a_folder_of_images_is_certified_with_its_classes(commands: Any, network: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for place in range(SAMPLES):
        label = place % 3
        target = folder / ["blue", "green", "red"][label]  # in the order of the alphabet, as the labels
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(label, place)).save(target / f"{place}.png")
    value, said = top1(commands, network, folder, *STATED)
    assert value == 1.0
    assert "64 images: rgb of 8x8" in said
    refused = commands.run("plan", str(network), "--data", str(folder), "--out", str(tmp_path / "no"))
    assert refused.returncode == 1
    assert "--size --scale --mean --std --layout --channels are not stated" in refused.stderr


def test_a_table_of_parquet_is_certified_as_it_is(commands: Any, network: Path, tmp_path: Path) -> None:
    labels = np.arange(SAMPLES) % 3
    images = np.stack([pixels(label, place) for place, label in enumerate(labels)]).transpose(0, 3, 1, 2)
    values = (images / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values, np.float32))
    pq.write_table(pa.table({"image": column, "labels": labels}), tmp_path / "samples.parquet")
    value, _ = top1(commands, network, tmp_path / "samples.parquet", "--report")
    assert value == 1.0
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


def test_what_is_understood_of_samples_is_shown(commands: Any, network: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": np.zeros(60, np.float32), "labels": np.arange(60) % 4}), tmp_path / "t.parquet")
    shown = commands.run("dataset", "describe", str(tmp_path / "t.parquet"))
    assert shown.returncode == 0, shown.stderr
    assert "60 samples, parquet" in shown.stdout
    assert "labels: 4 classes; 0: 15, 1: 15, 2: 15, 3: 15" in shown.stdout
    shown = commands.run("dataset", "describe", str(tmp_path / "t.parquet"), "--model", str(network))
    assert shown.returncode == 1
    assert "array 'image' has the shape [60], input 'image' takes [any, 3, 8, 8]" in shown.stderr
    assert "labels go from 0 to 3; output 'scores' has 3 classes" in shown.stderr
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    shown = commands.run("dataset", "describe", str(tmp_path / "t.csv"), "--input", "x", "--json")
    assert [array["name"] for array in json.loads(shown.stdout)["dataset"]["arrays"]] == ["x"]
    refused = commands.run("dataset", "describe", str(tmp_path / "t.parquet"), "--size", "224")
    assert refused.returncode == 1
    assert "t.parquet is a file of arrays, which is taken as it is" in refused.stderr
