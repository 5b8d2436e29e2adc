"""A decoder with a cache: one that decodes passes, one with a frozen or misplaced past does not."""

from __future__ import annotations

import numpy as np
import onnx

from benchmarks.networks.decoding import wrong_steps
from benchmarks.networks.entry import Cache, made
from benchmarks.networks.random_weights import normal
from benchmarks.networks.written import weights, written

TEXT = """(int64[n, new] ids, float[n, past, 6] before) => (float[n, new, 20] logits, float[n, all, 6] after) {
    e = Gather(words, ids)
    after = Concat<axis = 1>(before, e)
    sums = CumSum(%s, axis)
    shape = Shape(ids)
    count = Slice(shape, one, two)
    start = Neg(count)
    now = Slice(sums, start, last, one)
    logits = MatMul(now, head)
}"""


def draw(rng, n):
    return {"ids": rng.integers(0, 20, (n, 3)), **normal(before=(4, 6))(rng, n)}


def decoder(summed: str):
    constants = {**weights(0, words=(20, 6), head=(6, 20)), "axis": np.int64(1), "one": np.array([1])}
    constants |= {"two": np.array([2]), "last": np.array([2**62])}
    cache = Cache("ids", "logits", {"before": "after"}, 1)
    return made(written(TEXT % summed, constants), draw, cache=cache)


def test_one_that_decodes_passes():
    file = decoder("after")
    assert wrong_steps(file, file.model) == []


def test_one_that_forgets_its_past_is_noticed():
    texts = wrong_steps(decoder("after"), decoder("e").model)
    assert [text.split(" differs by")[0] for text in texts] == [
        "decoding 1 texts step by step",
        "decoding 3 texts step by step",
    ]


def test_one_whose_past_has_one_length_is_noticed():
    frozen = onnx.load_model_from_string(decoder("after").model)
    frozen.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 4
    texts = wrong_steps(decoder("after"), frozen.SerializeToString())
    assert all(text.startswith("decoding ") and "step by step" not in text for text in texts)
    assert len(texts) == 2


def test_a_network_without_a_cache_is_not_asked():
    file = made(written("(float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }", {}), normal(x=(3,)), samples=3)
    assert wrong_steps(file, file.model) == []
