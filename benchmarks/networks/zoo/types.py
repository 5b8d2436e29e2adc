"""Weights and inputs that are not plain float32, and operators that are not of the standard's own domain."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import noisy_classes, normal
from benchmarks.networks.written import weights, written

SMALL = """(%s[n, 3, 8, 8] x) => (%s[n, 6] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    ar = Relu(a)
    b = Conv<pads = [1, 1, 1, 1]>(ar, w2, b2)
    g = GlobalAveragePool(b)
    f = Flatten(g)
    y = Gemm<transB = 1>(f, w3, b3)
}"""


def small_weights() -> dict[str, Array]:
    return weights(1, w1=(16, 3, 3, 3), b1=(16,), w2=(12, 16, 3, 3), b2=(12,), w3=(6, 12), b3=(6,))


@network("float16")
def half() -> Network:
    constants = {name: array.astype(np.float16) for name, array in small_weights().items()}
    model = written(SMALL % ("float16", "float16"), constants)

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"x": rng.normal(size=(n, 3, 8, 8)).astype(np.float16)}

    return made(model, draw)


@network("float16 weights far from 1")
def half_scaled() -> Network:
    scales = {"w1": 2000.0, "b1": 1000.0, "w2": 1 / 3000}
    constants = {name: (array * scales.get(name, 1)).astype(np.float16) for name, array in small_weights().items()}
    model = written(SMALL % ("float16", "float16"), constants)

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"x": rng.normal(size=(n, 3, 8, 8)).astype(np.float16)}

    return made(model, draw)


@network("float64")
def double() -> Network:
    text = """(double[n, 20] x) => (double[n, 6] y) {
        a = MatMul(x, w1)
        ar = Relu(a)
        y = Gemm<transB = 1>(ar, w2, b2)
    }"""
    constants = {name: array.astype(np.float64) for name, array in weights(2, w1=(20, 40), w2=(6, 40), b2=(6,)).items()}

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"x": rng.normal(size=(n, 20))}

    return made(written(text, constants), draw)


@network("weights in bfloat16, cast for the arithmetic")
def bfloat16_weights() -> Network:
    text = """(float[n, 24] x) => (float[n, 8] y) {
        f1 = Cast<to = 1>(w1)
        f2 = Cast<to = 1>(w2)
        a = MatMul(x, f1)
        ar = Relu(a)
        y = MatMul(ar, f2)
    }"""
    constants = {name: array.astype(ml_dtypes.bfloat16) for name, array in weights(3, w1=(24, 48), w2=(48, 8)).items()}
    return made(written(text, constants), normal(x=(24,)))


@network("weights in float16, cast for the arithmetic")
def float16_storage() -> Network:
    text = """(float[n, 24] x) => (float[n, 8] y) {
        f1 = Cast<to = 1>(w1)
        f2 = Cast<to = 1>(w2)
        a = MatMul(x, f1)
        ar = Relu(a)
        y = MatMul(ar, f2)
    }"""
    constants = {name: array.astype(np.float16) for name, array in weights(4, w1=(24, 48), w2=(48, 8)).items()}
    return made(written(text, constants), normal(x=(24,)))


@network("sparse weights")
def sparse() -> Network:
    text = """(float[n, 24] x) => (float[n, 8] y) {
        a = MatMul(x, W)
        ar = Relu(a)
        y = MatMul(ar, w2)
    }"""
    dense = weights(7, W=(24, 40), w2=(40, 8))
    matrix = dense.pop("W") * (np.random.default_rng(8).random((24, 40)) < 0.25)
    model = onnx.load_model_from_string(written(text, dense))
    places = np.flatnonzero(matrix)
    values = numpy_helper.from_array(matrix.reshape(-1)[places].astype("f"), "W")
    indices = numpy_helper.from_array(places.astype(np.int64), "W_places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, list(matrix.shape)))
    return made(model.SerializeToString(), normal(x=(24,)))


@network("scaler and label of ai.onnx.ml around a network")
def scikit_learn() -> Network:
    text = """(float[n, 6] X) => (int64[n] label, float[n, 4] probabilities) {
        s = ai.onnx.ml.Scaler<offset = [0.1, -0.2, 0.0, 0.3, 0.1, 0.1], scale = [1.1, 0.9, 1.0, 1.2, 1.1, 0.9]>(X)
        m = MatMul(s, w1)
        a = Add(m, b1)
        r = Relu(a)
        m2 = MatMul(r, w2)
        a2 = Add(m2, b2)
        probabilities = Softmax<axis = 1>(a2)
        best = ArgMax<axis = 1, keepdims = 0>(probabilities)
        picked = ai.onnx.ml.ArrayFeatureExtractor(classes, best)
        label = Reshape(picked, flat)
    }"""
    constants = weights(
        9, w1=(6, 48), b1=(48,), w2=(48, 4), b2=(4,), classes=np.array([[3, 5, 7, 9]]), flat=np.array([-1])
    )
    return made(written(text, constants), normal(X=(6,)))


@network("fused operators of ONNX Runtime")
def fused() -> Network:
    text = """(float[n, 24] x) => (float[n, 8] y) {
        a = com.microsoft.FusedMatMul<alpha = 0.5, transB = 1>(x, w1)
        g = com.microsoft.BiasGelu(a, b1)
        s, m, i, t = com.microsoft.SkipLayerNormalization<epsilon = 0.00001>(g, a, gamma, beta, bias)
        y = com.microsoft.FusedGemm<transB = 1, activation = "Relu">(s, w2, b2)
    }"""
    text = text.replace("s, m, i, t = com", "s = com")
    constants = weights(10, w1=(32, 24), b1=(32,), gamma=np.ones(32, "f"), beta=(32,), bias=(32,), w2=(8, 32), b2=(8,))
    return made(written(text, constants), normal(x=(24,)))


@network("logarithm with an epsilon")
def epsilon() -> Network:
    text = """(float[n, 1, 160] x) => (float[n, 4] y) {
        c = Conv<strides = [32]>(x, w1)
        p = Mul(c, c)
        q = Add(p, tiny)
        l = Log(q)
        f = Flatten(l)
        y = MatMul(f, w2)
    }"""
    constants = weights(11, w1=(12, 1, 32), w2=(60, 4), tiny=np.float32(1e-10))
    model = written(text, constants, opset=18)

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        sound = rng.normal(size=(n, 1, 160)) * (rng.random((n, 1, 1)) > 0.1)
        return {"x": sound.astype(np.float32)}

    return made(model, draw, labels=noisy_classes(model))
