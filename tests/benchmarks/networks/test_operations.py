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
