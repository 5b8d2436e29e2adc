"""Networks with parts that few have: windows that roll, grids, low-rank updates, transforms, sequences, functions."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx.parser import parse_function
from torch import Tensor, nn
from torch.nn.functional import grid_sample, relu, softmax

from benchmarks.certificates.training import exported
from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import first, lively, noisy_classes, normal
from benchmarks.networks.written import weights, written
from benchmarks.networks.zoo.vision import images


class Windows(nn.Module):
    """Attention inside windows of 4 x 4 that roll by half, with a table of relative places."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.out = nn.Conv2d(3, 16, 2, 2), nn.Linear(16, 48), nn.Linear(16, 16)
        self.bias = nn.Embedding(49, 2)
        ys, xs = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
        places = np.stack([ys.ravel(), xs.ravel()], 1)
        difference = places[:, None] - places[None] + 3
        self.register_buffer("relative", torch.from_numpy(difference[..., 0] * 7 + difference[..., 1]))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 6)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.roll(self.enter(image).permute(0, 2, 3, 1), (-2, -2), (1, 2))
        n = x.shape[0]
        w = x.reshape(n, 2, 4, 2, 4, 16).permute(0, 1, 3, 2, 4, 5).reshape(n * 4, 16, 16)
        q, k, v = self.qkv(self.norm(w)).reshape(n * 4, 16, 3, 2, 8).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / 8**0.5 + self.bias(self.relative).permute(2, 0, 1)
        w = w + self.out((softmax(scores, -1) @ v).transpose(1, 2).reshape(n * 4, 16, 16))
        logits: Tensor = self.head(w.reshape(n, 64, 16).mean(1))
        return logits


@network("image classifier, Swin windows")
def swin() -> Network:
    draw = images(16)
    model = exported(lively(Windows), first(draw), ["logits"])
    return made(model, draw, labels=noisy_classes(model))


@network("image classifier, Swin windows, new exporter")
def swin_new() -> Network:
    draw = images(16)
    model = exported(lively(Windows), first(draw), ["logits"], dynamo=True)
    return made(model, draw, labels=noisy_classes(model))


class Spatial(nn.Module):
    """Straightens its image before it looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 6))
        self.look = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 4))

    def forward(self, image: Tensor) -> Tensor:
        unit = torch.tensor([1.0, 0, 0, 0, 1, 0])
        theta = (unit + 0.2 * torch.tanh(self.where(image))).reshape(-1, 2, 3)
        ys, xs = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 12), indexing="ij")
        base = torch.stack([xs, ys, torch.ones_like(xs)], -1).reshape(-1, 3)
        grid = (base @ theta.transpose(1, 2)).reshape(-1, 12, 12, 2)
        values: Tensor = self.look(grid_sample(image, grid, align_corners=False))
        return values


@network("spatial transformer, GridSample")
def spatial_transformer() -> Network:
    draw = images(12)
    return made(exported(lively(Spatial), first(draw), ["values"], opset=16), draw)


class Queries(nn.Module):
    """DETR: learned queries look at an image; a box and classes for each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU())
        self.queries, self.places = nn.Parameter(torch.zeros(5, 24)), nn.Parameter(torch.zeros(36, 24))
        self.layer = nn.TransformerDecoderLayer(24, 4, 48, batch_first=True)
        self.box, self.score = nn.Linear(24, 4), nn.Linear(24, 4)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.body(pixel_values).flatten(2).transpose(1, 2) + self.places
        x = self.layer(self.queries.expand(pixel_values.shape[0], -1, -1), memory)
        return self.score(x), torch.sigmoid(self.box(x))


@network("detector of queries, DETR")
def detr() -> Network:
    draw = images(24, name="pixel_values")
    return made(exported(lively(Queries), first(draw), ["logits", "pred_boxes"], dynamo=True), draw, max_drop=0.05)


class LowRank(nn.Module):
    """Weights that are sums: a frozen matrix and an update of rank 4; directions and lengths apart."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(20, 32)
        self.a, self.b = nn.Parameter(torch.zeros(4, 20)), nn.Parameter(torch.zeros(32, 4))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(32, 6))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.normed(relu(self.frozen(x) + 0.5 * (x @ self.a.T) @ self.b.T))
        return y


@network("low-rank update and weight normalization")
def low_rank() -> Network:
    draw = normal(x=(20,))
    return made(exported(lively(LowRank), first(draw), ["y"]), draw)


class Generated(nn.Module):
    """A network whose weights another one makes for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.head = nn.Linear(5, 8 * 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        made_weights = self.make(task).reshape(-1, 8, 12)
        values: Tensor = self.head(relu(x[:, None] @ made_weights)[:, 0])
        return values


@network("hypernetwork")
def hypernetwork() -> Network:
    draw = normal(x=(8,), task=(5,))
    return made(exported(lively(Generated), first(draw), ["values"], dynamo=True), draw)


class Chunks(nn.Module):
    """As old exports have it: a split of unknown number becomes a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(6, 8) for _ in range(3))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(x, 6, dim=1)
        values: Tensor = self.head(relu(torch.cat([part(p) for part, p in zip(self.parts, pieces, strict=True)], 1)))
        return values


@network("parts of an input, each with a layer of its own")
def chunks() -> Network:
    draw = normal(x=(18,))
    return made(exported(lively(Chunks), first(draw), ["values"], opset=12), draw)


@network("sequence operators between two layers")
def sequences() -> Network:
    text = """(float[n, 18] x) => (float[n, 4] y) {
        s = SplitToSequence<axis = 1>(x, six)
        a = SequenceAt(s, zero)
        b = SequenceAt(s, two)
        p = MatMul(a, w1)
        q = MatMul(b, w2)
        t = SequenceConstruct(p, q)
        c = ConcatFromSequence<axis = 1>(t)
        r = Relu(c)
        y = MatMul(r, w3)
    }"""
    constants = weights(1, w1=(6, 10), w2=(6, 10), w3=(20, 4), six=np.int64(6), zero=np.int64(0), two=np.int64(2))
    return made(written(text, constants), normal(x=(18,)))


@network("Fourier transform inside, DFT")
def fourier() -> Network:
    text = """(float[n, 32, 1] x) => (float[n, 5] y) {
        f = DFT<axis = 1, onesided = 1>(x)
        p = Mul(f, f)
        s = ReduceSum<keepdims = 0>(p, last)
        m = Sqrt(s)
        y = MatMul(m, w)
    }"""
    return made(written(text, weights(2, w=(17, 5), last=np.array([-1]))), normal(x=(32, 1)))


@network("functions of the model's own")
def functions() -> Network:
    text = """(float[n, 16] x) => (float[n, 5] y) {
        a = own.Dense(x, w1, b1)
        b = own.Dense(a, w2, b2)
        y = MatMul(b, w3)
    }"""
    constants = weights(3, w1=(16, 32), b1=(32,), w2=(32, 24), b2=(24,), w3=(24, 5))
    model = onnx.load_model_from_string(written(text, constants, domains={"own": 1}))
    function = """<domain: "own", opset_import: ["" : 17]>
        Dense (x, w, b) => (y) { m = MatMul(x, w) a = Add(m, b) g = Sigmoid(a) y = Mul(a, g) }"""
    model.functions.append(parse_function(function))
    return made(model.SerializeToString(), normal(x=(16,)))


@network("picks what is not zero: lengths from values")
def nonzero() -> Network:
    text = """(float[n, 10, 8] x, bool[n, 10] keep) => (float[n, 4] y) {
        places = NonZero(keep)
        pairs = Transpose<perm = [1, 0]>(places)
        rows = GatherND(x, pairs)
        h = MatMul(rows, w1)
        hr = Relu(h)
        shape = Shape(x)
        wide = Slice(shape, zero, two)
        whole = Concat<axis = 0>(wide, width)
        nothing = ConstantOfShape<value = float[1] {0.0}>(whole)
        back = ScatterND(nothing, pairs, hr)
        m = ReduceMean<axes = [1], keepdims = 0>(back)
        y = MatMul(m, w2)
    }"""
    constants = weights(4, w1=(8, 20), w2=(20, 4), zero=np.array([0]), two=np.array([2]), width=np.array([20]))

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {**normal(x=(10, 8))(rng, n), "keep": rng.random((n, 10)) < 0.6}

    return made(written(text, constants), draw)


@network("layers of the newest opset")
def newest() -> Network:
    text = """(float[n, 6, 16] x) => (float[n, 5] y) {
        a = RMSNormalization<axis = -1>(x, scale)
        b = MatMul(a, w1)
        g = Gelu(b)
        c = MatMul(g, w2)
        s = Add(c, x)
        n1 = LayerNormalization(s, scale, shift)
        w = Swish(n1)
        m = ReduceMean<keepdims = 0>(w, one)
        y = MatMul(m, w3)
    }"""
    ones = np.ones(16, "f")
    constants = weights(5, scale=ones, shift=(16,), w1=(16, 32), w2=(32, 16), w3=(16, 5), one=np.array([1]))
    return made(written(text, constants, opset=24, ir=11), normal(x=(6, 16)))
