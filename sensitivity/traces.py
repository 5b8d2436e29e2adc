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
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from network.errors import UnsupportedOperators
from network.execution import TorchNetwork
from sensitivity.hutchinson import (
    Root,
    TraceDraw,
    TraceEstimate,
    TraceRule,
    estimate_of_draws,
    random_signs,
    trace_draw,
)
from sensitivity.loss import Loss
from sensitivity.parts import BACKWARD_PASSES, Part, Spread, in_order, worth

# probes behind the last that is known to be needed that may be drawn meanwhile
AHEAD = 4


def hessian_traces(
    network: TorchNetwork,
    weights: Sequence[str],
    inputs: Mapping[str, NDArray[np.generic]],
    loss: Loss,
    generator: torch.Generator,
    rule: TraceRule | None = None,
    batch: int = 64,
    check: Callable[[float], None] = lambda _fraction: None,
    spread: Spread = in_order,
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
        spread: gives the draws, each a part; all are one part where samples have outputs of different sizes, or where
            they take no time.

    Raises:
        ValueError: there are no samples.
    """
    rule = rule or TraceRule()
    samples = len(next(iter(inputs.values())))
    if samples == 0:
        raise ValueError("the traces need at least one sample, got none")
    probes = _Probes(network, weights, inputs, loss, generator, min(batch, samples))

    def draw(probe: int) -> TraceDraw:
        drawn = probes.draw(probe)
        check((probe + 1) / rule.max_probes)
        return drawn

    def all_draws(_place: int) -> Part:
        drawn: list[NDArray[np.float64]] = []

        def remembered() -> Iterator[TraceDraw]:
            for probe in range(rule.max_probes):
                own = draw(probe)
                drawn.append(own.values)
                yield own

        estimate_of_draws(remembered(), rule)
        return {"draws": np.stack(drawn)}

    if outputs_of_one_size(network, inputs, loss) and worth(network.network, BACKWARD_PASSES * probes.size) >= 1:
        names = [f"trace/{probe}/{probes.size}" for probe in range(rule.max_probes)]
        parts = spread(names, lambda probe: {"draws": draw(probe).values[None]}, AHEAD)
    else:
        parts = spread([f"trace/all/{probes.size}"], all_draws)
    draws = (TraceDraw(np.asarray(row, dtype=np.float64), probes.size) for part in parts for row in part["draws"])
    return estimate_of_draws(draws, rule)


class _Probes:
    """Any of the probes, with the same samples and signs as if all before it had been drawn.

    Args:
        size: samples of each.
    """

    def __init__(
        self,
        network: TorchNetwork,
        weights: Sequence[str],
        inputs: Mapping[str, NDArray[np.generic]],
        loss: Loss,
        generator: torch.Generator,
        size: int,
    ) -> None:
        self.size = size
        self._network = network
        self._parameters = [network.parameters[name] for name in weights]
        self._inputs = inputs
        self._loss = loss
        self._generator = generator
        self._begin = generator.get_state()
        self._next = 0
        self._restart()

    def draw(self, probe: int) -> TraceDraw:
        if probe < self._next:
            self._restart()
        while self._next < probe:
            self._samples()
            random_signs((self.size, self._length), self._generator)
        chosen = self._samples()
        outputs = self._outputs(chosen)

        def product(u: Tensor) -> Sequence[Tensor]:
            return gradients_of(outputs, transposed(self._loss, u, outputs), self._parameters)

        root = Root((self.size, root_length(self._loss, outputs)), product)
        return trace_draw(root, random_signs(root.shape, self._generator))

    def _restart(self) -> None:
        self._generator.set_state(self._begin)
        self._order = torch.empty(0, dtype=torch.int64)
        self._next = 0

    def _samples(self) -> NDArray[np.int64]:
        """Those of the next probe: every sample is seen once before any is seen again."""
        if len(self._order) < self.size:
            count = len(next(iter(self._inputs.values())))
            self._order = torch.cat([self._order, torch.randperm(count, generator=self._generator)])
        chosen, self._order = self._order[: self.size].numpy(), self._order[self.size :]
        self._next += 1
        return chosen

    def _outputs(self, chosen: NDArray[np.int64]) -> dict[str, Tensor]:
        inputs = tensors_of(self._network, {name: array[chosen] for name, array in self._inputs.items()})
        return measured_outputs(self._network, self._loss, self._network.run(inputs))

    @cached_property
    def _length(self) -> int:
        """The length of the root, where it is the same for all samples."""
        with torch.no_grad():
            return root_length(self._loss, self._outputs(np.arange(self.size)))


def outputs_of_one_size(network: TorchNetwork, inputs: Mapping[str, NDArray[np.generic]], loss: Loss) -> bool:
    """Whether all samples have outputs of the same shape, as far as the graph says; then a probe of some samples can
    be drawn without running those before them."""
    shapes = {spec.name: spec.shape for spec in network.network.outputs}
    varying = any(array.dtype == object for array in inputs.values())
    return not varying and all(shapes[name].count(None) <= 1 for name in loss.outputs)


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
