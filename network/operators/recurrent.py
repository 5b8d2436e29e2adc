"""LSTM, GRU and RNN, step by step, so that they can be differentiated twice.

Shapes: X `[steps, samples, inputs]`, W and R `[directions, gates * hidden, inputs or hidden]`, B
`[directions, 2 * gates * hidden]`, states `[directions, samples, hidden]`, Y `[steps, directions, samples, hidden]`.
Source: ONNX operator specification. ONNX Runtime (1.31) has no layout 1 on the CPU, so that none is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import Compute, operator

Activation = Callable[[Tensor], Tensor]
States = tuple[Tensor, ...]
Step = Callable[[Tensor, States], States]
"""What the inputs and their bias give to the gates `[samples, gates * hidden]`, and the states before; the states after
it, that which is the output first."""
Cell = Callable[[Node, Sequence[Activation], Tensor, Tensor, Tensor | None], Step]
"""The step of one direction, from the activations, R' `[hidden, gates * hidden]`, the bias that comes with the states
`[gates * hidden]`, and the peepholes `[3 * hidden]`."""

_ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
)
_DEFAULTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
)
_BACKWARDS: Mapping[str, tuple[bool, ...]] = MappingProxyType(
    {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
)


def _refuses(node: Node) -> str | None:
    if unknown := [name for name in node.get("activations", ()) if name.lower() not in _ACTIVATIONS]:
        return f"the activation {unknown[0]}"
    if node.get("clip") is not None:
        return "clip"
    if node.get("input_forget", 0):
        return "input_forget=1"
    return "layout=1" if node.get("layout", 0) else None


def _lstm(
    _: Node, activations: Sequence[Activation], recurrent: Tensor, bias: Tensor, peepholes: Tensor | None
) -> Step:
    """Gates lie in the order input, output, forget, cell; the states are the hidden ones and the cells."""
    squash, candidate, shown = activations
    size = len(recurrent)
    look = None if peepholes is None else torch.split(peepholes, size)

    def step(given: Tensor, states: States) -> States:
        state, memory = states
        i, o, f, c = torch.split(given + state @ recurrent + bias, size, dim=1)
        if look is not None:
            i, f = i + look[0] * memory, f + look[2] * memory
        memory = squash(f) * memory + squash(i) * candidate(c)
        if look is not None:
            o = o + look[1] * memory
        return squash(o) * shown(memory), memory

    return step


def _gru(
    node: Node, activations: Sequence[Activation], recurrent: Tensor, bias: Tensor, _peepholes: Tensor | None
) -> Step:
    """Gates lie in the order update, reset, hidden."""
    squash, candidate = activations
    size = len(recurrent)
    gates, hidden_gate = torch.split(recurrent, [2 * size, size], dim=1)
    resets_product = bool(node.get("linear_before_reset", 0))

    def step(given: Tensor, states: States) -> States:
        (state,) = states
        wanted, new = torch.split(given, [2 * size, size], dim=1)
        update, reset = torch.split(squash(wanted + state @ gates + bias[: 2 * size]), size, dim=1)
        if resets_product:
            new = candidate(new + reset * (state @ hidden_gate + bias[2 * size :]))
        else:
            new = candidate(new + (reset * state) @ hidden_gate + bias[2 * size :])
        return ((1 - update) * new + update * state,)

    return step


def _rnn(
    _: Node, activations: Sequence[Activation], recurrent: Tensor, bias: Tensor, _peepholes: Tensor | None
) -> Step:
    (activation,) = activations
    return lambda given, states: (activation(given + states[0] @ recurrent + bias),)


def _unrolled(cell: Cell, state_kinds: int) -> Compute:
    """Y, and of each kind of state the last one: a sample's states rest beyond its length, and its outputs are 0."""

    def compute(
        node: Node,
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        hidden: Tensor | None = None,
        cells: Tensor | None = None,
        peepholes: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        zeros = x.new_zeros((r.shape[0], x.shape[1], r.shape[2]))
        initial = [zeros if state is None else state for state in (hidden, cells)[:state_kinds]]
        biases = w.new_zeros(w.shape[0], 2 * w.shape[1]) if b is None else b
        outputs: list[Tensor] = []
        ends: list[States] = []
        for direction, backwards in enumerate(_BACKWARDS[node.get("direction", "forward")]):
            input_bias, bias = biases[direction].chunk(2)
            look = None if peepholes is None else peepholes[direction]
            step = cell(node, _activations(node, direction), r[direction].mT, bias, look)
            given = x @ w[direction].mT
            states: States = tuple(state[direction] for state in initial)
            shown: list[Tensor] = []
            for place in reversed(range(len(x))) if backwards else range(len(x)):
                after = step(given[place] + input_bias, states)
                output = after[0]
                if lengths is not None:
                    lasts = (place < lengths)[:, None]
                    after = tuple(torch.where(lasts, new, old) for new, old in zip(after, states, strict=True))
                    output = torch.where(lasts, output, torch.zeros_like(output))
                states = after
                shown.append(output)
            outputs.append(torch.stack(shown[::-1] if backwards else shown))
            ends.append(states)
        return torch.stack(outputs, 1), *(torch.stack(kind) for kind in zip(*ends, strict=True))

    return compute


def _activations(node: Node, direction: int) -> Sequence[Activation]:
    """Those of a direction: two directions that name none of their own have the same."""
    defaults = _DEFAULTS[node.op_type]
    names = node.get("activations")
    own = names[direction * len(defaults) : (direction + 1) * len(defaults)] if names else defaults
    return [_ACTIVATIONS[name.lower()] for name in own]


for _name, _cell, _state_kinds in (("LSTM", _lstm, 2), ("GRU", _gru, 1), ("RNN", _rnn, 1)):
    operator(_name, since=7, refuses=_refuses)(_unrolled(_cell, _state_kinds))
