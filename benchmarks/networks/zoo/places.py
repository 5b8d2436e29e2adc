"""Weights that do not stand beside their operator: behind Split, in Einsum, in tables of experts, shared."""

from __future__ import annotations

import numpy as np

from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import noisy_classes, normal
from benchmarks.networks.written import weights, written


@network("one matrix of three, behind Split and Transpose")
def split_weight() -> Network:
    text = """(float[n, 6, 20] x) => (float[n, 5] y) {
        wq, wk, wv = Split<axis = 0>(in_proj, thirds)
        qt = Transpose<perm = [1, 0]>(wq)
        kt = Transpose<perm = [1, 0]>(wk)
        vt = Transpose<perm = [1, 0]>(wv)
        q = MatMul(x, qt)
        k = MatMul(x, kt)
        v = MatMul(x, vt)
        kk = Transpose<perm = [0, 2, 1]>(k)
        s = MatMul(q, kk)
        p = Softmax<axis = -1>(s)
        o = MatMul(p, v)
        m = ReduceMean<axes = [1], keepdims = 0>(o)
        y = MatMul(m, head)
    }"""
    constants = weights(1, in_proj=(60, 20), head=(20, 5), thirds=np.array([20, 20, 20]))
    constants["in_proj"] = constants["in_proj"] * np.float32(0.8)
    return made(written(text, constants), normal(x=(6, 20)))


@network("Einsum with weights of two and three axes")
def einsum_weights() -> Network:
    text = """(float[n, 6, 20] x) => (float[n, 5] y) {
        h = Einsum<equation = "bld,dhe->blhe">(x, w1)
        r = Relu(h)
        o = Einsum<equation = "blhe,hed->bld">(r, w2)
        m = ReduceMean<axes = [1], keepdims = 0>(o)
        y = Einsum<equation = "bd,cd->bc">(m, w3)
    }"""
    constants = weights(2, w1=(20, 4, 6), w2=(4, 6, 20), w3=(5, 20))
    return made(written(text, constants), normal(x=(6, 20)))


@network("experts: matrices picked from a table by the router")
def expert_table() -> Network:
    text = """(float[n, 20] x) => (float[n, 6] y) {
        r = MatMul(x, router)
        e = ArgMax<axis = 1, keepdims = 0>(r)
        W = Gather<axis = 0>(table, e)
        xu = Unsqueeze(x, one)
        h = MatMul(xu, W)
        hs = Squeeze(h, one)
        g = Relu(hs)
        y = MatMul(g, head)
    }"""
    model = written(text, weights(3, router=(20, 6), table=(6, 20, 32), head=(32, 6), one=np.array([1])))
    return made(model, normal(x=(20,)), labels=noisy_classes(model))


@network("head tied to the table of words, mask of booleans")
def tied_head() -> Network:
    text = """(int64[batch, length] ids, bool[batch, length] mask) => (float[batch, length, 80] logits) {
        e = Gather(E, ids)
        mf = Cast<to = 1>(mask)
        mu = Unsqueeze(mf, last)
        em = Mul(e, mu)
        h0 = MatMul(em, w1)
        h1 = Relu(h0)
        h2 = MatMul(h1, w2)
        h3 = Add(em, h2)
        Et = Transpose<perm = [1, 0]>(E)
        logits = MatMul(h3, Et)
    }"""
    constants = weights(4, E=(80, 24), w1=(24, 48), w2=(48, 24), last=np.array([-1]))

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"ids": rng.integers(0, 80, (n, 9)), "mask": rng.random((n, 9)) > 0.2}

    other = ({"ids": np.ones((2, 5), np.int64), "mask": np.ones((2, 5), bool)},)
    return made(written(text, constants), draw, lengths=other)


@network("grouped-query Attention of opset 23 with a scale of its own")
def attention23() -> Network:
    text = """(float[n, 6, 24] x) => (float[n, 5] y) {
        q = MatMul(x, wq)
        k = MatMul(x, wk)
        v = MatMul(x, wv)
        o = Attention<q_num_heads = 4, kv_num_heads = 2, scale = 0.3>(q, k, v)
        z = MatMul(o, wo)
        y = ReduceMean<keepdims = 0>(z, one)
    }"""
    constants = weights(5, wq=(24, 24), wk=(24, 12), wv=(24, 12), wo=(24, 5), one=np.array([1]))
    model = written(text, constants, opset=23, ir=11)
    return made(model, normal(x=(6, 24)), labels=noisy_classes(model))


@network("one weight in two layers, once transposed")
def used_twice() -> Network:
    text = """(float[n, 20] x) => (float[n, 20] back) {
        a = MatMul(x, W)
        ar = Relu(a)
        Wt = Transpose<perm = [1, 0]>(W)
        back = MatMul(ar, Wt)
    }"""
    return made(written(text, weights(6, W=(20, 28))), normal(x=(20,)))


@network("weights that nodes make: Constant, Reshape, a product of two")
def made_weights() -> Network:
    text = """(float[n, 16] x) => (float[n, 5] y) {
        W = Reshape(flat, shape)
        a = MatMul(x, W)
        ar = Relu(a)
        L = MatMul(left, right)
        b = MatMul(ar, L)
        N = ReduceL2<axes = [0], keepdims = 1>(V)
        U = Div(V, N)
        S = Mul(U, gain)
        y = MatMul(b, S)
    }"""
    constants = weights(7, flat=(16 * 24,), left=(24, 4), right=(4, 24), V=(24, 5), gain=np.full((1, 5), 2, "f"))
    constants |= {"flat": constants["flat"] * np.float32(1.5), "shape": np.array([16, 24])}
    return made(written(text, constants), normal(x=(16,)))


@network("constants on the left, biases of every shape")
def left_constant() -> Network:
    text = """(float[n, 12, 8] x) => (float[n, 6, 8] y) {
        a = MatMul(left, x)
        b = Add(a, column)
        r = Relu(b)
        y = MatMul(second, r)
    }"""
    constants = weights(8, left=(20, 12), column=(20, 1), second=(6, 20))
    return made(written(text, constants), normal(x=(12, 8)))
