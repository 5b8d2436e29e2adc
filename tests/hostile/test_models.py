"""Models that want files, memory or time they should not have, and models that are simply broken."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def build(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], **more: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        more.pop("inputs", [value("x", ["N", 4])]),
        more.pop("outputs", [value("y", ["N", 3])]),
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)


def perceptron() -> bytes:
    weights = {"W": np.arange(12, dtype=np.float32).reshape(4, 3), "b": np.ones(3, np.float32)}
    nodes = [helper.make_node("Gemm", ["x", "W", "b"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    return bytes(build(nodes, weights).SerializeToString())


def rich() -> bytes:
    """Shape arithmetic, a subgraph and a function: much that a parser can stumble over."""
    opsets = [helper.make_opsetid("", 18)]
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Neg", ["r"], ["b"])]
    branches = {
        name: helper.make_graph([helper.make_node(op, ["m"], [f"{op}_out"])], name, [], [value(f"{op}_out", ["N", 3])])
        for name, op in (("then_branch", "Tanh"), ("else_branch", "Sigmoid"))
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "four"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["f"]),
        helper.make_node("MatMul", ["f", "W"], ["m"]),
        helper.make_node("ReduceSum", ["m"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "limit"], ["c"]),
        helper.make_node("If", ["c"], ["i"], **branches),
        helper.make_node("F", ["i"], ["y"], domain="own"),
    ]
    weights = {
        "W": np.arange(12, dtype=np.float32).reshape(4, 3) / 7,
        "zero": np.array([0]),
        "four": np.array([4]),
        "limit": np.array(0, np.float32),
    }
    function = helper.make_function("own", "F", ["a"], ["b"], body, opsets)
    return bytes(build(nodes, weights, functions=[function]).SerializeToString())


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def expect(answer: dict[str, Any], code: str, text: str = "") -> None:
    assert answer.get("code") == code, answer
    assert text in answer["detail"]


@pytest.mark.parametrize("model", [perceptron, rich])
def test_the_child_runs_sound_models(child: Any, model: Any) -> None:
    assert "ok" in child.admit_and_run(model())


@settings(max_examples=400, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("model", [perceptron, rich])
def test_damaged_models_are_run_or_refused(child: Any, model: Any, data: st.DataObject) -> None:
    """Any bytes changed, a piece cut out or repeated: it runs or one of our errors comes, never anything else.

    Native code may crash; that takes the child alone.
    """
    raw = bytearray(model())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["set", "set", "flip", "cut", "repeat"]))
        if kind == "set":
            raw[place] = data.draw(st.integers(0, 255))
        elif kind == "flip":
            raw[place] ^= 1 << data.draw(st.integers(0, 7))
        elif len(raw) > 50:
            stop = min(len(raw), place + data.draw(st.integers(1, 30)))
            raw[place:stop] = b"" if kind == "cut" else bytes(raw[place:stop]) * 2
    answer = child.admit_and_run(bytes(raw))
    assert "ok" in answer or "code" in answer or "crashed" in answer, answer
    assert answer["cpu_seconds"] < 60


# What a field may be set to; the names occur in the models, so that changes connect what was apart.
NAMES = ["x", "y", "W", "m", "s", "", "a", "own", "Relu", "If", "F", "Loop", "Range", "Cast", "to", "axis", "N", "else"]
NUMBERS = [0, 1, -1, 2, 7, 18, 255, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63)]


def messages(model: onnx.ModelProto) -> list[Any]:
    found: list[Any] = []
    stack: list[Any] = [model]
    while stack:
        found.append(stack.pop())
        for kind, content in found[-1].ListFields():
            if kind.type == kind.TYPE_MESSAGE:
                stack.extend(content if kind.is_repeated else (content,))
    return found


def rearrange(model: onnx.ModelProto, chance: random.Random) -> None:
    """Change one field somewhere: to another number or name, or to a copy of a part from elsewhere in the model."""
    holder = chance.choice(messages(model))
    set_fields = [kind for kind, _ in holder.ListFields()]
    kind = chance.choice(set_fields if set_fields and chance.random() < 0.7 else list(holder.DESCRIPTOR.fields))
    content = getattr(holder, kind.name)
    if chance.random() < 0.15:
        holder.ClearField(kind.name)
    elif kind.is_repeated and content and chance.random() < 0.3:
        del content[chance.randrange(len(content))]
    elif kind.type == kind.TYPE_MESSAGE:
        donors = [part for part in messages(model) if part.DESCRIPTOR is kind.message_type]
        donated = chance.choice(donors).SerializePartialToString() if donors else b""
        (content.add() if kind.is_repeated else content).ParseFromString(donated)
    else:
        text = chance.choice(NAMES)
        made = {kind.TYPE_STRING: text, kind.TYPE_BYTES: text.encode(), kind.TYPE_FLOAT: float("nan")}.get(
            kind.type, chance.choice(NUMBERS)
        )
        try:
            if kind.is_repeated:
                content.append(made)
            else:
                setattr(holder, kind.name, made)
        except (ValueError, OverflowError):
            return  # a number that this field does not hold


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("model", [perceptron, rich])
def test_rearranged_models_are_admitted_or_refused(child: Any, model: Any, seed: int) -> None:
    """Well-formed files whose parts do not fit. They are not run: an endless Loop is for a time limit to end."""
    chance = random.Random(seed)
    changed = onnx.ModelProto.FromString(model())
    for _ in range(chance.randint(1, 3)):
        rearrange(changed, chance)
    answer = child.admit(changed.SerializePartialToString())
    assert "ok" in answer or "code" in answer or "crashed" in answer, answer
    assert answer["cpu_seconds"] < 60


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=400))
def test_noise_is_refused(child: Any, data: bytes) -> None:
    answer = child.admit(data)
    assert "code" in answer or "crashed" in answer, answer


def test_parts_of_a_sound_model_are_refused(child: Any) -> None:
    whole = rich()
    for length in range(0, len(whole) - 1, 7):
        assert "code" in child.admit(whole[:length])


def test_a_path_is_never_opened(child: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(12, np.float32).tobytes())
    for location in (
        str(secret),
        "../" * 12 + str(secret),
        "secret.bin",
        "file://" + str(secret),
        "*/_ORT_MEM_ADDR_/*",
    ):
        model = onnx.ModelProto.FromString(perceptron())
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", location), ("offset", "0"), ("length", "48")):
            tensor.external_data.add(key=key, value=text)
        expect(child.admit_and_run(model.SerializeToString()), "model_external_data", "'W'")


@pytest.mark.parametrize("levels", [20, 40, 5000])
def test_deep_nesting_is_refused(child: Any, levels: int) -> None:
    """If in If in If: a graph in an attribute in a node in a graph ..."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "innermost", [], [value("z", ["N", 4])]
    ).SerializeToString()
    for level in range(levels):
        attribute = b"\x0a\x0bthen_branch" + field(6, graph) + b"\xa0\x01\x05"
        node = field(1, b"c") + field(2, b"z%d" % level) + field(4, b"If") + field(5, attribute)
        graph = field(1, node) + field(2, b"g")
    data = b"\x08\x0a" + field(7, graph) + field(8, b"\x0a\x00\x10\x12")
    answer = child.admit(data)
    assert answer.get("code") == ("model_not_taken" if levels > 30 else "model_invalid"), answer
    assert ("too deeply" in answer["detail"]) == (levels > 30)


def test_a_million_empty_nodes_are_counted_not_checked(child: Any) -> None:
    data = b"\x08\x0a" + field(7, b"\x0a\x00" * 1_000_000) + field(8, b"\x0a\x00\x10\x12")
    answer = child.admit(data)
    expect(answer, "model_too_large")
    assert answer["cpu_seconds"] < 60


def test_a_file_that_takes_too_much_memory_to_parse_is_refused(fresh_child: Any) -> None:
    """Empty nodes take two bytes in the file and some 150 in memory: 40 MB here are more than the child may use."""
    data = b"\x08\x0a" + field(7, b"\x0a\x00" * 20_000_000) + field(8, b"\x0a\x00\x10\x12")
    expect(fresh_child.admit(data), "model_too_large", "memory")


def test_memory_bombs_are_refused_without_running_them(fresh_child: Any) -> None:
    before = fresh_child.admit(perceptron())["peak_bytes"]
    for shape in ([1 << 29], [1 << 31, 1 << 31], [2**62, 2**62]):
        model = build(
            [helper.make_node("ConstantOfShape", ["s"], ["y"])],
            {"s": np.array(shape, np.int64)},
            outputs=[value("y", [f"d{i}" for i in range(len(shape))])],
        )
        answer = fresh_child.admit(model.SerializeToString())
        expect(answer, "model_too_large", "'y'")
        assert answer["peak_bytes"] - before < 8 << 20


@pytest.mark.parametrize("repeats", [2**40, 2**62])
def test_tiling_expanding_and_padding_are_counted(child: Any, repeats: int) -> None:
    for nodes, weights in (
        ([helper.make_node("Tile", ["x", "r"], ["y"])], {"r": np.array([1, repeats])}),
        ([helper.make_node("Expand", ["x", "r"], ["y"])], {"r": np.array([repeats, 1, 4])}),
        ([helper.make_node("Pad", ["x", "r"], ["y"])], {"r": np.array([0, 0, 0, repeats])}),
    ):
        rank = 3 if nodes[0].op_type == "Expand" else 2
        model = build(nodes, weights, outputs=[value("y", [f"d{i}" for i in range(rank)])])
        answer = child.admit(model.SerializeToString())
        assert answer.get("code") in {"model_too_large", "model_invalid"}, answer


def test_tensors_that_lie_about_their_size_are_refused(child: Any) -> None:
    for dims in ([1 << 40, 3], [-4, 3], [2**62, 2**62], [0, 3]):
        model = onnx.ModelProto.FromString(perceptron())
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)
        assert child.admit(model.SerializeToString()).get("code") == "model_invalid"


def test_the_child_survived_most_of_it(child: Any) -> None:
    """Crashes are allowed, but a parser that crashed on many of a thousand files would be worth knowing of."""
    assert child.crashes <= 20
