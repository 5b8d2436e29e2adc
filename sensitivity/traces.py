"""Hessian traces of all weights at once, from joint Rademacher probes of the outputs.

HAWQ-V2 (Dong et al., arXiv 1911.03852) scores a layer by the mean trace `Tr(H_ii) / n_i`, estimated by Hutchinson's
identity (`sensitivity.hutchinson`). At the float weights the Hessian of all our losses *is* the Gauss-Newton matrix
`H = J' B' B J` (see `sensitivity.loss`), so `Tr(H_ii) = Tr(B J_i J_i' B')`, and a probe u of the outputs gives

    E[ ||J_i' B' u||^2 ] = Tr(H_ii)

for every weight i at once, from one ordinary backward pass: `J' B' u` is the gradient of the outputs weighted by
`B' u`.

Deviations from HAWQ-V2 and from PyHessian:

1. The probe lives in the space of the outputs, not of the weights. There is no second differentiation, no noise from
   the blocks between weights, and no estimate is ever negative.
2. Each probe sees another micro-batch of the samples, with independent signs for each sample. The draws are unbiased
   for the trace over all samples, and their spread is a standard error of both: probes and samples (which differ far
   more). Every sample is seen once before any is seen again, which makes it err to the wide side; with no more samples
   than one micro-batch it speaks of the probes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from network.errors import UnsupportedOperators
from network.execution import TorchNetwork
from sensitivity.hutchinson import Root, TraceEstimate, TraceRule, hutchinson_trace, random_signs
from sensitivity.loss import Loss


def hessian_traces(
    network: TorchNetwork,
    weights: Sequence[str],
    inputs: Mapping[str, NDArray[np.generic]],
    loss: Loss,
    generator: torch.Generator,
    rule: TraceRule | None = None,
    batch: int = 64,
    check: Callable[[float], None] = lambda _fraction: None,
) -> TraceEstimate:
    """Mean Hessian traces of the loss in these weights.

    Args:
        network: the float network, with gradients required for the weights.
        weights: at least one initializer; the order of the result.
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
    parameters = [network.parameters[name] for name in weights]

    def roots() -> Iterator[Root]:
        size = min(batch, samples)
        order = torch.empty(0, dtype=torch.int64)
        for probe in range(rule.max_probes):
            if len(order) < size:  # every sample is seen once before any is seen again
                order = torch.cat([order, torch.randperm(samples, generator=generator)])
            chosen, order = order[:size].numpy(), order[size:]
            inputs_of_probe = tensors_of(network, {k: v[chosen] for k, v in inputs.items()})
            outputs = measured_outputs(network, loss, network.run(inputs_of_probe))

            def product(u: Tensor, outputs: Mapping[str, Tensor] = outputs, done: int = probe + 1) -> Sequence[Tensor]:
                gradients = gradients_of(outputs, transposed(loss, u, outputs), parameters)
                check(done / rule.max_probes)
                return gradients

            yield Root((size, root_length(loss, outputs)), product)

    return hutchinson_trace(roots(), generator, rule)


def tensors_of(network: TorchNetwork, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """The arrays as tensors on the network's device."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(np.stack(list(array)) if array.dtype == object else array)).to(
            network.device
        )
        for name, array in inputs.items()
    }


def measured_outputs(network: TorchNetwork, loss: Loss, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Those of the network's outputs, given in graph order, that the loss is about, by name."""
    named = dict(zip((spec.name for spec in network.network.outputs), outputs, strict=True))
    return {name: named[name] for name in loss.outputs}


def root_length(loss: Loss, outputs: Mapping[str, Tensor]) -> int:
    """How many numbers `B dz` has for each sample of these outputs."""
    return loss.root_length({name: value.shape for name, value in outputs.items()})


def transposed(loss: Loss, u: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`B' u` by output for u `[samples, root_length]` of any type; `outputs` are the float network's."""
    like = outputs[loss.outputs[0]]
    return loss.transposed_root_times(u.to(like), {name: value.detach() for name, value in outputs.items()})


def output_probe(loss: Loss, outputs: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """`B' u` by output, u independent random signs: `J' B' u` has the covariance `J' B' B J`.

    `outputs` `[samples, ...]` are the float network's. The signs of different samples are independent, so that the
    terms between samples vanish in the mean of a square of the gradient of a batch.
    """
    shape = (len(outputs[loss.outputs[0]]), root_length(loss, outputs))
    return transposed(loss, random_signs(shape, generator), outputs)


def gradients_of(
    outputs: Mapping[str, Tensor],
    weighted: Mapping[str, Tensor],
    values: Sequence[Tensor],
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """`sum_o J_o' w_o` in each of `values`, w_o in the shape of output o; zero where no output depends on a value.

    Raises:
        UnsupportedOperators: torch has no derivative of something on the way.
    """
    reached = [name for name in weighted if outputs[name].requires_grad]
    if not reached or not values:
        return tuple(torch.zeros_like(value) for value in values)
    return derivatives(
        [outputs[name] for name in reached],
        values,
        [weighted[name] for name in reached],
        retain_graph=retain_graph,
        create_graph=create_graph,
    )


def derivatives(
    outputs: Sequence[Tensor],
    values: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """`torch.autograd.grad` of outputs in values, zero where they do not depend on them.

    Raises:
        UnsupportedOperators: torch has no derivative of something on the way.
    """
    try:
        return torch.autograd.grad(
            list(outputs),
            list(values),
            weights,
            retain_graph=retain_graph,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    except RuntimeError as error:
        if "derivative for" not in str(error):  # torch's words, for which it has no class
            raise
        raise UnsupportedOperators(
            f"torch lacks a derivative that this method takes: {error}; take a method without it, or auto"
        ) from error
