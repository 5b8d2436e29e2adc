"""Networks of tables, pairs, graphs and sets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu, softmax

from benchmarks.certificates.training import exported
from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import first, lively, noisy_values, normal


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(nn.Embedding(size, 6) for size in (12, 30, 7))
        self.norm = nn.BatchNorm1d(9)
        self.layers = nn.Sequential(nn.Linear(9 + 18, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 1))

    def forward(self, numbers: Tensor, kinds: Tensor) -> Tensor:
        parts = [table(kinds[:, i]) for i, table in enumerate(self.kinds)]
        return torch.sigmoid(self.layers(torch.cat([self.norm(numbers), *parts], 1)))


def rows(rng: np.random.Generator, n: int) -> dict[str, Array]:
    kinds = np.stack([rng.integers(0, size, n) for size in (12, 30, 7)], 1)
    return {"numbers": rng.normal(size=(n, 9)).astype(np.float32), "kinds": kinds}


@network("table of numbers and kinds, one score")
def tabular() -> Network:
    model = exported(lively(Table, *first(rows, 32).values()), first(rows), ["score"])
    return made(model, rows)


class TwoTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(80, 16), nn.Embedding(120, 16)
        self.left = nn.Sequential(nn.Linear(16 + 4, 32), nn.ReLU(), nn.Linear(32, 16))
        self.right = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, user: Tensor, context: Tensor, item: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left = normalize(self.left(torch.cat([self.users(user), context], 1)), dim=-1)
        right = normalize(self.right(self.items(item)), dim=-1)
        return (left * right).sum(-1), left, right


@network("recommender of two towers, three outputs")
def two_tower() -> Network:
    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        context = rng.normal(size=(n, 4)).astype(np.float32)
        return {"user": rng.integers(0, 80, n), "context": context, "item": rng.integers(0, 120, n)}

    model = exported(lively(TwoTower), first(draw), ["match", "user_vector", "item_vector"], dynamo=True)
    return made(model, draw)


class Dlrm(nn.Module):
    """Products of all pairs of embeddings, picked from below the diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 8))
        self.tables = nn.ModuleList(nn.Embedding(size, 8) for size in (40, 25))
        self.top = nn.Sequential(nn.Linear(8 + 3, 24), nn.ReLU(), nn.Linear(24, 2))

    def forward(self, dense: Tensor, first: Tensor, second: Tensor) -> Tensor:
        x = self.bottom(dense)
        parts = torch.stack(
            [x, *(table.weight[ids].sum(1) for table, ids in zip(self.tables, (first, second), strict=True))], 1
        )
        products = parts @ parts.transpose(1, 2)
        pairs = products[:, [1, 2, 2], [0, 0, 1]]
        return self.top(torch.cat([x, pairs], 1))


@network("click prediction, DLRM")
def dlrm() -> Network:
    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        dense = rng.normal(size=(n, 5)).astype(np.float32)
        return {"dense": dense, "first": rng.integers(0, 40, (n, 3)), "second": rng.integers(0, 25, (n, 2))}

    return made(exported(lively(Dlrm), first(draw), ["click"]), draw)


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 40), nn.ReLU())
        self.mean, self.spread = nn.Linear(40, 6), nn.Linear(40, 6)
        self.decoder = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 20))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.encoder(x)
        mean = self.mean(y)
        return self.decoder(mean), mean, self.spread(y)


@network("variational autoencoder, three outputs")
def vae() -> Network:
    draw = normal(x=(20,))
    model = exported(lively(Vae), first(draw), ["reconstruction", "mean", "log_variance"], dynamo=True)
    return made(model, draw)


class Messages(nn.Module):
    """A graph of 8 nodes: messages along edges are added up where they arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update, self.head = nn.Linear(6, 16), nn.Linear(6 + 16, 16), nn.Linear(16, 4)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, goal = edges[:, 0], edges[:, 1]
        wide = source[..., None].expand(-1, -1, 6)
        sent = relu(self.message(torch.gather(nodes, 1, wide)))
        arrived = torch.zeros(nodes.shape[0], nodes.shape[1], 16)
        arrived = arrived.scatter_add(1, goal[..., None].expand(-1, -1, 16), sent)
        states = relu(self.update(torch.cat([nodes, arrived], -1)))
        values: Tensor = self.head(states.mean(1))
        return values


@network("graph network with scatter")
def graph_network() -> Network:
    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"nodes": rng.normal(size=(n, 8, 6)).astype(np.float32), "edges": rng.integers(0, 8, (n, 2, 14))}

    return made(exported(lively(Messages), first(draw), ["values"], opset=16), draw)


class Capsules(nn.Module):
    """Predictions of every small capsule for every large one by Einsum, and two rounds of agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(12, 6 * 4)
        self.poses = nn.Parameter(torch.zeros(6, 4, 4, 5))

    def forward(self, x: Tensor) -> Tensor:
        small = relu(self.enter(x)).unflatten(-1, (6, 4))
        votes = torch.einsum("bid,idjk->bijk", small, self.poses)
        logits = torch.zeros(x.shape[0], 6, 4)
        for _ in range(2):
            large = torch.einsum("bij,bijk->bjk", softmax(logits, -1), votes)
            large = large / (1 + large.norm(dim=-1, keepdim=True))
            logits = logits + torch.einsum("bijk,bjk->bij", votes, large)
        return large.norm(dim=-1)


@network("capsules, Einsum with a table of four axes")
def capsules() -> Network:
    draw = normal(x=(12,))
    return made(exported(lively(Capsules), first(draw), ["lengths"]), draw)


@network("regressor of quantities of different size, with targets")
def quantities() -> Network:
    draw = normal(x=(16,))

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 3))

    layers = lively(make)
    with torch.no_grad():
        layers[-1].weight *= torch.tensor([[3.0], [30.0], [300.0]])  # type: ignore[index]
        layers[-1].bias += torch.tensor([20.0, 500.0, 1013.0])  # type: ignore[index]
    model = exported(layers, first(draw), ["values"])
    return made(model, draw, targets=noisy_values(model))
