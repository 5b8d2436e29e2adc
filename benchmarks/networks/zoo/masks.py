"""Attention with masks of all kinds: booleans, minus infinity, the lowest float, rows without any number."""

from __future__ import annotations

import numpy as np

from benchmarks.networks.entry import Array, Draw, Network, made, network
from benchmarks.networks.random_weights import noisy_classes
from benchmarks.networks.written import weights, written

LENGTH, WIDTH = 10, 20


def kept(rng: np.random.Generator, n: int) -> Array:
    return np.arange(LENGTH) < rng.integers(3, LENGTH + 1, n)[:, None]


def tokens(kind: type) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"ids": rng.integers(0, 40, (n, LENGTH)).astype(np.int32), "mask": kept(rng, n).astype(kind)}

    return draw


HEAD = """
    ee = Gather(E, ids)
    x = Add(ee, P)
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    kt = Transpose<perm = [0, 2, 1]>(k)
    raw = MatMul(q, kt)
    s = Mul(raw, scale)
"""
TAIL = """
    p = Softmax<axis = -1>(sm)
    o = MatMul(p, v)
    oo = MatMul(o, wo)
    r = Add(oo, x)
    pool = ReduceMean<axes = [1], keepdims = 0>(r)
    y = Gemm<transB = 1>(pool, wf, bf)
}"""


def attention_weights() -> dict[str, Array]:
    square = (WIDTH, WIDTH)
    return weights(
        1, E=(40, WIDTH), P=(LENGTH, WIDTH), wq=square, wk=square, wv=square, wo=square, wf=(4, WIDTH), bf=(4,),
        scale=np.float32(WIDTH**-0.5), one_axis=np.array([1]),
    )  # fmt: skip


@network("attention mask of the lowest float, causal mask of minus infinity")
def lowest_mask() -> Network:
    text = (
        "(int32[n, length] ids, int64[n, length] mask) => (float[n, 4] y) {"
        + HEAD
        + """
        mu = Unsqueeze(mask, one_axis)
        mf = Cast<to = 1>(mu)
        inverse = Sub(one, mf)
        low = Mul(inverse, lowest)
        sl = Add(s, low)
        sm = Add(sl, causal)
    """
        + TAIL
    )
    lowest = np.float32(np.finfo("f").min)
    causal = np.triu(np.full((LENGTH, LENGTH), -np.inf, "f"), 1)
    model = written(text, {**attention_weights(), "one": np.float32(1), "lowest": lowest, "causal": causal})
    return made(model, tokens(np.int64), labels=noisy_classes(model))


@network("attention mask of booleans, 8-bit activations")
def boolean_mask() -> Network:
    text = (
        "(int32[n, 10] ids, bool[n, 10] mask) => (float[n, 4] y) {"
        + HEAD
        + """
        mu = Unsqueeze(mask, one_axis)
        sm = Where(mu, s, lowest)
    """
        + TAIL
    )
    model = written(text, {**attention_weights(), "lowest": np.float32(np.finfo("f").min)})
    request = {"activations": {"bits": [8]}}
    return made(model, tokens(bool), request=request, max_drop=0.05, labels=noisy_classes(model))


@network("rows without any number, which the network replaces")
def masked_rows() -> Network:
    text = (
        "(int32[n, 10] ids, bool[n, 10] mask) => (float[n, 4] y) {"
        + HEAD
        + """
        mu = Unsqueeze(mask, one_axis)
        mv = Unsqueeze(mask, two_axis)
        both = And(mu, mv)
        sw = Where(both, s, infinite)
        p = Softmax<axis = -1>(sw)
        o = MatMul(p, v)
        oo = MatMul(o, wo)
        bad = IsNaN(oo)
        r = Where(bad, zero, oo)
        pool = ReduceMean<axes = [1], keepdims = 0>(r)
        y = Gemm<transB = 1>(pool, wf, bf)
    }"""
    )
    more = {"two_axis": np.array([2]), "infinite": np.float32(-np.inf), "zero": np.float32(0)}
    model = written(text, {**attention_weights(), **more})
    return made(model, tokens(bool), labels=noisy_classes(model))


@network("sure of itself: Softmax and Sigmoid of large logits")
def saturated() -> Network:
    text = """(float[n, 12] x) => (float[n, 6] prob, float[n, 6] each) {
        a = MatMul(x, w1)
        ar = Relu(a)
        l = MatMul(ar, w2)
        prob = Softmax<axis = -1>(l)
        each = Sigmoid(l)
    }"""
    constants = weights(2, w1=(12, 48), w2=(48, 6))
    constants["w2"] = constants["w2"] * np.float32(40)
    model = written(text, constants)

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"x": rng.normal(size=(n, 12)).astype("f")}

    return made(model, draw, labels=noisy_classes(model))
