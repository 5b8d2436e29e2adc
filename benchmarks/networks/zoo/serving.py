"""Files as applications ship them: several calls in one file, states, scales and counts beside the batch."""

from __future__ import annotations

import numpy as np

from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import normal
from benchmarks.networks.written import weights, written


@network("decoder merged from two, with a switch for the cache")
def merged_decoder() -> Network:
    """One file for the first call and all others: an If with the same weights in both branches."""
    text = """(int64[batch, new] ids, bool[1] use_cache, float[batch, past, 16] past) =>
        (float[batch, new, 30] logits, float[batch, all, 16] present) {
        x = Gather(words, ids)
        switch = Squeeze(use_cache)
        keys, present = If(switch) <
            then_branch = with_past () => (float[batch, all, 16] tk, float[batch, all, 16] tp) {
                tn = MatMul(x, wk) tp = Concat<axis = 1>(past, tn) tk = Identity(tp)
            },
            else_branch = without_past () => (float[batch, all, 16] ek, float[batch, all, 16] ep) {
                ep = MatMul(x, wk) ek = Identity(ep)
            }
        >
        q = MatMul(x, wq)
        kt = Transpose<perm = [0, 2, 1]>(keys)
        s = MatMul(q, kt)
        p = Softmax<axis = -1>(s)
        o = MatMul(p, keys)
        r = Add(o, x)
        logits = MatMul(r, head)
    }"""
    constants = weights(1, words=(30, 16), wk=(16, 16), wq=(16, 16), head=(16, 30))

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        past = rng.normal(size=(n, 5, 16)).astype(np.float32)
        return {"ids": rng.integers(0, 30, (n, 3)), "use_cache": np.ones((n, 1), bool), "past": past}

    axes = {"use_cache": None}
    first_call = {"ids": np.ones((2, 6), np.int64), "use_cache": np.zeros(1, bool), "past": np.zeros((2, 0, 16), "f")}
    return made(written(text, constants), draw, batch_axes=axes, lengths=(first_call,))


@network("voice activity: chunk, state of two layers, sampling rate as a number")
def voice_activity() -> Network:
    text = """(float[b, 96] input, float[2, b, 8] state, int64 sr) => (float[b, 1] output, float[2, b, 8] stateN) {
        wide = Unsqueeze(input, one)
        c = Conv<strides = [16]>(wide, w1, b1)
        cr = Relu(c)
        t = Transpose<perm = [2, 0, 1]>(cr)
        fast = Equal(sr, sixteen)
        x = If(fast) <
            then_branch = at_16k () => (float[f, b, 12] tx) { tx = Mul(t, half) },
            else_branch = at_8k () => (float[f, b, 12] ex) { ex = Identity(t) }
        >
        h0, c0 = Split<axis = 0>(state, halves)
        all, hn, cn = LSTM<hidden_size = 8>(x, W, R, B, , h0, c0)
        stateN = Concat<axis = 0>(hn, cn)
        h = Squeeze(hn, zero)
        hr = Relu(h)
        l = MatMul(hr, w2)
        output = Sigmoid(l)
    }"""
    constants = weights(
        2, w1=(12, 1, 24), b1=(12,), W=(1, 32, 12), R=(1, 32, 8), B=(1, 64), w2=(8, 1), one=np.array([1]),
        zero=np.array([0]), halves=np.array([1, 1]), half=np.float32(0.5), sixteen=np.int64(16_000),
    )  # fmt: skip
    constants |= {name: constants[name] * np.float32(scale) for name, scale in (("w1", 0.5), ("w2", 6))}

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        sound, state = rng.normal(size=(n, 96)), 0.5 * rng.normal(size=(n, 2, 8))
        return {"input": sound.astype("f"), "state": state.astype("f"), "sr": np.full(n, 16_000)}

    return made(written(text, constants), draw, batch_axes={"state": 1, "stateN": 1, "sr": None})


@network("acoustic model: one sound a call, free time")
def acoustic() -> Network:
    text = """(float[1, T, 10] feats) => (float[1, T_out, 14] scores) {
        t = Transpose<perm = [0, 2, 1]>(feats)
        a = Conv<dilations = [2]>(t, w1, b1)
        ar = Relu(a)
        b = Conv<strides = [2]>(ar, w2, b2)
        br = Relu(b)
        bt = Transpose<perm = [0, 2, 1]>(br)
        l = MatMul(bt, w3)
        scores = LogSoftmax<axis = -1>(l)
    }"""
    constants = weights(3, w1=(20, 10, 3), b1=(20,), w2=(20, 20, 3), b2=(20,), w3=(20, 14))
    other = ({"feats": np.random.default_rng(0).normal(size=(1, 31, 10)).astype("f")},)
    return made(written(text, constants), normal(feats=(18, 10)), lengths=other)


@network("speech synthesis: tokens, their number, and three scales for a call")
def synthesis() -> Network:
    text = """(int64[batch, tokens] input, int64[batch] input_lengths, float[3] scales) =>
        (float[batch, 1, time] output) {
        e = Gather(words, input)
        places = Range(zero, most, one)
        lengths = Unsqueeze(input_lengths, axis)
        inside = Less(places, lengths)
        mask = Cast<to = 1>(inside)
        mask3 = Unsqueeze(mask, last)
        em = Mul(e, mask3)
        t = Transpose<perm = [0, 2, 1]>(em)
        a = Conv<pads = [1, 1]>(t, w1, b1)
        scale = Gather(scales, one)
        s = Mul(a, scale)
        r = LeakyRelu(s)
        u = ConvTranspose<strides = [4]>(r, w2)
        output = Tanh(u)
    }"""
    constants = weights(
        4, words=(40, 12), w1=(16, 12, 3), b1=(16,), w2=(16, 1, 4), zero=np.int64(0), one=np.int64(1), most=np.int64(9),
        axis=np.array([1]), last=np.array([-1]),
    )  # fmt: skip

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        scales = np.tile(np.array([0.667, 1.0, 0.8], "f"), (n, 1))
        return {"input": rng.integers(0, 40, (n, 9)), "input_lengths": rng.integers(4, 10, n), "scales": scales}

    return made(written(text, constants), draw, batch_axes={"scales": None})


@network("keys and values of all layers in one array, batch third")
def stacked_cache() -> Network:
    text = """(int64[batch, 1] token, float[2, 1, batch, past, 12] cache) =>
        (float[batch, 1, 25] logits, float[2, 1, batch, all, 12] cache_out) {
        x = Gather(words, token)
        k = MatMul(x, wk)
        v = MatMul(x, wv)
        k5 = Unsqueeze(k, front)
        v5 = Unsqueeze(v, front)
        new = Concat<axis = 0>(k5, v5)
        cache_out = Concat<axis = 3>(cache, new)
        ka, va = Split<axis = 0>(cache_out, ones)
        keys = Squeeze(ka, front)
        values = Squeeze(va, front)
        q = MatMul(x, wq)
        kt = Transpose<perm = [0, 2, 1]>(keys)
        s = MatMul(q, kt)
        p = Softmax<axis = -1>(s)
        o = MatMul(p, values)
        r = Add(o, x)
        logits = MatMul(r, head)
    }"""
    constants = weights(5, words=(25, 12), wk=(12, 12), wv=(12, 12), wq=(12, 12), head=(12, 25))
    constants |= {"front": np.array([0, 1]), "ones": np.array([1, 1])}

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        cache = rng.normal(size=(n, 2, 1, 6, 12)).astype(np.float32)
        return {"token": rng.integers(0, 25, (n, 1)), "cache": cache}

    empty = {"token": np.ones((3, 1), np.int64), "cache": np.zeros((2, 1, 3, 0, 12), "f")}
    return made(written(text, constants), draw, batch_axes={"cache": 2, "cache_out": 2}, lengths=(empty,))


@network("LSTM with the length of each sequence")
def sequence_lengths() -> Network:
    text = """(float[time, n, 6] x, int32[n] lengths) => (float[n, 4] y) {
        all, last, cell = LSTM<hidden_size = 10, direction = "bidirectional">(x, W, R, , lengths)
        t = Transpose<perm = [1, 0, 2]>(last)
        f = Reshape(t, flat)
        y = Gemm<transB = 1>(f, w, b)
    }"""
    constants = weights(6, W=(2, 40, 6), R=(2, 40, 10), flat=np.array([0, -1]), w=(4, 20), b=(4,))

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {**normal(x=(8, 6))(rng, n), "lengths": rng.integers(2, 9, n).astype(np.int32)}

    return made(written(text, constants), draw, batch_axes={"x": 1})


@network("one image a call, without any batch axis")
def unbatched_image() -> Network:
    """No batch axis anywhere: an image in, a picture out."""
    text = """(float[height, width, 3] image) => (float[height, width, 2] mask) {
        t = Transpose<perm = [2, 0, 1]>(image)
        x = Unsqueeze(t, zero)
        a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
        ar = Relu(a)
        c = Conv<pads = [1, 1, 1, 1]>(ar, w2)
        s = Sigmoid(c)
        q = Squeeze(s, zero)
        mask = Transpose<perm = [1, 2, 0]>(q)
    }"""
    constants = weights(7, w1=(12, 3, 3, 3), b1=(12,), w2=(2, 12, 3, 3), zero=np.array([0]))
    axes = {"image": None, "mask": None}
    other = ({"image": np.ones((5, 11, 3), np.float32)},)
    return made(written(text, constants), normal(image=(8, 8, 3)), batch_axes=axes, lengths=other)
