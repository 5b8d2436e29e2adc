"""Language models on synthetic text: with a cache of keys and values, and without."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from benchmarks.certificates.entry import Array, Arrays, Entry, entry, made
from benchmarks.certificates.losses import accuracy_lost, changed, nats_lost, unexplained
from benchmarks.certificates.synthetic import TOKENS, text
from benchmarks.certificates.training import Batch, exported, trained

WIDTH, HEADS, LAYERS = 32, 4, 2
DEPTH = WIDTH // HEADS
PAST, NEW = 8, 4
LONGEST = 32


class Layer(nn.Module):
    """Attention to everything before, and a feed-forward part; keys and values [N, heads, length, depth]."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, past_key: Tensor, past_value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.first(x)
        query, key, value = (
            part(y).reshape(y.shape[0], y.shape[1], HEADS, DEPTH).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        scores = query @ key.transpose(2, 3) / DEPTH**0.5 + mask
        mixed = (torch.softmax(scores, -1) @ value).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        return x + self.down(gelu(self.up(self.second(x)))), key, value


class Decoder(nn.Module):
    """Ids [N, new] and the keys and values of what came before; logits and all keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(TOKENS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS)

    def forward(self, ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        length, before = ids.shape[1], past[0].shape[2]
        place = torch.arange(length, device=ids.device) + before
        x = self.embed(ids) + self.place(place)
        mask = torch.where(torch.arange(length + before)[None] > place[:, None], -1e4, 0.0)
        present: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            x, key, value = layer(x, past[2 * index], past[2 * index + 1], mask)
            present += [key, value]
        return self.head(self.norm(x)), *present


class WithoutCache(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.decoder(ids, *empty(ids.shape[0]))[0]
        return logits


def empty(samples: int) -> list[Tensor]:
    return [torch.zeros(samples, HEADS, 0, DEPTH)] * (2 * LAYERS)


def text_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    return {"text": text(rng, samples, PAST + NEW + 1)}


@cache
def language_model() -> Decoder:
    def loss(network: nn.Module, batch: Batch) -> Tensor:
        ids = batch["text"]
        logits = network(ids[:, :-1], *empty(len(ids)))[0]
        return cross_entropy(logits.transpose(1, 2)[..., 1:], ids[:, 2:])

    network = trained(Decoder, text_samples, loss, steps=600, rate=6e-3)
    assert isinstance(network, Decoder)
    return network


PASTS = [f"past_{kind}_{index}" for index in range(LAYERS) for kind in ("key", "value")]
PRESENTS = [name.replace("past", "present") for name in PASTS]


def cached_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Four new tokens after eight whose keys and values the network made; `labels.logits` are the tokens after them."""
    ids = text_samples(rng, samples)["text"]
    network = language_model()
    with torch.no_grad():
        _, *past = network(torch.from_numpy(ids[:, :PAST]), *empty(samples))
    return {
        "ids": ids[:, PAST:-1],
        **{name: value.numpy() for name, value in zip(PASTS, past, strict=True)},
        "labels.logits": ids[:, PAST + 1 :],
    }


@entry
def decoder_cache() -> Entry:
    """Logits, and keys and values that the next step starts from: all of them count."""
    example = {k: a for k, a in cached_samples(np.random.default_rng(0), 2).items() if k != "labels.logits"}
    free = {"ids": {1: "tokens"}, "logits": {1: "tokens"}}
    free |= {name: {2: "past"} for name in PASTS} | {name: {2: "all"} for name in PRESENTS}
    model = exported(language_model(), example, ["logits", *PRESENTS], free=free)

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = before["logits"], after["logits"]
        return {
            "changed": changed(x, y),
            "accuracy": accuracy_lost(x, y, fresh["labels.logits"]),
            "nats": nats_lost(x, y, fresh["labels.logits"]),
            "presents": max(unexplained(before[p][:, :, PAST:], after[p][:, :, PAST:]) for p in PRESENTS),
        }

    broken = {"changed": 0.15, "accuracy": 0.1, "nats": 0.25, "presents": 0.25}
    return made("decoder_cache", "decoder with cache", model, cached_samples, check, broken, max_drop=0.05, truth=False)


def next_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Twelve tokens, and at each place the next one; the first cannot be known, and is ignored."""
    ids = text_samples(rng, samples)["text"]
    labels = ids[:, 1:].copy()
    labels[:, 0] = -1
    return {"ids": ids[:, :-1], "labels": labels}


def next_check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
    x, y = before["logits"], after["logits"]
    return {
        "accuracy": accuracy_lost(x, y, fresh["labels"]),
        "changed": changed(x[:, 1:], y[:, 1:]),
        "nats": nats_lost(x, y, fresh["labels"]),
    }


@entry
def next_token() -> Entry:
    """A whole text at once, with the next tokens as labels."""
    example = {"ids": next_samples(np.random.default_rng(0), 2)["ids"]}
    model = exported(WithoutCache(language_model()), example, ["logits"])
    broken = {"accuracy": 0.08, "changed": 0.2, "nats": 0.25}
    return made("next_token", "language model", model, next_samples, next_check, broken, max_drop=0.03)


@entry
def next_token_kl() -> Entry:
    """The same without labels, by a budget in nats."""
    example = {"ids": next_samples(np.random.default_rng(0), 2)["ids"]}
    model = exported(WithoutCache(language_model()), example, ["logits"])
    broken = {"accuracy": 0.08, "changed": 0.2, "nats": 0.2}
    return made(
        "next_token_kl",
        "language model",
        model,
        next_samples,
        next_check,
        broken,
        metric="kl",
        max_drop=0.05,
        truth=False,
    )
