"""Language models that decode with a cache of keys and values of free length."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu, softmax

from benchmarks.certificates.training import exported
from benchmarks.networks.entry import Array, Cache, Network, made, network
from benchmarks.networks.random_weights import first, lively

WORDS, WIDTH, HEADS, DEPTH = 50, 24, 3, 8
PAST, NEW = 6, 4


def attended(q: Tensor, k: Tensor, v: Tensor, places: Tensor) -> Tensor:
    """Attention of new tokens [N, heads, new, depth] at these places to all that came before."""
    later = torch.arange(k.shape[2])[None] > places[:, None]
    scores = q @ k.transpose(2, 3) / DEPTH**0.5
    scores = scores + torch.where(later, torch.finfo(torch.float32).min, 0.0)
    return (softmax(scores, -1) @ v).transpose(1, 2).flatten(2)


class Gpt(nn.Module):
    """Learned places, LayerNorm, one matrix for query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(40, WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor, past_key: Tensor, past_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        places = torch.arange(ids.shape[1]) + past_key.shape[2]
        x = self.words(ids) + self.places(places)
        parts = self.qkv(self.norms[0](x)).split(WIDTH, -1)
        q, k, v = (part.unflatten(-1, (HEADS, DEPTH)).transpose(1, 2) for part in parts)
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        x = x + self.out(attended(q, k, v, places))
        x = x + self.down(gelu(self.up(self.norms[1](x)), approximate="tanh"))
        return self.head(self.norms[2](x)), k, v


class RmsNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def rotated(x: Tensor, places: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) of [N, heads, length, depth]."""
    angles = places[:, None] * 10_000.0 ** (-torch.arange(0, DEPTH, 2) / DEPTH)
    cosine, sine = torch.cos(angles).repeat(1, 2), torch.sin(angles).repeat(1, 2)
    a, b = x.chunk(2, -1)
    return x * cosine + torch.cat([-b, a], -1) * sine


class Llama(nn.Module):
    """Rotary places, RMSNorm, gated feed-forward, one key for all heads, and a head tied to the table of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, size, bias=False) for size in (WIDTH, DEPTH, DEPTH))
        self.o = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate, self.up = nn.Linear(WIDTH, 40, bias=False), nn.Linear(WIDTH, 40, bias=False)
        self.down = nn.Linear(40, WIDTH, bias=False)
        self.norms = nn.ModuleList(RmsNorm() for _ in range(3))

    def forward(self, ids: Tensor, past_key: Tensor, past_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        places = torch.arange(ids.shape[1]) + past_key.shape[2]
        x = self.words(ids)
        y = self.norms[0](x)
        q = rotated(self.q(y).unflatten(-1, (HEADS, DEPTH)).transpose(1, 2), places)
        k = torch.cat([past_key, rotated(self.k(y)[:, None], places)], 2)
        v = torch.cat([past_value, self.v(y)[:, None]], 2)
        x = x + self.o(attended(q, k, v, places))
        y = self.norms[1](x)
        x = x + self.down(silu(self.gate(y)) * self.up(y))
        return self.norms[2](x) @ self.words.weight.T, k, v


def decoder(make: type[nn.Module], heads: int, dynamo: bool) -> Network:
    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        past = (n, heads, PAST, DEPTH)
        return {
            "ids": rng.integers(0, WORDS, (n, NEW)),
            "past_key": rng.normal(size=past).astype(np.float32),
            "past_value": rng.normal(size=past).astype(np.float32),
        }

    free = {"ids": {1: "new"}, "logits": {1: "new"}}
    free |= {f"past_{kind}": {2: "past"} for kind in ("key", "value")}
    free |= {f"present_{kind}": {2: "all"} for kind in ("key", "value")}
    outputs = ["logits", "present_key", "present_value"]
    model = exported(lively(make), first(draw), outputs, dynamo=dynamo, free=free)
    cache = Cache("ids", "logits", {"past_key": "present_key", "past_value": "present_value"}, 2)
    return made(model, draw, cache=cache)


@network("decoder with cache, GPT, old exporter")
def gpt_cache() -> Network:
    return decoder(Gpt, HEADS, dynamo=False)


@network("decoder with cache, GPT, new exporter")
def gpt_cache_new() -> Network:
    return decoder(Gpt, HEADS, dynamo=True)


@network("decoder with cache, llama with tied head, old exporter")
def llama_cache() -> Network:
    return decoder(Llama, 1, dynamo=False)


@network("decoder with cache, llama with tied head, new exporter")
def llama_cache_new() -> Network:
    return decoder(Llama, 1, dynamo=True)
