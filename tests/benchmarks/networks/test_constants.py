"""Float bytes are found wherever a file can hold them, and only what the plan tells is forgiven."""

from __future__ import annotations

import numpy as np
import onnx

from benchmarks.networks.constants import ALLOWED, float_bytes, untold_bytes
from benchmarks.networks.written import weights, written

TEXT = """(float[n, 8] x, bool c) => (float[n, 8] y) {
    k = Constant<value_floats = [1.0, 2.0]>()
    t = Constant<value = float16[3] {1, 2, 3}>()
    m = MatMul(x, W)
    y = If(c) <
        then_branch = inside () => (float[n, 8] a) { a = MatMul(m, V) },
        else_branch = other () => (float[n, 8] b) { b = Identity(m) }
    >
}"""


def plan(**members):
    return {"stays_float": {"bytes": 0}, "audit": {"scales_bytes": 0}, "layers": [], **members}


def test_graphs_bodies_and_constants_are_counted():
    model = written(TEXT, {**weights(0, W=(8, 8)), "n": np.int64(3)}, bodies={"inside": weights(1, V=(8, 8))})
    assert sorted(float_bytes(onnx.load_model_from_string(model))) == [0, 6, 8, 256, 256]


def test_what_the_plan_tells_is_not_untold():
    model = written(TEXT, weights(0, W=(8, 80)), bodies={"inside": weights(1, V=(80, 8))})
    whole = 2 * 4 * 640 + 14
    assert untold_bytes(model, plan()) == whole - ALLOWED
    assert untold_bytes(model, plan(stays_float={"bytes": 2560})) == whole - 2560 - ALLOWED
    kept = [{"format": "float16", "bytes": 2000}, {"format": "int4/channel", "bytes": 9000}]
    assert untold_bytes(model, plan(layers=kept, audit={"scales_bytes": 100})) == whole - 2100 - ALLOWED
    assert untold_bytes(model, plan(stays_float={"bytes": whole})) == 0
