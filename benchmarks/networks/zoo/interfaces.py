"""Networks whose inputs and outputs are not all [batch, ...]."""

from __future__ import annotations

import numpy as np
import onnx

from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import noisy_classes, normal
from benchmarks.networks.written import weights, written

SPEAKER = """(int64[n, 7] tokens, float%s speed) => (float[n, 10] y) {
    e = Gather(E, tokens)
    es = Mul(e, speed)
    a = MatMul(es, w1)
    ar = Relu(a)
    p = ReduceMean<axes = [1], keepdims = 0>(ar)
    y = MatMul(p, w2)
}"""


def spoken(rng: np.random.Generator, n: int) -> dict[str, Array]:
    return {"tokens": rng.integers(0, 40, (n, 7)), "speed": rng.uniform(0.7, 1.3, n).astype(np.float32)}


def speaker_weights() -> dict[str, Array]:
    return weights(1, E=(40, 16), w1=(16, 32), w2=(32, 10))


@network("a scalar beside the batch")
def scalar_input() -> Network:
    return made(written(SPEAKER % "", speaker_weights()), spoken, batch_axes={"speed": None})


@network("an input [1] beside the batch")
def constant_input() -> Network:
    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"tokens": rng.integers(0, 40, (n, 7)), "speed": np.ones((n, 1), np.float32)}

    return made(written(SPEAKER % "[1]", speaker_weights()), draw, batch_axes={"speed": None})


@network("time first, batch fixed to one")
def time_first() -> Network:
    text = """(float[seq, 1, 6] x) => (float[1, 5] y) {
        all, last, cell = LSTM<hidden_size = 12>(x, W, R)
        h = Squeeze(last, zero)
        y = Gemm<transB = 1>(h, w, b)
    }"""
    constants = weights(2, W=(1, 48, 6), R=(1, 48, 12), zero=np.array([0]), w=(5, 12), b=(5,))
    model = written(text, constants)
    other = ({"x": np.ones((17, 1, 6), np.float32)},)
    return made(model, normal(x=(10, 1, 6)), batch_axes={"x": None}, lengths=other)


@network("states with the batch in the middle")
def state_middle() -> Network:
    text = """(float[b, 24] input, float[2, b, 12] state) => (float[b, 1] output, float[2, b, 12] stateN) {
        x1 = Unsqueeze(input, zero)
        xp = MatMul(x1, Wp)
        h0, c0 = Split<axis = 0>(state, halves)
        all, hn, cn = LSTM<hidden_size = 12>(xp, W, R, B, , h0, c0)
        stateN = Concat<axis = 0>(hn, cn)
        h = Squeeze(hn, zero)
        l = MatMul(h, w)
        output = Sigmoid(l)
    }"""
    constants = weights(
        3, Wp=(24, 16), W=(1, 48, 16), R=(1, 48, 12), B=(1, 96), w=(12, 1), zero=np.array([0]), halves=np.array([1, 1])
    )

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        state = 0.5 * rng.normal(size=(n, 2, 12))
        return {"input": rng.normal(size=(n, 24)).astype("f"), "state": state.astype("f")}

    return made(written(text, constants), draw, batch_axes={"state": 1, "stateN": 1})


@network("batch fixed to one")
def fixed_batch() -> Network:
    text = """(float[1, 3, 8, 8] x) => (float[1, 6] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
        ar = Relu(a)
        r = Reshape(ar, shape)
        y = MatMul(r, w2)
    }"""
    constants = weights(4, w1=(8, 3, 3, 3), b1=(8,), shape=np.array([1, 512]), w2=(512, 6))
    model = written(text, constants)
    return made(model, normal(x=(3, 8, 8)))


@network("batch fixed to four")
def fixed_four() -> Network:
    text = """(float[4, 20] x) => (float[4, 6] y) {
        a = MatMul(x, w1)
        r = Reshape(a, shape)
        s = Softmax<axis = -1>(r)
        f = Reshape(s, back)
        y = MatMul(f, w2)
    }"""
    constants = weights(5, w1=(20, 32), shape=np.array([4, 8, 4]), back=np.array([4, 32]), w2=(32, 6))
    return made(written(text, constants), normal(x=(20,)))


@network("batch second in the output")
def batch_second() -> Network:
    text = """(float[n, 10, 12] x) => (float[10, n, 7] y) {
        t = Transpose<perm = [1, 0, 2]>(x)
        a = MatMul(t, w1)
        ar = Relu(a)
        y = MatMul(ar, w2)
    }"""
    model = written(text, weights(6, w1=(12, 32), w2=(32, 7)))
    return made(model, normal(x=(10, 12)), batch_axes={"y": 1})


@network("an output that is an input, one that is a weight, one from the middle")
def outputs_of_all_kinds() -> Network:
    text = """(float[n, 20] x) => (float[n, 9] named, float[n, 32] h, float[n, 20] x, float[n, 20] copy) {
        h = MatMul(x, w1)
        r = Relu(h)
        named = MatMul(r, w2)
        copy = Identity(x)
    }"""
    model = onnx.load_model_from_string(written(text, weights(7, w1=(20, 32), w2=(32, 9))))
    # such names are usual, and the text form does not take them
    model.graph.node[2].output[0] = model.graph.output[0].name = "audio/features"
    return made(model.SerializeToString(), normal(x=(20,)))


@network("outputs without a declared shape")
def undeclared_shapes() -> Network:
    text = """(float[n, 3, height, width] x) => (y, z) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w1)
        y = DepthToSpace<blocksize = 2>(a)
        g = GlobalAveragePool(a)
        f = Flatten(g)
        z = MatMul(f, w2)
    }"""
    model = onnx.load_model_from_string(written(text, weights(8, w1=(12, 3, 3, 3), w2=(12, 4))))
    for output in model.graph.output:
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    other = ({"x": np.random.default_rng(0).normal(size=(2, 3, 5, 9)).astype("f")},)
    return made(model.SerializeToString(), normal(x=(3, 8, 8)), lengths=other)


@network("image of bytes, cast and scaled in the graph")
def byte_image() -> Network:
    text = """(uint8[n, 10, 10, 3] image) => (float[n, 5] logits) {
        f = Cast<to = 1>(image)
        t = Transpose<perm = [0, 3, 1, 2]>(f)
        m = Sub(t, mean)
        d = Div(m, spread)
        a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(d, w1, b1)
        ar = Relu(a)
        r = Flatten(ar)
        logits = Gemm<transB = 1>(r, w2, b2)
    }"""
    mean, spread = np.array([123, 117, 104], "f").reshape(3, 1, 1), np.float32(58)
    constants = weights(9, w1=(12, 3, 3, 3), b1=(12,), w2=(5, 300), b2=(5,), mean=mean, spread=spread)
    model = written(text, constants)

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"image": rng.integers(0, 256, (n, 10, 10, 3)).astype(np.uint8)}

    return made(model, draw, labels=noisy_classes(model))


@network("weights in a file beside the model")
def external_data() -> Network:
    text = """(float[n, 24] x) => (float[n, 8] y) {
        a = MatMul(x, w1)
        ar = Relu(a)
        y = MatMul(ar, w2)
    }"""
    model = onnx.load_model_from_string(written(text, weights(10, w1=(24, 48), w2=(48, 8))))
    content = b""
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        place = {"location": "weights.bin", "offset": str(len(content)), "length": str(len(raw))}
        tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in place.items())
        content += raw
    return made(model.SerializeToString(), normal(x=(24,)), beside={"weights.bin": content})


@network("initializers that are inputs too, and may be replaced")
def weights_as_inputs() -> Network:
    text = """(float[n, 16] x) => (float[n, 6] y) {
        a = MatMul(x, w1)
        ar = Relu(a)
        s = Mul(ar, gain)
        y = MatMul(s, w2)
    }"""
    model = onnx.load_model_from_string(written(text, weights(11, w1=(16, 40), w2=(40, 6), gain=np.float32(1.5))))
    for tensor in model.graph.initializer:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)
    return made(model.SerializeToString(), normal(x=(16,)))
