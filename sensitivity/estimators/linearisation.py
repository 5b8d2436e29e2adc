"""The network to first order around its float weights, one micro-batch at a time.

A candidate changes values of the network: a weight, or the output of every node that uses the weight, or activations.
With `d_v` the change of the value v *alone* (everything before it is float), the outputs change by `sum_v J_v d_v` to
first order, J_v the Jacobian through all that comes after v. So a candidate is a set of pairs (v, d_v), whatever its
kind, and each method needs gradients in the v and the d_v only. Two places for the v of a weight:

- `Place.WEIGHT`: v is the weight, d_v its rounding error. One gradient for the whole batch.
- `Place.OUTPUT`: v is the output of each use, d_v comes from a forward pass of that one node: what the rounded weight
  changes there when the node's inputs are float. The gradient in v still knows the samples apart, though no gradient
  in the weight of a single sample is ever made.

A site of several activations, one of which lies behind another, is linearised too: each is rounded at its float value,
and the change that arrives from the one before passes through (straight-through).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from network.operators.node import tensor_of
from network.sites import RECURRENT
from network.steps import Step, compile_steps
from sensitivity.estimate import ActivationChange, Change, Subject, WeightChange
from sensitivity.estimators.sample_layout import SampleLayout, batch_is_free, sample_layouts
from sensitivity.traces import gradients_of, measured_outputs, tensors_of

# Where the samples of a batch cannot be told apart, a batch is one draw, and a spread needs several.
FEWEST_DRAWS = 8


class Place(Enum):
    """Where the change of a weight is looked at."""

    WEIGHT = "weight"
    OUTPUT = "output"


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Some samples; `before` and `after` are the fractions of all samples up to their ends."""

    subject: Subject
    span: slice

    @property
    def inputs(self) -> dict[str, Tensor]:
        """On the network's device."""
        arrays = {name: array[self.span] for name, array in self.subject.inputs.items()}
        return tensors_of(self.subject.network, arrays)

    @property
    def samples(self) -> int:
        return self.span.stop - self.span.start  # type: ignore[no-any-return]

    @property
    def before(self) -> float:
        return self.span.start / self.subject.samples  # type: ignore[no-any-return]

    @property
    def after(self) -> float:
        return self.span.stop / self.subject.samples  # type: ignore[no-any-return]


def micro_batches(subject: Subject, fewest: int = 1) -> list[MicroBatch]:
    """All samples in order, at most `subject.batch` at once; at least `fewest` batches, if the batch size is free."""
    size, total = subject.batch, subject.samples
    if batch_is_free(subject.network):
        size = min(size, max(total // fewest, 1))
    return [MicroBatch(subject, slice(start, min(start + size, total))) for start in range(0, total, size)]


def weight_error(subject: Subject, change: WeightChange) -> NDArray[np.float64]:
    """`Q(W) - W` in the shape of the initializer.

    Raises:
        ValueError: the values have another shape.
    """
    weight = subject.network.parameters[change.initializer].detach().cpu().double().numpy()
    values = change.values()
    if values.shape != weight.shape:
        raise ValueError(
            f"candidate {change.format} of {change.site!r} has values of shape {values.shape}, expected "
            f"{weight.shape}: the shape of the initializer {change.initializer!r}"
        )
    return np.asarray(values.astype(np.float64) - weight)


def activation_error(change: ActivationChange, name: str, value: Tensor) -> Tensor:
    """`Q(a) - a` of the named value, in its shape and type.

    Raises:
        ValueError: the rounding gives another shape.
    """
    array = value.detach().cpu().float().numpy()
    rounded = change.rounded(name, array.copy())  # which the rounding may overwrite
    return torch.from_numpy(rounded.astype(np.float64) - array).to(value)


@dataclass(frozen=True, eq=False)
class Linearised:
    """One micro-batch: the float outputs of the loss by name, the values that candidates change, and all that was
    recorded on the way."""

    outputs: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    recorded: Mapping[str, Tensor]

    def gradients(
        self, weighted: Mapping[str, Tensor], *, of: Sequence[str] | None = None, differentiable: bool = False
    ) -> dict[str, Tensor]:
        """`sum_o J_{o,v}' weighted_o` of every value v; zero where no output depends on v.

        Unless they are `differentiable` or `of` some values only, they can be taken once.
        """
        values = self.values if of is None else {name: self.values[name] for name in of}
        gradients = gradients_of(
            self.outputs,
            weighted,
            list(values.values()),
            retain_graph=differentiable or of is not None,
            create_graph=differentiable,
        )
        return dict(zip(values, gradients, strict=True))


class Linearisation:
    """The values that the candidates change, and how.

    Args:
        subject: what is estimated.
        changes: those of its candidates that the method covers.
        place: where the changes of weights are looked at.

    Raises:
        ValueError: there are no candidates.
    """

    def __init__(self, subject: Subject, changes: Sequence[Change], place: Place) -> None:
        if not changes:
            raise ValueError("there is no candidate to estimate; expected at least one that the method covers")
        self._subject = subject
        self._network = subject.network
        self._place = place
        self._weights = {change.initializer for change in changes if isinstance(change, WeightChange)}
        self._uses: dict[str, list[Step]] = {name: [] for name in self._weights}
        activations = {n for change in changes if not isinstance(change, WeightChange) for n in change.tensors}
        self._changed, read = activations, set[str]()
        if place is Place.OUTPUT:
            for step in compile_steps(self._network.network, self._network.dtype):
                for name in self._weights.intersection(step.inputs):
                    self._uses[name].append(step)
                    self._changed = self._changed | {output for output in step.outputs if output}
                    read.update(step.inputs)
        made = {spec.name for spec in self._network.network.inputs}
        made.update(name for node in self._network.network.proto.graph.node for name in node.output)
        self._recorded = self._changed | (read & made)

    @cached_property
    def layouts(self) -> Mapping[str, SampleLayout]:
        """Where the samples lie in each value; missing for one in which they cannot be told apart."""
        if self._subject.batch == 1:  # every micro-batch is one sample as it is
            return {}
        return sample_layouts(self._network, self._subject.inputs, self._changed)

    def batches(self) -> list[MicroBatch]:
        """The micro-batches, several of them where a batch is one draw."""
        apart = len(self.layouts) == len(self._changed) and (self._place is Place.OUTPUT or not self._weights)
        return micro_batches(self._subject, 1 if apart else FEWEST_DRAWS)

    def at(self, inputs: Mapping[str, Tensor]) -> Linearised:
        """One forward pass that keeps what gradients in the changed values need."""
        recorded: dict[str, Tensor] = {}

        def record(name: str, value: Tensor) -> Tensor:
            if name in self._changed and value.is_floating_point() and not value.requires_grad:
                value = value.detach().requires_grad_()
            recorded[name] = value
            return value

        weights = self._weights if self._place is Place.WEIGHT else set[str]()
        parameters = {
            name: tensor.detach().requires_grad_(name in weights) for name, tensor in self._network.parameters.items()
        }
        through = {name: partial(record, name) for name in self._recorded}
        outputs = measured_outputs(self._network, self._subject.loss, self._network.run(inputs, parameters, through))
        values = {name: recorded[name] for name in sorted(self._changed) if recorded[name].is_floating_point()}
        values |= {name: parameters[name] for name in sorted(weights)}
        return Linearised(outputs, values, recorded)

    def deltas(self, change: Change, linearised: Linearised) -> dict[str, Tensor]:
        """`d_v` of every value v that the candidate changes, in the shape of v."""
        with torch.no_grad():
            if not isinstance(change, WeightChange):
                return {name: activation_error(change, name, linearised.recorded[name]) for name in change.tensors}
            weight = self._network.parameters[change.initializer]
            error = torch.from_numpy(weight_error(self._subject, change)).to(weight)
            if self._place is Place.WEIGHT:
                return {change.initializer: error}
            deltas: dict[str, Tensor] = {}
            for step in self._uses[change.initializer]:
                deltas |= self._change_of_outputs(step, change.initializer, error, linearised.recorded)
            return {name: delta for name, delta in deltas.items() if delta.is_floating_point()}

    def _change_of_outputs(
        self, step: Step, weight: str, error: Tensor, recorded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What `W + error` changes at the outputs of one node."""
        operands = [self._operand(step, i, name, recorded) for i, name in enumerate(step.inputs)]
        linear = step.layer is not None and step.layer.op_type not in RECURRENT
        if linear and step.inputs.count(weight) == 1:
            # It is linear in its weight: without the bias, which comes third, it makes of the error the change.
            alone = [error if name == weight else x for name, x in zip(step.inputs[:2], operands, strict=False)]
            return {step.outputs[0]: step.rule(step.node, alone)[0]}
        changed = [
            x + error if x is not None and name == weight else x for name, x in zip(step.inputs, operands, strict=True)
        ]
        before, after = step.rule(step.node, operands), step.rule(step.node, changed)
        return {name: b - a for name, a, b in zip(step.outputs, before, after, strict=False) if name}

    def _operand(self, step: Step, index: int, name: str, recorded: Mapping[str, Tensor]) -> Tensor | None:
        if not name:
            return None
        if name in recorded:
            value = recorded[name].detach()
        elif name in self._network.parameters:
            value = self._network.parameters[name].detach()
        else:
            value = tensor_of(self._network.network.initializers[name], self._network.dtype)
        return value if index in step.rule.host else value.to(self._network.device)

    def rows(self, name: str, value: Tensor, samples: int) -> Tensor:
        """The elements of each unit, `[units, elements]` in float64: a sample, or where not known apart, the batch."""
        layout = self.layouts.get(name)
        return (value.reshape(1, -1) if layout is None else layout.rows(value, samples)).double()


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The sum of several values' sums over units `[units]`; over the batch, if one of them has it as its only unit."""
    units = min(len(part) for part in parts)
    return torch.stack([part if len(part) == units else part.sum(0, keepdim=True) for part in parts]).sum(0)
