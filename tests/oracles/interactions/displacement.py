"""The loss of one micro-batch as a function of displacements that are added to weights and activations.

Of weights W and activations a it is `F(v) = sum_s L_s(W + v_W, a + v_a)`: an activation is displaced as it arises, by a
constant, and what lies behind sees the displaced value. `F(0) = 0` with zero gradient at the float network (see
`sensitivity.loss`), so its Hessian there is Gauss-Newton although it is made by two plain differentiations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from network.execution import TorchNetwork
from sensitivity.cross_layer import changed_names
from sensitivity.estimate import Change, Subject, WeightChange
from sensitivity.estimators.linearisation import MicroBatch, activation_error, weight_error
from sensitivity.loss import LARGEST_CHANGE, SMALLEST_PROBABILITY, Kind, Loss, Term
from sensitivity.traces import measured_outputs

Displacements = Mapping[str, Tensor]


def differentiable_loss(loss: Loss, outputs: Mapping[str, Tensor], float_outputs: Mapping[str, Tensor]) -> Tensor:
    """`Loss.sample_loss` in torch, `[samples]`, as often differentiable in `outputs` as one likes."""
    parts = [term.weight * _of_term(term, outputs[term.output], float_outputs[term.output]) for term in loss.terms]
    return torch.stack(parts).sum(0)


def _of_term(term: Term, output: Tensor, float_output: Tensor) -> Tensor:
    z, reference = (x[:, None] if x.dim() == 1 else x for x in (output, float_output))
    axis = term.axis % z.dim()
    if term.channels is not None:
        z, reference = (x.narrow(axis, term.channels[0], term.channels[1] - term.channels[0]) for x in (z, reference))
    z, reference = (x.transpose(axis, -1) for x in (z, reference))
    if term.kind is Kind.SQUARED_ERROR:
        if not term.scales:
            return 0.5 * (z - reference).flatten(1).square().sum(1)
        return 0.5 * ((z - reference) / torch.tensor(term.scales, dtype=z.dtype)).flatten(1).square().mean(1)
    if term.kind in (Kind.BERNOULLI, Kind.BERNOULLI_PROBABILITIES):
        # a score is a softmax over no and yes
        if term.kind is Kind.BERNOULLI:
            pairs = [torch.stack([torch.zeros_like(x), x], -1) for x in (z, reference)]
        else:
            pairs = [torch.stack([1 - x, x], -1).clamp_min(SMALLEST_PROBABILITY).log() for x in (z, reference)]
        z, reference = pairs
    elif term.kind is Kind.KL_PROBABILITIES:
        z, reference = (x.clamp_min(SMALLEST_PROBABILITY).log() for x in (z, reference))
    log_p, log_q = torch.log_softmax(reference, -1), torch.log_softmax(z, -1)
    p = log_p.exp()
    # a class that is masked in both has -inf in both; torch.where keeps its NaN out of the gradients too
    rise = torch.where(p > 0, log_p - log_q, torch.zeros_like(p)).clamp_max(LARGEST_CHANGE)
    return (p * rise).sum(-1).flatten(1).mean(1) if p.dim() > 2 else (p * rise).sum(-1)


class DisplacedNetwork:
    """One micro-batch of a network whose values named in `names` (initializers and activations) can be displaced."""

    def __init__(self, network: TorchNetwork, inputs: Mapping[str, Tensor], loss: Loss, names: Iterable[str]) -> None:
        self._network = network
        self._inputs = inputs
        self._loss = loss
        names = list(dict.fromkeys(names))
        self.values: dict[str, Tensor] = {n: network.parameters[n].detach() for n in names if n in network.parameters}
        self._weights = frozenset(self.values)

        def record(name: str, value: Tensor) -> Tensor:
            self.values[name] = value
            return value

        activations = [name for name in names if name not in self._weights]
        with torch.no_grad():
            outputs = network.run(inputs, through={name: partial(record, name) for name in activations})
        self._float_outputs = measured_outputs(network, loss, outputs)

    @classmethod
    def of(cls, subject: Subject, batch: MicroBatch, changes: Iterable[Change]) -> DisplacedNetwork:
        """The micro-batch with everything displaceable that these candidates change."""
        names = [name for change in changes for name in changed_names(change)]
        return cls(subject.network, batch.inputs, subject.loss, names)

    def errors(self, subject: Subject, change: Change) -> dict[str, Tensor]:
        """A candidate as displacements: `Q(W) - W`, or `Q(a) - a` at the float values."""
        if isinstance(change, WeightChange):
            error = torch.from_numpy(weight_error(subject, change))
            return {change.initializer: error.to(self.values[change.initializer])}
        return {name: activation_error(change, name, self.values[name]) for name in change.tensors}

    def losses(self, displacements: Displacements) -> Tensor:
        """The loss of every sample `[samples]`; what is not named stays where it is."""
        parameters = {n: self.values[n] + v for n, v in displacements.items() if n in self._weights}
        through = {n: partial(torch.add, v) for n, v in displacements.items() if n not in self._weights}
        outputs = measured_outputs(self._network, self._loss, self._network.run(self._inputs, parameters, through))
        return differentiable_loss(self._loss, outputs, self._float_outputs)

    def gradients(self, at: Displacements) -> dict[str, Tensor]:
        """`dF/dv` at the displacements `at`, for all that they name."""
        leaves = {name: value.detach().clone().requires_grad_() for name, value in at.items()}
        return _gradients(self.losses(leaves).sum(), leaves)


class Curvature:
    """Products of the Hessian of F at zero displacement with many vectors, from one differentiable gradient."""

    def __init__(self, displaced: DisplacedNetwork) -> None:
        self._zeros = {n: torch.zeros_like(value).requires_grad_() for n, value in displaced.values.items()}
        total = displaced.losses(self._zeros).sum()
        self._gradients = _gradients(total, self._zeros, create_graph=True)

    def times(self, direction: Displacements) -> dict[str, Tensor]:
        """`(H v)_n` of every displaceable value n, by differentiating `<dF, v>` once more; v is 0 where not named."""
        inner = torch.stack([(self._gradients[name] * value).sum() for name, value in direction.items()]).sum()
        return _gradients(inner, self._zeros, retain_graph=True)


def inner_product(one: Displacements, other: Displacements) -> float:
    """`<one, other>` over all that `one` names, summed in float64."""
    return sum((value.double() * other[name].double()).sum().item() for name, value in one.items())


def _gradients(
    total: Tensor, leaves: Displacements, *, create_graph: bool = False, retain_graph: bool | None = None
) -> dict[str, Tensor]:
    if not total.requires_grad:  # no path leads from there to an output of the loss
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(
        total,
        list(leaves.values()),
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(leaves, found, strict=True))
