"""Weights in the bodies of If, Loop and Scan."""

from __future__ import annotations

import numpy as np

from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import normal
from benchmarks.networks.written import weights, written


@network("If: each branch has weights of its own")
def branches() -> Network:
    text = """(float[n, 20] x, int64[1] rate) => (float[n, 6] y) {
        a = MatMul(x, W)
        ar = Relu(a)
        top = ReduceMax<keepdims = 0>(rate)
        fast = Equal(top, sixteen)
        y = If(fast) <
            then_branch = fast_body () => (float[n, 6] ty) { tm = MatMul(ar, t1) tr = Relu(tm) ty = MatMul(tr, t2) },
            else_branch = slow_body () => (float[n, 6] ey) { em = MatMul(ar, e1) er = Relu(em) ey = MatMul(er, e2) }
        >
    }"""
    bodies = {"fast_body": weights(2, t1=(32, 40), t2=(40, 6)), "slow_body": weights(3, e1=(32, 40), e2=(40, 6))}
    model = written(text, {**weights(1, W=(20, 32)), "sixteen": np.int64(16)}, bodies=bodies)

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"x": rng.normal(size=(n, 20)).astype("f"), "rate": rng.choice([8, 16], (n, 1))}

    return made(model, draw, batch_axes={"rate": None})


@network("If: both branches read one weight from outside")
def shared_by_branches() -> Network:
    text = """(float[n, 20] x, bool c) => (float[n, 6] y) {
        a0 = MatMul(x, W0)
        a = Relu(a0)
        z = If(c) <
            then_branch = double_body () => (float[n, 24] tz) { tm = MatMul(a, W) tz = Mul(tm, two) },
            else_branch = plain_body () => (float[n, 24] ez) { em = MatMul(a, W) ez = Add(em, two) }
        >
        y = MatMul(z, W2)
    }"""
    constants = weights(4, W0=(20, 28), W=(28, 24), W2=(24, 6), two=np.float32(2))

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {**normal(x=(20,))(rng, n), "c": rng.random(n) < 0.5}

    return made(written(text, constants), draw, batch_axes={"c": None})


@network("Loop with weights in its body")
def loop_body() -> Network:
    text = """(float[n, 16] x) => (float[n, 5] y) {
        h = MatMul(x, W)
        z = Loop(three, go, h) <body = step (int64 i, bool c, float[n, 24] s) => (bool d, float[n, 24] t) {
            d = Identity(c)
            m = MatMul(s, R)
            t = Tanh(m)
        }>
        y = MatMul(z, W2)
    }"""
    constants = {**weights(5, W=(16, 24), W2=(24, 5)), "three": np.int64(3), "go": np.bool_(True)}
    return made(written(text, constants, bodies={"step": weights(6, R=(24, 24))}), normal(x=(16,)))


@network("Scan with weights in its body")
def scan_body() -> Network:
    text = """(float[n, 7, 8] x) => (float[n, 4] y) {
        t = Transpose<perm = [1, 0, 2]>(x)
        shape = Shape(x)
        count = Slice(shape, zero, one)
        wide = Concat<axis = 0>(count, width)
        start = ConstantOfShape<value = float[1] {0.0}>(wide)
        last, all = Scan(start, t) <
            num_scan_inputs = 1,
            body = cell (float[n, 16] s, float[n, 8] f) => (float[n, 16] u, float[n, 16] v) {
            a = MatMul(f, Wx)
            b = MatMul(s, Wh)
            c = Add(a, b)
            u = Tanh(c)
            v = Identity(u)
        }>
        y = MatMul(last, W2)
    }"""
    constants = {**weights(7, W2=(16, 4)), "zero": np.array([0]), "one": np.array([1]), "width": np.array([16])}
    return made(written(text, constants, bodies={"cell": weights(8, Wx=(8, 16), Wh=(16, 16))}), normal(x=(7, 8)))


@network("Loop over free time, weights from outside")
def loop_outside() -> Network:
    text = """(float[n, steps, 8] x) => (float[n, 4] y) {
        shape = Shape(x)
        count = Slice(shape, zero, one)
        wide = Concat<axis = 0>(count, width)
        start = ConstantOfShape<value = float[1] {0.0}>(wide)
        length = Gather(shape, one_number)
        last = Loop(length, , start) <body = turn (int64 i, bool c, float[n, 16] s) => (bool d, float[n, 16] u) {
            d = Identity(c)
            f = Gather<axis = 1>(x, i)
            a = MatMul(f, Wx)
            b = MatMul(s, Wh)
            e = Add(a, b)
            u = Tanh(e)
        }>
        y = MatMul(last, W2)
    }"""
    constants = weights(9, Wx=(8, 16), Wh=(16, 16), W2=(16, 4))
    constants |= {"zero": np.array([0]), "one": np.array([1]), "width": np.array([16]), "one_number": np.int64(1)}
    other = ({"x": np.ones((2, 4, 8), np.float32)},)
    return made(written(text, constants), normal(x=(7, 8)), lengths=other)
