"""Rounded activations are what ONNX Runtime makes of them, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import QuantizationError
from quantization.export.export import export
from quantization.formats import FloatFormat, IntegerFormat, UnsignedFormat, parse_format

RunOnnx = Callable[..., list[NDArray[Any]]]
MakeNetwork = Callable[..., Network]
FORMATS = [UnsignedFormat(bits) for bits in (4, 8, 16)]


@given(
    st.sampled_from(FORMATS),
    st.floats(2.0**-60, 2.0**60, width=32),
    st.floats(0, 1),
    hnp.arrays(np.float32, 40, elements=st.floats(-300, 300, width=32)),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_apply_is_what_onnx_runtime_does_to_the_bit(
    make_network: MakeNetwork,
    run_onnx: RunOnnx,
    format_: UnsignedFormat,
    scale: float,
    place: float,
    steps: NDArray[np.float32],
    halves: bool,
) -> None:
    """Values within and without the range, and halves of a step, which round to even."""
    activation = QuantizedActivation(format_, float(np.float32(scale)), round(place * format_.highest_code))
    if halves:
        steps = np.rint(steps) / 2
    values = np.concatenate([steps * np.float32(scale), np.float32([np.inf, -np.inf, 0.0, -0.0])]).reshape(1, -1)
    network = make_network([helper.make_node("Identity", ["x"], ["y"])], {"x": values}, {})
    for names in (["x"], ["y"]):  # an input and the output of a node
        (found,) = run_onnx(export(network, {}, {}, dict.fromkeys(names, activation)), {"x": values})
        np.testing.assert_array_equal(found.view(np.uint32), activation.apply(values).view(np.uint32))


@given(st.sampled_from(FORMATS), st.floats(-(2.0**100), 2.0**100, width=32), st.floats(-(2.0**100), 2.0**100, width=32))
@settings(max_examples=300, deadline=None)
def test_a_range_holds_zero_exactly_and_from_there_never_passes_its_upper_end(
    format_: UnsignedFormat, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    activation = QuantizedActivation.covering(format_, low, high)
    zero = activation.apply(np.zeros(1, np.float32))
    assert zero.tobytes() == np.zeros(1, np.float32).tobytes()
    low, high = min(low, 0.0), max(high, 0.0)
    if activation.scale == 1.0 and high - low < 1e-30:
        return
    # the zero point is rounded to a code, by half a step at most
    lowest, highest = (
        (code - activation.zero_point) * activation.scale for code in (0, activation.format.highest_code)
    )
    assert abs(highest - high) <= 0.51 * activation.scale
    assert abs(lowest - low) <= 0.51 * activation.scale
    if low == 0 < high:
        assert activation.zero_point == 0
        assert np.float32(activation.scale) * np.float32(format_.highest_code) <= np.float32(high)


def test_a_tensor_of_zeros_has_a_scale() -> None:
    assert QuantizedActivation.covering(FORMATS[1], 0.0, 0.0) == QuantizedActivation(FORMATS[1], 1.0, 0)
    assert QuantizedActivation.covering(FORMATS[1], 0.0, 1e-40).scale == 1.0


@pytest.mark.parametrize(
    ("scale", "zero_point", "message"),
    [(0.0, 0, "positive"), (-1.0, 0, "positive"), (0.1, 0, "float32"), (np.inf, 0, "positive"), (1.0, 256, "0 to 255"),
     (1.0, -1, "0 to 255")],
)  # fmt: skip
def test_refuses_parameters_that_no_file_can_hold(scale: float, zero_point: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizedActivation(FORMATS[1], scale, zero_point)


def test_refuses_a_range_without_ends() -> None:
    with pytest.raises(ValueError, match="finite"):
        QuantizedActivation.covering(FORMATS[1], -np.inf, 1.0)


def test_names_of_formats_are_read_back() -> None:
    formats = [*FORMATS, FloatFormat(), IntegerFormat(4)]
    assert [parse_format(format_.name) for format_ in formats] == formats
    assert [format_.name for format_ in FORMATS] == ["uint4/tensor", "uint8/tensor", "uint16/tensor"]
    for name in ("uint8/channel", "uint5/tensor", "uint/tensor", "uint8"):
        with pytest.raises(ValueError, match=r"format|bits"):
            parse_format(name)


def test_refuses_activations_that_are_not_the_networks(make_network: MakeNetwork) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[1, 0]),
        helper.make_node("Identity", ["t"], ["y"]),
    ]
    eye = np.eye(3, dtype=np.float32)
    network = make_network(nodes, {"x": eye}, {"w": eye})
    activation, other = (QuantizedActivation(FORMATS[1], scale, 0) for scale in (1.0, 2.0))
    for name in ("nothing", "w"):
        with pytest.raises(QuantizationError, match=f"activations {name} are no values"):
            export(network, {}, {}, {name: activation})
    with pytest.raises(QuantizationError, match="activation t only moves values of h"):
        export(network, {}, {}, {"h": activation, "t": other})
    export(network, {}, {}, {"h": activation, "t": activation})
    export(network, {}, {}, {"t": activation})
