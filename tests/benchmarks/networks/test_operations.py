"""Bit operations counted from a run: every operator that has weights, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.networks.entry import made
from benchmarks.networks.operations import wrong_rows
from benchmarks.networks.random_weights import normal
from benchmarks.networks.written import weights, written

TEXT = """(float[n, 4, 9] x, int64[n] kind) => (float[n, 3] y, float[n, 2, 10] z, float[n, 5] e, w) {
    a = Conv<pads = [1, 1]>(x, convolution)
    z = ConvTranspose(a, transposed)
    f = Flatten(a)
    y = Gemm<transB = 1>(f, gemm)
    t = Transpose<perm = [1, 0]>(matrix)
    e = MatMul(f, t)
    b = Einsum<equation = "ncl,cd->nld">(x, einsum)
    s = Transpose<perm = [1, 0, 2]>(b)
    all, w = LSTM<hidden_size = 2>(s, W, R)
    row = Gather(words, kind)
    picked = Gather(table, kind)
    r3 = Unsqueeze(row, one)
    p = MatMul(r3, picked)
}"""
CONSTANTS = weights(
    0,
    convolution=(6, 4, 3), transposed=(6, 2, 2), gemm=(3, 54), matrix=(5, 54), einsum=(4, 7), W=(1, 8, 7), R=(1, 8, 2),
    words=(5, 11), table=(5, 11, 13), one=np.array([1]),
)  # fmt: skip
PRODUCTS = {
    "convolution": 6 * 9 * 4 * 3,
    "transposed": 6 * 9 * 2 * 2,
    "gemm": 3 * 54,
    "matrix": 5 * 54,
    "einsum": 9 * 4 * 7,
    "W": 9 * 8 * 7,
    "R": 9 * 8 * 2,
    "words": 0,
    "table": 11 * 13,
}


def draw(rng, n):
    return {**normal(x=(4, 9))(rng, n), "kind": rng.integers(0, 5, n)}


@pytest.fixture(scope="module")
def file():
    constants = {name: array if name != "transposed" else array.reshape(6, 2, 2) for name, array in CONSTANTS.items()}
    return made(written(TEXT, constants), draw, samples=3)


def rows(**wrong):
    return [
        {
            "weight": name,
            "shape": list(CONSTANTS[name].shape),
            "bits": 3,
            "input_bits": 32,
            "bit_operations": wrong.get(name, 96 * products),
        }
        for name, products in PRODUCTS.items()
    ]


def test_every_operator_is_counted(file):
    assert wrong_rows(file, file.model, {"layers": rows()}) == []


@pytest.mark.parametrize("name", list(PRODUCTS))
def test_a_wrong_number_is_noticed(file, name):
    (text,) = wrong_rows(file, file.model, {"layers": rows(**{name: 96 * PRODUCTS[name] + 96})})
    assert text.startswith(f"{name}: ")


def test_a_weight_counts_for_every_node_that_reads_it_and_for_one_sample():
    text = "(float[4, 6] x) => (float[4, 6] y) { a = MatMul(x, W) b = MatMul(a, W) c = Transpose<perm = [1, 0]>(W) "
    text += "y = MatMul(b, c) }"
    file = made(written(text, weights(0, W=(6, 6))), normal(x=(6,)), samples=8)
    row = {"weight": "W", "shape": [6, 6], "bits": 2, "input_bits": 8, "bit_operations": 3 * 36 * 16}
    assert wrong_rows(file, file.model, {"layers": [row]}) == []


def test_of_several_lengths_any_is_right():
    def draw(rng, n):
        return {"a/x": rng.normal(size=(n, 3, 5)).astype("f"), "b/x": rng.normal(size=(n, 7, 5)).astype("f")}

    file = made(written("(float[n, t, 5] x) => (float[n, t, 2] y) { y = MatMul(x, W) }", weights(0, W=(5, 2))), draw)
    row = {"weight": "W", "shape": [5, 2], "bits": 1, "input_bits": 1}
    for operations, wrong in ((30, 0), (70, 0), (10, 1)):
        assert len(wrong_rows(file, file.model, {"layers": [{**row, "bit_operations": operations}]})) == wrong
