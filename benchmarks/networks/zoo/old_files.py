"""Files of old opsets and IR versions, as many published networks are."""

from __future__ import annotations

import numpy as np
import onnx

from benchmarks.networks.entry import Network, made, network
from benchmarks.networks.random_weights import noisy_classes, normal
from benchmarks.networks.written import weights, written

CLASSIC = """(float[batch, 3, 8, 8] data) => (float[batch, 6] prob) {
    c1 = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [1, 1]>(data, w1, b1)
    n1 = BatchNormalization<epsilon = 0.00001, momentum = 0.9, %s>(c1, scale, shift, mean, var)
    r1 = Relu(n1)
    p1 = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r1)
    d1 %s = Dropout<ratio = 0.5%s>(p1)
    f = Reshape%s
    l = Gemm<%s transB = 1>(f, w2, b2)
    prob = Softmax(l)
}"""


def classic_weights() -> dict[str, np.ndarray]:
    constants = weights(1, w1=(12, 3, 3, 3), b1=(12,), shift=(12,), mean=(12,), w2=(6, 192), b2=(6,))
    rng = np.random.default_rng(2)
    constants["scale"] = rng.uniform(0.7, 1.3, 12).astype("f")
    constants["var"] = rng.uniform(0.5, 2, 12).astype("f")
    return constants


@network("IR 3, opset 7, weights as inputs")
def ir3_opset7() -> Network:
    text = CLASSIC % ("spatial = 1", "", "", "(d1, flat)", "")
    model = written(text, {**classic_weights(), "flat": np.array([-1, 192])}, opset=7, ir=3)
    return made(model, normal(data=(3, 8, 8)), labels=noisy_classes(model))


@network("IR 3, opset 8, weights as inputs, unnamed free axes")
def ir3_opset8() -> Network:
    text = CLASSIC % ("", ", mask", "", "(d1, flat)", "")
    text = text.replace(", >", ">")
    model = onnx.load_model_from_string(written(text, {**classic_weights(), "flat": np.array([0, -1])}, opset=8, ir=3))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].Clear()
    return made(model.SerializeToString(), normal(data=(3, 8, 8)))


@network("IR 3, opset 6")
def ir3_opset6() -> Network:
    """Of the operators that ONNX Runtime still runs at this opset."""
    text = """(float[1, 3, 8, 8] data) => (float[1, 6] score) {
        c1 = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(data, w1, b1)
        r1 = Clip<max = 3.0, min = 0.0>(c1)
        t1 = Tanh(c1)
        s1 = Sum(r1, t1)
        f = Flatten<axis = 1>(s1)
        m = MatMul(f, w2)
        score = Sigmoid(m)
    }"""
    constants = {name: classic_weights()[name] for name in ("w1", "b1")} | weights(8, w2=(768, 6))
    return made(written(text, constants, opset=6, ir=3), normal(data=(3, 8, 8)))


@network("IR 3, opset 9, Upsample and Clip with attributes")
def upsample9() -> Network:
    text = """(float[n, 3, 8, 8] x) => (float[n, 4, 16, 16] y) {
        a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w1)
        ar = LeakyRelu<alpha = 0.1>(a)
        u = Upsample<mode = "linear">(ar, twice)
        m = Add(u, b)
        c = Conv<pads = [1, 1, 1, 1]>(m, w2)
        cl = Clip<min = -1.5, max = 2.0>(c)
        y = Upsample<mode = "nearest">(cl, twice)
    }"""
    constants = weights(3, w1=(12, 3, 3, 3), w2=(4, 12, 3, 3), b=(12, 1, 1), twice=np.array([1, 1, 2, 2], "f"))
    return made(written(text, constants, opset=9, ir=3), normal(x=(3, 8, 8)))


@network("opset 10, Resize by odd factors")
def resize10() -> Network:
    text = """(float[n, 3, 6, 6] x) => (float[n, 4, h, w] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w1)
        u = Resize<mode = "nearest">(a, up)
        s = Slice(u, starts, ends, axes)
        c = Conv<pads = [1, 1, 1, 1]>(s, w2)
        y = Resize<mode = "linear">(c, down)
    }"""
    constants = weights(
        4, w1=(10, 3, 3, 3), w2=(4, 10, 3, 3), up=np.array([1, 1, 1.6, 2.5], "f"), down=np.array([1, 1, 1.4, 0.7], "f"),
        starts=np.array([1]), ends=np.array([9]), axes=np.array([2]),
    )  # fmt: skip
    return made(written(text, constants, opset=10, ir=5), normal(x=(3, 6, 6)))


@network("opset 11, Softmax over all axes behind one")
def softmax11() -> Network:
    text = """(float[n, 3, 6, 6] x) => (float[n, 5] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w1)
        s1 = Softmax<axis = 1>(a)
        s2 = Softmax<axis = 2>(a)
        s3 = LogSoftmax<axis = -1>(a)
        h = Hardmax<axis = 2>(a)
        b = Add(s1, s2)
        c = Sum(b, s3, h)
        f = Flatten<axis = 1>(c)
        y = Gemm<transB = 1, alpha = 0.7, beta = 0.5>(f, w2, b2)
    }"""
    constants = weights(5, w1=(6, 3, 3, 3), w2=(5, 216), b2=(5,))
    return made(written(text, constants, opset=11, ir=6), normal(x=(3, 6, 6)))


@network("opset 12, Clip with crossed limits behind Relu")
def crossed_clip() -> Network:
    text = """(float[n, 16] x) => (float[n, 5] y) {
        a = MatMul(x, w1)
        ar = Relu(a)
        ac = Clip(ar, low, high)
        b = MatMul(ac, w2)
        bc = Clip(b, high, low)
        br = Relu(b)
        s = Add(bc, br)
        y = MatMul(s, w3)
    }"""
    constants = weights(6, w1=(16, 32), w2=(32, 24), w3=(24, 5), low=np.float32(-1), high=np.float32(0.8))
    return made(written(text, constants, opset=12, ir=7), normal(x=(16,)))


@network("opset 9, LSTM, time first and free")
def opset9_lstm() -> Network:
    text = """(float[steps, n, 6] x) => (float[n, 4] y) {
        all, last, cell = LSTM<hidden_size = 10, direction = "forward">(x, W, R, B)
        s = Squeeze<axes = [0]>(last)
        y = Gemm<transB = 1>(s, w, b)
    }"""
    constants = weights(7, W=(1, 40, 6), R=(1, 40, 10), B=(1, 80), w=(4, 10), b=(4,))
    constants |= {name: constants[name] * np.float32(1.5) for name in ("W", "R")}
    draw = normal(x=(9, 6))
    return made(written(text, constants, opset=9, ir=4), draw, batch_axes={"x": 1})
