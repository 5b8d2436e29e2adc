"""The axis of the samples is found where a file has it, and what mixes its samples is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.batch_axes import batching_of_another, find_batching, likeliest_axes, output_axes
from network.batching import Batching, ragged_samples
from network.errors import BatchAxisUnknown, SamplesMixed

RNG = np.random.default_rng(5)
node = helper.make_node
Shape = Sequence[int | str]


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


def made(nodes: list[onnx.NodeProto], inputs: dict[str, Shape], outputs: Sequence[str], **constants: Any) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name == "places" else TensorProto.FLOAT, None)
            for name in outputs
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def found(data: bytes, samples: dict[str, Any], **stated: int | None) -> Batching:
    return find_batching(data, onnx.ModelProto.FromString(data), samples, stated, 1)


LSTM = [node("LSTM", ["x", "W", "R", "", "", "h0"], ["all", "hn"], hidden_size=4)]
WEIGHTS = {"W": floats(1, 16, 3), "R": floats(1, 16, 4)}


def test_the_first_axis_of_everything() -> None:
    data = made([node("MatMul", ["x", "W"], ["y"])], {"x": ["N", 3]}, ["y"], W=floats(3, 4))
    assert found(data, {"x": floats(6, 3)}) == Batching()


def test_a_state_and_a_sequence_before_the_batch_by_their_names() -> None:
    data = made(LSTM, {"x": ["T", "batch", 3], "h0": [1, "batch", 4]}, ["all", "hn"], **WEIGHTS)
    batching = found(data, {"x": floats(6, 5, 3), "h0": floats(6, 1, 4)})
    assert batching == Batching({"x": 1, "h0": 1}, {"all": 2, "hn": 1})


def test_without_names_a_run_of_two_samples_says_which_axis() -> None:
    """Time first: the states go from step to step, so that two steps are no two samples."""
    data = made(LSTM, {"x": ["a", "b", 3], "h0": [1, "c", 4]}, ["hn"], **WEIGHTS)
    assert found(data, {"x": floats(6, 5, 3), "h0": floats(6, 1, 4)}).inputs == {"x": 1, "h0": 1}


def test_arrays_with_all_axes_are_whole_calls() -> None:
    data = made(LSTM, {"x": ["T", 1, 3], "h0": [1, 1, 4]}, ["all", "hn"], **WEIGHTS)
    batching = found(data, {"x": floats(6, 5, 1, 3), "h0": floats(6, 1, 1, 4)})
    assert batching.inputs == {"x": None, "h0": None}
    assert batching.size == 1


def test_a_scalar_belongs_to_the_call() -> None:
    data = made(
        [node("MatMul", ["x", "W"], ["h"]), node("Mul", ["h", "speed"], ["y"])],
        {"x": ["N", 3], "speed": []},
        ["y"],
        W=floats(3, 4),
    )
    assert found(data, {"x": floats(6, 3), "speed": np.ones(6, np.float32)}) == Batching({"speed": None})
    one_by_one = found(data, {"x": floats(6, 3), "speed": np.arange(6, dtype=np.float32)})
    assert one_by_one == Batching({"speed": None}, {}, 1)


def test_an_output_with_its_samples_elsewhere() -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("MatMul", ["t", "W"], ["y"])]
    data = made(nodes, {"x": ["N", 5, 3]}, ["y"], W=floats(3, 4))
    assert found(data, {"x": floats(6, 5, 3)}) == Batching({}, {"y": 1})


def test_a_fixed_batch() -> None:
    data = made([node("MatMul", ["x", "W"], ["y"])], {"x": [4, 3]}, ["y"], W=floats(3, 4))
    assert found(data, {"x": floats(9, 3)}) == Batching({}, {}, 4)


def test_a_fixed_batch_that_the_samples_do_not_fill() -> None:
    data = made([node("MatMul", ["x", "W"], ["y"])], {"x": [12, 3]}, ["y"], W=floats(3, 4))
    assert found(data, {"x": floats(9, 3)}) == Batching({}, {}, 12)


def another(data: bytes, samples: dict[str, Any], batching: Batching) -> Batching:
    return batching_of_another(data, onnx.ModelProto.FromString(data), batching, samples, 1)


def test_another_file_fixes_its_own_batch_and_has_its_own_outputs() -> None:
    nodes = [node("MatMul", ["x", "W"], ["y"])]
    samples = {"x": floats(9, 5, 3)}
    turned = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("MatMul", ["t", "W"], ["y"])]
    first = found(made(nodes, {"x": [7, 5, 3]}, ["y"], W=floats(3, 4)), samples)
    assert first == Batching({}, {}, 7)
    assert another(made(nodes, {"x": ["N", 5, 3]}, ["y"], W=floats(3, 4)), samples, first) == Batching()
    assert another(made(turned, {"x": [4, 5, 3]}, ["y"], W=floats(3, 4)), samples, first) == Batching({}, {"y": 1}, 4)
    late, second = Batching({"x": 1}), Batching({"x": 1}, {"y": 1}, 2)
    assert another(made(nodes, {"x": [5, 2, 3]}, ["y"], W=floats(3, 4)), samples, late) == second


def test_another_file_may_change_samples_by_each_other() -> None:
    nodes = [node("MatMul", ["x", "W"], ["h"]), node("Softmax", ["h"], ["s"], axis=0)]
    nodes.append(node("Transpose", ["s"], ["y"], perm=[1, 0]))
    data = made(nodes, {"x": ["N", 3]}, ["y"], W=floats(3, 4))
    assert another(data, {"x": floats(6, 3)}, Batching()) == Batching({}, {"y": 1})


def test_a_file_that_declares_a_free_batch_and_takes_one_sample() -> None:
    nodes = [node("Reshape", ["x", "shape"], ["r"]), node("MatMul", ["r", "W"], ["y"])]
    data = made(nodes, {"x": ["N", 3]}, ["y"], W=floats(3, 4), shape=np.array([1, 3]))
    assert found(data, {"x": floats(6, 3)}).size == 1


@pytest.mark.parametrize("mixing", ["Softmax", "ReduceMean", "CumSum"])
def test_samples_that_change_each_other_are_refused(mixing: str) -> None:
    nodes = [node("MatMul", ["x", "W"], ["h"])]
    if mixing == "Softmax":
        nodes.append(node("Softmax", ["h"], ["y"], axis=0))
    elif mixing == "CumSum":
        nodes.append(node("CumSum", ["h", "zero"], ["y"]))
    else:
        nodes += [node("ReduceMean", ["h"], ["m"], axes=[0], keepdims=1), node("Sub", ["h", "m"], ["y"])]
    data = made(nodes, {"x": ["N", 3]}, ["y"], W=floats(3, 4), zero=np.int64(0))
    with pytest.raises(SamplesMixed, match=r"output 'y' of one is .* in place of .* for the same sample alone"):
        found(data, {"x": floats(6, 3)})


def test_scales_of_a_whole_call_make_samples_run_alone() -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", ["q", "W", "zero"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "scale"], ["y"]),
    ]
    data = made(nodes, {"x": ["N", 3]}, ["y"], W=RNG.integers(-9, 9, (3, 4)).astype(np.int8))
    assert found(data, {"x": floats(6, 3) * np.arange(1, 7, dtype=np.float32)[:, None]}).size == 1


def test_what_is_stated_counts() -> None:
    data = made([node("MatMul", ["x", "W"], ["y"])], {"x": ["N", "M", 3]}, ["y"], W=floats(3, 4))
    samples = {"x": floats(6, 5, 3)}
    assert found(data, samples) == Batching()
    assert found(data, samples, x=1) == Batching({"x": 1}, {"y": 1})
    assert found(data, {"x": floats(6, 2, 5, 3)}, x=None).size == 1
    with pytest.raises(BatchAxisUnknown, match=r"the batch axis 3 of 'x', .*leave axis 0 or axis 1"):
        found(data, samples, x=3)
    with pytest.raises(BatchAxisUnknown, match="the batch axis of 'z'; the inputs are"):
        found(data, samples, z=0)


def test_data_that_leave_no_axis() -> None:
    data = made([node("MatMul", ["x", "W"], ["y"])], {"x": ["N", 3]}, ["y"], W=floats(3, 4))
    with pytest.raises(BatchAxisUnknown, match=r"has the shape \[any, 3\], and samples of the shape \[4\] leave none"):
        likeliest_axes(onnx.ModelProto.FromString(data), {"x": floats(6, 4)}, {})


def test_samples_of_different_lengths() -> None:
    data = made([node("MatMul", ["x", "W"], ["y"])], {"x": ["N", "T", 3]}, ["y"], W=floats(3, 4))
    samples = {"x": ragged_samples([floats(length, 3) for length in (5, 2, 5, 0)])}
    assert found(data, samples) == Batching()


def test_axes_of_values_within() -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("MatMul", ["t", "W"], ["y"])]
    data = made(nodes, {"x": ["N", 5, 3]}, ["t", "y"], W=floats(3, 4))
    assert output_axes(data, Batching({}, {"y": 1}), {"x": floats(6, 5, 3)}, 1) == {"t": 1, "y": 1}


def test_a_branch_that_values_choose_is_chosen_for_each_sample() -> None:
    def branch(name: str, weight: str) -> onnx.GraphProto:
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        return helper.make_graph([node("MatMul", ["x", weight], [name])], name, [], outputs)

    nodes = [
        node("ReduceMean", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "low"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("t", "A"), else_branch=branch("e", "B")),
    ]
    data = made(nodes, {"x": ["N", 3]}, ["y"], A=floats(3, 4), B=floats(3, 4), low=np.float32(-99))
    assert found(data, {"x": floats(6, 3)}).size == 1


def test_rows_that_are_found_have_no_axis() -> None:
    nodes = [node("MatMul", ["x", "W"], ["y"]), node("NonZero", ["y"], ["places"])]
    data = made(nodes, {"x": ["N", 3]}, ["y", "places"], W=np.maximum(floats(3, 4), 0))
    assert found(data, {"x": np.maximum(floats(6, 3), 0)}).outputs == {"places": None}


def test_rows_of_all_samples_on_one_axis_make_samples_run_alone() -> None:
    """The logits of a text as `[texts * tokens, classes]`: in a call of one all rows are the text's."""
    flat = [node("Reshape", ["x", "shape"], ["rows"]), node("MatMul", ["rows", "W"], ["y"])]
    data = made(flat, {"x": ["N", 4, 3]}, ["y"], W=floats(3, 5), shape=np.array([-1, 3]))
    assert found(data, {"x": floats(6, 4, 3)}) == Batching({}, {"y": None}, 1)


def test_rows_of_all_samples_beside_an_output_of_each() -> None:
    flat = [
        node("MatMul", ["x", "V"], ["z"]),
        node("Reshape", ["x", "shape"], ["rows"]),
        node("MatMul", ["rows", "W"], ["y"]),
    ]
    constants = {"W": floats(3, 5), "V": floats(3, 2), "shape": np.array([-1, 3])}
    data = made(flat, {"x": ["N", 4, 3]}, ["z", "y"], **constants)
    assert found(data, {"x": floats(6, 4, 3)}) == Batching({}, {"y": None}, 1)


@pytest.mark.parametrize("mixing", [True, False])
def test_samples_of_a_fixed_batch_may_not_change_each_other_either(mixing: bool) -> None:
    nodes = [node("MatMul", ["x", "W"], ["h"]), node("Softmax", ["h"], ["y"], axis=0 if mixing else 1)]
    data = made(nodes, {"x": [4, 3]}, ["y"], W=floats(3, 4))
    if not mixing:
        assert found(data, {"x": floats(9, 3)}) == Batching({}, {}, 4)
        return
    with pytest.raises(SamplesMixed, match="output 'y' of one is"):
        found(data, {"x": floats(9, 3)})


def test_of_two_axes_as_long_as_a_fixed_batch_the_samples_lie_along_the_one_that_a_sample_changes() -> None:
    nodes = [node("MatMul", ["x", "W"], ["h"]), node("Transpose", ["h"], ["y"], perm=[1, 0])]
    data = made(nodes, {"x": [4, 3]}, ["y"], W=floats(3, 4))
    assert found(data, {"x": floats(9, 3)}) == Batching({}, {"y": 1}, 4)


def test_steps_that_are_taken_for_samples_run_one_by_one() -> None:
    """A sequence may be as long as it likes, and gives one state: of two steps in one call it is neither's own."""
    lstm = node("LSTM", ["x", "W", "R"], ["all", "hn"], hidden_size=4)
    data = made([lstm], {"x": ["T", 1, 3]}, ["hn"], **WEIGHTS)
    batching = found(data, {"x": floats(6, 1, 3)})
    assert batching.size == 1
    assert batching.output_axis("hn") is not None


def test_a_constant_output_belongs_to_no_sample() -> None:
    nodes = [node("MatMul", ["x", "W"], ["y"]), node("Identity", ["B"], ["b"])]
    data = made(nodes, {"x": ["N", 3]}, ["y", "b"], W=floats(3, 4), B=floats(2, 5))
    assert found(data, {"x": floats(6, 3)}) == Batching({}, {"b": None})
