"""Networks that no honest plan can be made for: refused in seconds, with a reason that says why."""

from __future__ import annotations

import numpy as np

from benchmarks.networks.entry import Network, Refusal, made, network
from benchmarks.networks.random_weights import normal
from benchmarks.networks.written import weights, written

X = normal(x=(16,))


@network("refused: samples of a batch are mixed")
def batch_mixed() -> Network:
    """Numbers depend on the other samples of the batch: there is no output of one sample."""
    text = """(float[n, 16] x) => (float[n, 5] y) {
        a = MatMul(x, w1)
        mean = ReduceMean<axes = [0], keepdims = 1>(a)
        d = Sub(a, mean)
        r = Relu(d)
        y = MatMul(r, w2)
    }"""
    refusal = Refusal(("model_samples_mixed",), "samples")
    return made(written(text, weights(1, w1=(16, 32), w2=(32, 5))), X, refusal=refusal)


@network("refused: BatchNorm in training mode")
def training_norm() -> Network:
    text = """(float[n, 3, 8, 8] x) => (float[n, 5] y) {
        a = Conv(x, w1)
        b, rm, rv = BatchNormalization<training_mode = 1>(a, scale, shift, mean, var)
        g = GlobalAveragePool(b)
        f = Flatten(g)
        y = MatMul(f, w2)
    }"""
    constants = weights(
        2, w1=(12, 3, 3, 3), w2=(12, 5), scale=np.ones(12, "f"), shift=(12,), mean=(12,), var=np.ones(12, "f")
    )
    refusal = Refusal(("model_training_mode",), "eval")
    return made(written(text, constants, opset=15), normal(x=(3, 8, 8)), refusal=refusal)


@network("refused: Dropout in training mode")
def training_dropout() -> Network:
    text = """(float[n, 16] x) => (float[n, 5] y) {
        a = MatMul(x, w1)
        d = Dropout(a, ratio, train)
        y = MatMul(d, w2)
    }"""
    constants = weights(3, w1=(16, 32), w2=(32, 5), ratio=np.float32(0.5), train=np.bool_(True))
    return made(written(text, constants), X, refusal=Refusal(("model_training_mode",), "eval"))


@network("refused: an operator of nobody's domain")
def custom() -> Network:
    text = """(float[n, 16] x) => (float[n, 5] y) {
        a = MatMul(x, w1)
        b = org.example.Swirl(a)
        y = MatMul(b, w2)
    }"""
    model = written(text, weights(4, w1=(16, 32), w2=(32, 5)), domains={"org.example": 1})
    return made(model, X, refusal=Refusal(("model_custom_operators",), "Swirl"))


@network("refused: nothing in it is a weight")
def arithmetic() -> Network:
    text = """(float[n, 16] x) => (float[n, 16] y) {
        a = Mul(x, scale)
        y = Add(a, shift)
    }"""
    refusal = Refusal(("model_nothing_to_quantize",), "weight")
    return made(written(text, weights(5, scale=(16,), shift=(16,))), X, refusal=refusal)


@network("refused: trees of ai.onnx.ml")
def trees() -> Network:
    text = """(float[n, 16] x) => (float[n, 1] y) {
        y = ai.onnx.ml.TreeEnsembleRegressor<n_targets = 1, nodes_treeids = [0, 0, 0], nodes_nodeids = [0, 1, 2],
            nodes_featureids = [0, 0, 0], nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values = [0.1, 0.0, 0.0],
            nodes_truenodeids = [1, 0, 0], nodes_falsenodeids = [2, 0, 0], target_treeids = [0, 0],
            target_nodeids = [1, 2], target_ids = [0, 0], target_weights = [1.0, 2.0]>(x)
    }"""
    return made(written(text, {}), X, refusal=Refusal(("model_nothing_to_quantize",), "weight"))


@network("refused: weights that are not numbers")
def broken_weights() -> Network:
    text = """(float[n, 16] x) => (float[n, 5] y) {
        a = MatMul(x, w1)
        y = MatMul(a, w2)
    }"""
    constants = weights(6, w1=(16, 32), w2=(32, 5))
    constants["w1"][3, 4] = np.nan
    return made(written(text, constants), X, refusal=Refusal(("model_weights_not_finite",), "w1"))


@network("refused: random numbers in the graph")
def random_numbers() -> Network:
    text = """(float[n, 16] x) => (float[n, 5] y) {
        a = MatMul(x, w1)
        noise = RandomNormalLike(a)
        b = Add(a, noise)
        y = MatMul(b, w2)
    }"""
    constants = weights(7, w1=(16, 32), w2=(32, 5))
    return made(written(text, constants), X, refusal=Refusal(("model_random_operators",), "random"))


@network("refused: not finite on its samples")
def not_finite() -> Network:
    text = """(float[n, 16] x) => (float[n, 5] y) {
        a = MatMul(x, w1)
        l = Log(a)
        y = MatMul(l, w2)
    }"""
    constants = weights(8, w1=(16, 32), w2=(32, 5))
    codes = ("calibration_activations_not_finite", "metric_not_applicable")
    return made(written(text, constants), X, refusal=Refusal(codes, "NaN|finite"))
