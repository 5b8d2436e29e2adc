"""Whole Hessians of small networks in float64, written down entry by entry: weights, and zero leaves in activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from network.execution import TorchNetwork
from network.graph import Network
from sensitivity.loss import Loss


def torch_loss(loss: Loss, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The loss as its definition says, differentiable as often as one likes."""
    if loss is Loss.KL_PROBABILITIES:
        return (reference * (reference.log() - outputs.log())).sum(-1).mean()
    if loss is Loss.KL:
        log_p, log_q = torch.log_softmax(reference, -1), torch.log_softmax(outputs, -1)
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    return 0.5 * (outputs - reference).flatten(1).square().sum(1).mean()


@dataclass(frozen=True, eq=False)
class DenseHessian:
    """`matrix` of the mean loss over all samples, `slices` of each variable in it, `floats` their float values."""

    matrix: np.ndarray
    slices: Mapping[str, slice]
    floats: Mapping[str, np.ndarray]

    def block(self, name: str) -> np.ndarray:
        return self.matrix[self.slices[name], self.slices[name]]

    def quadratic(self, changes: Mapping[str, np.ndarray]) -> float:
        """`1/2 d' H d`, d zero outside `changes`."""
        d = np.zeros(len(self.matrix))
        for name, change in changes.items():
            d[self.slices[name]] = change.ravel()
        return 0.5 * d @ self.matrix @ d


def dense_hessian(
    network: Network, inputs: Mapping[str, np.ndarray], loss: Loss, weights: Sequence[str], values: Sequence[str] = ()
) -> DenseHessian:
    """The Hessian in these weights, and in offsets of these values (graph inputs, outputs of nodes)."""
    model = TorchNetwork(network, dtype=torch.float64)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    seen: dict[str, torch.Tensor] = {name: model.parameters[name].detach() for name in weights}

    def record(name: str, value: torch.Tensor) -> torch.Tensor:
        seen[name] = value.detach()
        return value

    through = {name: lambda value, name=name: record(name, value) for name in values}
    reference = model.run(tensors, through=through)[0].detach()
    names = [*weights, *values]
    sizes = [seen[name].numel() for name in names]

    def loss_of(offset: torch.Tensor) -> torch.Tensor:
        parts = {name: part.view_as(seen[name]) for name, part in zip(names, offset.split(sizes), strict=True)}
        moved = {name: seen[name] + parts[name] for name in weights}
        through = {name: lambda value, name=name: value + parts[name] for name in values}
        return torch_loss(loss, model.run(tensors, moved, through)[0], reference)

    matrix = torch.autograd.functional.hessian(loss_of, torch.zeros(sum(sizes), dtype=torch.float64)).numpy()
    ends = np.cumsum(sizes)
    slices = {name: slice(end - size, end) for name, end, size in zip(names, ends, sizes, strict=True)}
    return DenseHessian(matrix, slices, {name: tensor.numpy() for name, tensor in seen.items()})
