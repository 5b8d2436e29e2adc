"""Networks that read text, from both exporters of torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, softmax

from benchmarks.certificates.training import exported
from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import first, lively, noisy_classes

WORDS, LENGTH, WIDTH = 60, 12, 24


def padded(rng: np.random.Generator, n: int) -> dict[str, Array]:
    """Token numbers and a mask of 0 behind the end of each text."""
    lengths = rng.integers(4, LENGTH + 1, n)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    return {"input_ids": rng.integers(1, WORDS, (n, LENGTH)) * mask, "attention_mask": mask}


class Encoder(nn.Module):
    """BERT: words, places and kinds of tokens; padding gets the lowest float; post-norm layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(WORDS, WIDTH), nn.Embedding(2, WIDTH)
        self.places = nn.Embedding(32, WIDTH)
        self.parts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.pooler, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        length = input_ids.shape[1]
        x = self.words(input_ids) + self.kinds(token_type_ids) + self.places(torch.arange(length))[None]
        x = self.norms[0](x)
        low = (1.0 - attention_mask[:, None, None].float()) * torch.finfo(torch.float32).min
        q, k, v = (part(x).unflatten(-1, (4, WIDTH // 4)).transpose(1, 2) for part in self.parts[:3])
        weights = softmax(q @ k.transpose(-1, -2) / (WIDTH // 4) ** 0.5 + low, -1)
        x = self.norms[1](x + self.parts[3]((weights @ v).transpose(1, 2).flatten(2)))
        x = self.norms[2](x + self.down(gelu(self.up(x))))
        return x, self.head(torch.tanh(self.pooler(x[:, 0])))


@network("BERT, free length")
def bert() -> Network:
    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        arrays = padded(rng, n)
        return {**arrays, "token_type_ids": (rng.random((n, LENGTH)) < 0.5).astype(np.int64)}

    example = first(draw)
    free = {name: {1: "length"} for name in [*example, "last_hidden_state"]}
    model = exported(lively(Encoder), example, ["last_hidden_state", "logits"], free=free)
    other = {name: array[:, :7] for name, array in draw(np.random.default_rng(4), 3).items()}
    return made(model, draw, lengths=(other,))


class CrossAttention(nn.Module):
    """An encoder of numbers and a decoder of tokens that attends to it, with torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(10, WIDTH)
        self.words = nn.Embedding(WORDS, WIDTH)
        self.itself = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.other = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, frames: Tensor, tokens: Tensor) -> Tensor:
        memory = relu(self.enter(frames))
        x = self.words(tokens)
        later = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        x = x + self.itself(x, x, x, attn_mask=later, need_weights=False)[0]
        x = x + self.other(x, memory, memory, need_weights=False)[0]
        logits: Tensor = self.head(self.norm(x))
        return logits


def frames_and_tokens(rng: np.random.Generator, n: int) -> dict[str, Array]:
    return {"frames": rng.normal(size=(n, 9, 10)).astype(np.float32), "tokens": rng.integers(0, WORDS, (n, 6))}


@network("encoder and decoder with cross attention, old exporter")
def cross_attention() -> Network:
    model = exported(lively(CrossAttention), first(frames_and_tokens), ["logits"])
    return made(model, frames_and_tokens)


@network("encoder and decoder with cross attention, new exporter")
def cross_attention_new() -> Network:
    model = exported(lively(CrossAttention), first(frames_and_tokens), ["logits"], dynamo=True)
    return made(model, frames_and_tokens)


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 16)
        self.layers = kind(16, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, words: Tensor) -> Tensor:
        tags: Tensor = self.head(self.layers(self.words(words))[0])
        return tags


def sentences(rng: np.random.Generator, n: int) -> dict[str, Array]:
    return {"words": rng.integers(0, WORDS, (n, 8))}


@network("tagger, LSTM of two layers and directions")
def tagger_lstm() -> Network:
    free = {name: {1: "length"} for name in ("words", "tags")}
    model = exported(lively(lambda: Tagger(nn.LSTM)), first(sentences), ["tags"], free=free)
    other = ({"words": np.ones((3, 5), np.int64)},)
    return made(model, sentences, labels=noisy_classes(model), lengths=other)


@network("tagger, GRU, new exporter")
def tagger_gru() -> Network:
    model = exported(lively(lambda: Tagger(nn.GRU)), first(sentences), ["tags"], dynamo=True)
    return made(model, sentences, labels=noisy_classes(model))


class Experts(nn.Module):
    """Two of six experts for each token: their matrices are one table, multiplied by Einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.router = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 6)
        self.up = nn.Parameter(torch.zeros(6, WIDTH, 32))
        self.down = nn.Parameter(torch.zeros(6, 32, WIDTH))
        self.head = nn.Linear(WIDTH, 9)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        scores = softmax(self.router(x), -1)
        gates = torch.where(scores >= scores.topk(2, dim=-1).values[..., -1:], scores, torch.zeros_like(scores))
        hidden = relu(torch.einsum("blw,ewh->bleh", x, self.up))
        mixed = torch.einsum("bleh,ehw,ble->blw", hidden, self.down, gates)
        logits: Tensor = self.head((x + mixed).mean(1))
        return logits


@network("mixture of experts, Einsum")
def experts_einsum() -> Network:
    model = exported(lively(Experts), first(sentences), ["logits"])
    return made(model, sentences, labels=noisy_classes(model))


class ExpertsLoop(nn.Module):
    """Every expert on its own matrices, `bmm` over the tables."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.router = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 4)
        self.up = nn.Parameter(torch.zeros(4, WIDTH, 32))
        self.down = nn.Parameter(torch.zeros(4, 32, WIDTH))
        self.head = nn.Linear(WIDTH, 9)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words).mean(1)
        each = x[None].expand(4, -1, -1)
        y = torch.bmm(relu(torch.bmm(each, self.up)), self.down)
        mixed = (y * softmax(self.router(x), -1).T[:, :, None]).sum(0)
        logits: Tensor = self.head(x + mixed)
        return logits


@network("mixture of experts, bmm, new exporter")
def experts_bmm() -> Network:
    model = exported(lively(ExpertsLoop), first(sentences), ["logits"], dynamo=True)
    return made(model, sentences, labels=noisy_classes(model))


class Embedder(nn.Module):
    """A sentence in a vector of length 1: masked mean of hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.up, self.down = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        x = x + self.down(gelu(self.up(x)))
        mask = attention_mask[..., None].float()
        return nn.functional.normalize((x * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=-1)


@network("sentence embedding, new exporter")
def embedder() -> Network:
    model = exported(lively(Embedder), first(padded), ["vector"], dynamo=True)
    return made(model, padded)
