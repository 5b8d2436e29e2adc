"""Tools as processes: a file that is measured, and the reason where there is none."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers import running, tools
from benchmarks.peers.__main__ import row, summary
from benchmarks.peers.networks import PeerCase
from benchmarks.peers.running import MadeFile, NoFile, classes, made_file, peer_file, reason

CLASSES, WIDTH = 8, 256


@pytest.fixture
def case(tmp_path):
    """A product by a block of identities: the class of a sample is where its largest value is."""
    weight = np.tile(np.eye(CLASSES, dtype=np.float32), (WIDTH // CLASSES, 1))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    labels = np.arange(600) % CLASSES
    values = np.tile(np.eye(CLASSES, dtype=np.float32)[labels], WIDTH // CLASSES)
    onnx.save(model, tmp_path / "float.onnx")
    np.savez(tmp_path / "samples.npz", x=values, labels=labels)
    wrong = labels.copy()
    wrong[:60] = (wrong[:60] + 1) % 8
    return PeerCase("one", tmp_path / "float.onnx", tmp_path / "samples.npz", "x", values, wrong)


def test_right_and_wrong_classes_over_all_batches(case):
    found = made_file(case.model.read_bytes(), case, 1.0)
    assert found.right.tolist() == [False] * 60 + [True] * 540
    assert found.size_bytes == case.model.stat().st_size
    assert (classes(case.model.read_bytes(), case) == case.labels).tolist() == found.right.tolist()


def test_what_is_expected_leaves_out_the_luck_of_the_labels(case):
    """The float file's own probability of its class: what is right of a tenth fewer labels, on the average."""
    found = made_file(case.model.read_bytes(), case, 1.0)
    assert found.counted is found.expected
    assert found.expected.min() > 0
    assert found.expected.mean() == pytest.approx(found.right.mean(), abs=0.02)


@pytest.mark.parametrize("tool", running.OWN_TOOLS)
def test_every_tool_of_onnx_runtime_makes_a_smaller_file(case, tmp_path, tool):
    found = peer_file(tool, case, tmp_path, None)
    assert found.size_bytes < case.model.stat().st_size
    assert found.right.mean() == pytest.approx(0.9)
    assert found.seconds > 0


def test_a_tool_without_an_interpreter_is_not_run(case, tmp_path):
    with pytest.raises(NoFile, match="no interpreter"):
        peer_file("nncf_static", case, tmp_path, None)


def test_a_tool_that_is_not_installed_says_so(case, tmp_path):
    if any(name in sys.modules for name in ("nncf", "aimet_onnx")):
        pytest.skip("this environment has the tools")
    with pytest.raises(NoFile, match="ModuleNotFoundError: No module named 'aimet_onnx'"):
        peer_file("aimet_mixed", case, tmp_path, sys.executable)


def test_a_file_that_is_not_smaller_is_none(case, tmp_path):
    """Blocks of 4 bits quantize products only: a network without any comes back as it was."""
    network = onnx.load(case.model)
    network.graph.node[0].CopyFrom(helper.make_node("Gemm", ["x", "w"], ["y"], "layer"))
    onnx.save(network, case.model)
    with pytest.raises(NoFile, match="no smaller than the float file"):
        peer_file("onnxruntime_blocks", case, tmp_path, None)


def test_the_reason_is_the_last_line_that_says_something():
    assert reason("Traceback\n  File ...\nValueError: no such operator\n\n", 1) == "ValueError: no such operator"
    assert reason("\n", -9) == "ended with status -9"
    assert len(reason("x" * 5000, 1)) == 200


def test_rows_with_a_reason_have_no_say_and_each_other_row_does():
    good = np.ones(400, dtype=bool)
    bad = good.copy()
    bad[::4] = False
    ours = {"max_drop 0.01": MadeFile(10, good, 1.0), "max_drop 0.01, A8": MadeFile(20, good, 1.0)}
    smaller = row("nncf_static", MadeFile(100, bad, 2.0), ours, MadeFile(1000, good, 0.0), 0.5)
    larger = row("nncf_weights_8_bits", MadeFile(5, good, 2.0), ours, MadeFile(1000, good, 0.0), 0.5)
    assert smaller["their_float_passes"] == 4
    assert smaller["with_activations"]["our_bytes"] == 20
    assert "with_activations" not in larger
    missing = {"tool": "aimet_mixed", "reason": "not run"}
    kept = summary([{"network": "a", "rows": [smaller, missing]}])
    assert kept["peers_smaller"]
    assert kept["rows_smaller"] == "1/1"
    broken = summary([{"network": "a", "rows": [smaller, missing]}, {"network": "b", "rows": [larger]}])
    assert not broken["peers_smaller"]
    assert not broken["peers_smaller_within_error"]
    assert broken["rows_smaller"] == "1/2"


def test_tools_are_a_script_without_the_project():
    """It runs in an environment that has neither the project nor its other dependencies."""
    with open(tools.__file__) as file:
        imports = [line for line in file if line.lstrip().startswith(("import ", "from "))]
    assert not [line for line in imports if line.split()[1].split(".")[0] in ("benchmarks", "pipeline", "quantization")]
    assert set(tools.TOOLS) >= tools.ACTIVATION_TOOLS
