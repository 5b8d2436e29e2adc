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
from network.operators.registry import operator

Activation = Callable[[Tensor], Tensor]
States = tuple[Tensor, ...]
Cell = Callable[[Tensor, States], States]
"""One step: what the inputs give to the gates `[samples, gates * hidden]`, and the states before; the states after it,
that which is the output first."""

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


@operator("LSTM", since=7, refuses=_refuses)
def lstm(
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
    """Y, the last hidden states, the last cell states. Gates lie in the order input, output, forget, cell."""
    size = r.shape[2]

    def cell(direction: int) -> Cell:
        squash, candidate, shown = _activations(node, direction)
        recurrent, (input_bias, bias) = r[direction].mT, _biases(b, direction, w)
        look = None if peepholes is None else torch.split(peepholes[direction], size)

        def step(given: Tensor, states: States) -> States:
            state, memory = states
            i, o, f, c = torch.split(given + input_bias + state @ recurrent + bias, size, dim=1)
            if look is not None:
                i, f = i + look[0] * memory, f + look[2] * memory
            memory = squash(f) * memory + squash(i) * candidate(c)
            if look is not None:
                o = o + look[1] * memory
            return squash(o) * shown(memory), memory

        return step

    return _unrolled(node, x, w, cell, lengths, (_initial(hidden, x, r), _initial(cells, x, r)))


@operator("GRU", since=7, refuses=_refuses)
def gru(
    node: Node,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Y and the last hidden states. Gates lie in the order update, reset, hidden."""
    size = r.shape[2]
    resets_product = bool(node.get("linear_before_reset", 0))

    def cell(direction: int) -> Cell:
        squash, candidate = _activations(node, direction)
        gates, hidden_gate = torch.split(r[direction].mT, [2 * size, size], dim=1)
        input_bias, bias = _biases(b, direction, w)

        def step(given: Tensor, states: States) -> States:
            (state,) = states
            wanted, new = torch.split(given + input_bias, [2 * size, size], dim=1)
            update, reset = torch.split(squash(wanted + state @ gates + bias[: 2 * size]), size, dim=1)
            if resets_product:
                new = candidate(new + reset * (state @ hidden_gate + bias[2 * size :]))
            else:
                new = candidate(new + (reset * state) @ hidden_gate + bias[2 * size :])
            return ((1 - update) * new + update * state,)

        return step

    return _unrolled(node, x, w, cell, lengths, (_initial(hidden, x, r),))


@operator("RNN", since=7, refuses=_refuses)
def rnn(
    node: Node,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Y and the last hidden states."""

    def cell(direction: int) -> Cell:
        (activation,) = _activations(node, direction)
        recurrent, (input_bias, bias) = r[direction].mT, _biases(b, direction, w)
        return lambda given, states: (activation(given + input_bias + states[0] @ recurrent + bias),)

    return _unrolled(node, x, w, cell, lengths, (_initial(hidden, x, r),))


def _activations(node: Node, direction: int) -> Sequence[Activation]:
    defaults = _DEFAULTS[node.op_type]
    names = node.get("activations") or defaults * len(_backwards(node))
    own = names[direction * len(defaults) : (direction + 1) * len(defaults)]
    return [_ACTIVATIONS[name.lower()] for name in own]


def _backwards(node: Node) -> tuple[bool, ...]:
    return _BACKWARDS[node.get("direction", "forward")]


def _biases(b: Tensor | None, direction: int, w: Tensor) -> tuple[Tensor, Tensor]:
    """Those that come with the inputs and with the states, `[gates * hidden]` each."""
    if b is None:
        return w.new_zeros(w.shape[1]), w.new_zeros(w.shape[1])
    of_inputs, of_states = b[direction].chunk(2)
    return of_inputs, of_states


def _initial(given: Tensor | None, x: Tensor, r: Tensor) -> Tensor:
    return x.new_zeros((r.shape[0], x.shape[1], r.shape[2])) if given is None else given


def _unrolled(
    node: Node,
    x: Tensor,
    w: Tensor,
    cell: Callable[[int], Cell],
    lengths: Tensor | None,
    initial: States,
) -> tuple[Tensor, ...]:
    """Y, and of each kind of state the last one: a sample's states rest beyond its length, and its outputs are 0."""
    outputs: list[Tensor] = []
    ends: list[States] = []
    for direction, backwards in enumerate(_backwards(node)):
        step, given = cell(direction), x @ w[direction].mT
        states: States = tuple(state[direction] for state in initial)
        shown: list[Tensor] = []
        for place in reversed(range(len(x))) if backwards else range(len(x)):
            after = step(given[place], states)
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
