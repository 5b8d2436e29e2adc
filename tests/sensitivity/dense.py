"""Whole Hessians of small networks in float64, written down entry by entry: weights, and zero leaves in activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from network.execution import TorchNetwork
from network.graph import Network
from sensitivity.loss import Kind, Loss, Term
from sensitivity.traces import measured_outputs
from tests.oracles.interactions.displacement import differentiable_loss

# Of the network `detector`: logits along an inner axis, boxes in pixels, and scores past a sigmoid in the same output.
DETECTOR_LOSS = Loss(
    (
        Term("classes", Kind.KL, weight=2.0, axis=1),
        Term("found", Kind.SQUARED_ERROR, weight=0.5, axis=1, channels=(0, 4), scales=(30.0, 50.0, 20.0, 40.0)),
        Term("found", Kind.BERNOULLI_PROBABILITIES, axis=1, channels=(4, 6)),
    )
)


def loss_of(network: Network, loss: Loss | Kind | str) -> Loss:
    """One term of this kind over the first output; a loss as it is."""
    return loss if isinstance(loss, Loss) else Loss.of(Kind(loss), network.outputs[0].name)


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
    reference = measured_outputs(model, loss, [x.detach() for x in model.run(tensors, through=through)])
    names = [*weights, *values]
    sizes = [seen[name].numel() for name in names]

    def loss_of(offset: torch.Tensor) -> torch.Tensor:
        parts = {name: part.view_as(seen[name]) for name, part in zip(names, offset.split(sizes), strict=True)}
        moved = {name: seen[name] + parts[name] for name in weights}
        through = {name: lambda value, name=name: value + parts[name] for name in values}
        outputs = measured_outputs(model, loss, model.run(tensors, moved, through))
        return differentiable_loss(loss, outputs, reference).mean()

    matrix = torch.autograd.functional.hessian(loss_of, torch.zeros(sum(sizes), dtype=torch.float64)).numpy()
    ends = np.cumsum(sizes)
    slices = {name: slice(end - size, end) for name, end, size in zip(names, ends, sizes, strict=True)}
    return DenseHessian(matrix, slices, {name: tensor.numpy() for name, tensor in seen.items()})
