"""Networks of torch with random weights that do something: every layer passes its signal on, every output varies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks.entry import Array, Arrays
from benchmarks.networks.running import session_of

STATISTICS_PASSES = 8


def lively(make: Callable[[], nn.Module], *example: Array, seed: int = 0, gain: float = 2.0) -> nn.Module:
    """A network in evaluation mode: weights scaled by their inputs, running statistics of BatchNorm from `example`."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = make()
    with torch.no_grad():
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                _draw(module, name, parameter, gain)
        network.train()
        for _ in range(STATISTICS_PASSES if example else 0):
            network(*(torch.from_numpy(array) for array in example))
    return network.eval()


def _draw(module: nn.Module, name: str, parameter: Tensor, gain: float) -> None:
    if isinstance(module, nn.Embedding):
        parameter.normal_(0, 1)
    elif parameter.ndim < 2:
        is_scale = name == "weight"
        parameter.normal_(1.0 if is_scale else 0.0, 0.2)
    else:
        inputs = parameter[0].numel()
        if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
            inputs = parameter[:, 0].numel() // int(np.prod(module.stride))
        parameter.normal_(0, (gain / inputs) ** 0.5)


def noisy_classes(
    model: bytes, output: int = 0, axis: int = -1, share: float = 0.1
) -> Callable[[Arrays, np.random.Generator], Array]:
    """Labels that the float network predicts, a share of them replaced by chance."""

    def labels(arrays: Arrays, rng: np.random.Generator) -> Array:
        scores = np.asarray(session_of(model).run(None, dict(arrays))[output])
        classes = scores.argmax(axis)
        wrong = rng.random(classes.shape) < share
        return np.where(wrong, rng.integers(0, scores.shape[axis], classes.shape), classes)

    return labels


def noisy_values(model: bytes, output: int = 0, share: float = 0.3) -> Callable[[Arrays, np.random.Generator], Array]:
    """Targets: the float network's values, and noise of a share of their spread."""

    def targets(arrays: Arrays, rng: np.random.Generator) -> Array:
        values = np.asarray(session_of(model).run(None, dict(arrays))[output])
        noise = share * values.std(axis=0) * rng.normal(size=values.shape)
        return (values + noise).astype(np.float32)

    return targets


def normal(**shapes: tuple[int, ...]) -> Callable[[np.random.Generator, int], dict[str, Array]]:
    """Draws of normal inputs of these shapes of a sample."""
    return lambda rng, n: {name: rng.normal(size=(n, *shape)).astype(np.float32) for name, shape in shapes.items()}


def first(draw: Callable[[np.random.Generator, int], dict[str, Array]], samples: int = 2) -> dict[str, Array]:
    """An example for an exporter."""
    return draw(np.random.default_rng(0), samples)
