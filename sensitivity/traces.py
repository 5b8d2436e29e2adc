"""Hessian traces of all sites at once, from joint Rademacher probes of the outputs.

HAWQ-V2 (Dong et al., arXiv 1911.03852) scores a layer by the mean trace `Tr(H_ii) / n_i`, estimated by Hutchinson's
identity `Tr(A) = E[u' A u]` for u with independent entries of +1 and -1. At the float weights the Hessian of both our
losses *is* the Gauss-Newton matrix `H = J' B' B J` (see `sensitivity.loss`), so `Tr(H_ii) = Tr(B J_i J_i' B')`, and a
probe u of the outputs gives

    E[ ||J_i' B' u||^2 ] = Tr(H_ii)

for every site i at once, from one ordinary backward pass: `J' B' u` is the gradient of the outputs weighted by `B' u`.

Deviations from HAWQ-V2 and from PyHessian:

1. The probe lives in the space of the outputs, not of the weights. There is no second differentiation, no noise from
   the blocks between sites, and no estimate is ever negative.
2. Each probe sees another micro-batch of the samples, with independent signs for each sample. The draws are unbiased
   for the trace over all samples, and their spread is a standard error of both: probes and samples (which differ far
   more). Every sample is seen once before any is seen again, which makes it err to the wide side; with no more samples
   than one micro-batch it speaks of the probes alone.
3. The iteration stops on that standard error, for every site, not on the change of the running mean.
4. Sums are in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from network.execution import TorchNetwork
from sensitivity.loss import Loss, transposed_root_times


class TraceStatus(StrEnum):
    """How the estimation ended."""

    CONVERGED = "converged"
    PROBE_BUDGET = "probe_budget"


@dataclass(frozen=True)
class TraceRule:
    """When to stop: every site's standard error below `rtol * |mean|`, at least `min_probes`, at most `max_probes`."""

    rtol: float = 0.1
    min_probes: int = 8
    max_probes: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise ValueError(f"rtol must lie between 0 and 1, got {self.rtol}")
        if not 2 <= self.min_probes <= self.max_probes:
            raise ValueError(f"need 2 <= min_probes <= max_probes, got {self.min_probes} and {self.max_probes}")


@dataclass(frozen=True)
class Traces:
    """Traces per site, in the order of `sites`.

    `trace_mean[i]` is `Tr(H_ii) / n_i`, `trace_stderr[i]` its standard error; `probes` backward passes were
    used (one backward pass each), each on `batch` samples.
    """

    sites: tuple[str, ...]
    trace_mean: NDArray[np.float64]
    trace_stderr: NDArray[np.float64]
    probes: int
    batch: int
    status: TraceStatus


def hessian_traces(
    network: TorchNetwork,
    weights: Mapping[str, str],
    inputs: Mapping[str, NDArray[np.generic]],
    loss: Loss,
    generator: torch.Generator,
    rule: TraceRule | None = None,
    batch: int = 64,
    check: Callable[[float], None] = lambda _fraction: None,
) -> Traces:
    """Mean Hessian traces of the loss in the weights of all sites.

    Args:
        network: the float network, with gradients required for the weights of the sites.
        weights: site name to initializer name; the order of the result.
        inputs: arrays `[samples, ...]` by graph input name.
        loss: which loss; its reference are the network's own float outputs.
        generator: source of the probes and of the order of samples.
        rule: when to stop.
        batch: samples in each backward pass; what is live in memory grows with it.
        check: called after each probe with the fraction of the probe budget used.

    Raises:
        ValueError: there are no samples.
    """
    rule = rule or TraceRule()
    samples = len(next(iter(inputs.values())))
    if samples == 0:
        raise ValueError("the traces need at least one sample, got none")
    parameters = {name: network.parameters[name] for name in weights.values()}
    sizes = np.array([parameter.numel() for parameter in parameters.values()], dtype=np.float64)
    batch = min(batch, samples)
    draws: list[NDArray[np.float64]] = []
    status = TraceStatus.PROBE_BUDGET
    order = torch.empty(0, dtype=torch.int64)
    for probe in range(rule.max_probes):
        if len(order) < batch:  # every sample is seen once before any is seen again
            order = torch.cat([order, torch.randperm(samples, generator=generator)])
        chosen, order = order[:batch].numpy(), order[batch:]
        draws.append(_draw(network, parameters, {k: v[chosen] for k, v in inputs.items()}, loss, generator) / sizes)
        check((probe + 1) / rule.max_probes)
        if probe + 1 >= rule.min_probes and _converged(draws, rule.rtol):
            status = TraceStatus.CONVERGED
            break
    mean, stderr = _mean_and_stderr(draws)
    return Traces(tuple(weights), mean, stderr, len(draws), batch, status)


def _draw(
    network: TorchNetwork,
    parameters: Mapping[str, torch.Tensor],
    inputs: Mapping[str, NDArray[np.generic]],
    loss: Loss,
    generator: torch.Generator,
) -> NDArray[np.float64]:
    """`||J_i' B' u||^2 / batch` of every site for one joint probe u on one micro-batch."""
    outputs = network.run(tensors_of(network, inputs))[0]
    weighted = output_probe(loss, outputs, generator)
    # Weights that the first output does not depend on have trace zero, hence allow_unused.
    gradients = torch.autograd.grad(
        outputs, list(parameters.values()), weighted, allow_unused=True, materialize_grads=True
    )
    squares = [gradient.double().square().sum().item() for gradient in gradients]
    return np.array(squares, dtype=np.float64) / len(outputs)


def tensors_of(network: TorchNetwork, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, torch.Tensor]:
    """The arrays as tensors on the network's device."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(network.device) for name, array in inputs.items()}


def output_probe(loss: Loss, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`B' u` in the shape of the outputs, u independent random signs: `J' B' u` has the covariance `J' B' B J`.

    `outputs` `[samples, ..., classes]` are the float network's. The signs of different samples are independent, so
    that the terms between samples vanish in the mean of a square of the gradient of a batch.
    """
    signs = 2 * torch.randint(0, 2, outputs.shape, generator=generator, dtype=torch.int8) - 1
    return transposed_root_times(loss, signs.to(outputs), outputs.detach())


def _mean_and_stderr(draws: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    stacked = np.stack(draws)
    return stacked.mean(0), stacked.std(0, ddof=1) / np.sqrt(len(stacked))


def _converged(draws: Sequence[NDArray[np.float64]], rtol: float) -> bool:
    mean, stderr = _mean_and_stderr(draws)
    return bool((stderr <= rtol * np.abs(mean)).all())
