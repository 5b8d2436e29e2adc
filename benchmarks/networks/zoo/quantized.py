"""Files that other tools have already quantized, in part or as a whole."""

from __future__ import annotations

import numpy as np

from benchmarks.networks.entry import Array, Network, Refusal, made, network
from benchmarks.networks.random_weights import normal
from benchmarks.networks.written import weights, written


def codes(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(-100, 101, shape).astype(np.int8)


@network("one layer already quantized (QDQ)")
def partly_quantized() -> Network:
    text = """(float[n, 24] x) => (float[n, 8] y) {
        q = QuantizeLinear(x, sx, zx)
        d = DequantizeLinear(q, sx, zx)
        w = DequantizeLinear<axis = 1>(codes, sw)
        a = MatMul(d, w)
        ar = Relu(a)
        y = MatMul(ar, w2)
    }"""
    scales = np.random.default_rng(6).uniform(0.002, 0.005, 40).astype("f")
    constants = weights(5, w2=(40, 8)) | {"codes": codes(1, 24, 40), "sw": scales}
    constants |= {"sx": np.float32(0.03), "zx": np.int8(0)}
    return made(written(text, constants), normal(x=(24,)))


@network("a first layer of integers, the rest float")
def dynamic_part() -> Network:
    text = """(float[n, 24] x) => (float[n, 8] y) {
        q, s, z = DynamicQuantizeLinear(x)
        i = MatMulInteger(q, codes, z, zero)
        f = Cast<to = 1>(i)
        t = Mul(s, scale)
        a = Mul(f, t)
        r = Relu(a)
        y = MatMul(r, w2)
    }"""
    constants = weights(2, w2=(40, 8)) | {"codes": codes(3, 24, 40), "zero": np.int8(0), "scale": np.float32(0.004)}
    return made(written(text, constants), normal(x=(24,)))


@network("refused: every weight is quantized already")
def wholly_quantized() -> Network:
    text = """(float[n, 24] x) => (float[n, 8] y) {
        w = DequantizeLinear<axis = 1>(c1, s1)
        a = MatMul(x, w)
        r = Relu(a)
        v = DequantizeLinear<axis = 1>(c2, s2)
        y = MatMul(r, v)
    }"""
    rng = np.random.default_rng(4)
    constants = {"c1": codes(5, 24, 40), "s1": rng.uniform(0.002, 0.005, 40).astype("f"), "c2": codes(6, 40, 8)}
    constants["s2"] = rng.uniform(0.002, 0.005, 8).astype("f")
    refusal = Refusal(("model_nothing_to_quantize",), "quantized|weight")
    return made(written(text, constants), normal(x=(24,)), refusal=refusal)
