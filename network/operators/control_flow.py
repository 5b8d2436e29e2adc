"""If, Loop and Scan: inner graphs run as often as the values say, and are differentiated through.

What an inner graph reads from outside comes after the inputs of the node, in the order of `Node.captured`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from network.errors import UnsupportedOperators
from network.operators.node import Node, Value
from network.operators.registry import operator


@operator("If", host=(0,), keeps_devices=True)
def branch(node: Node, condition: Tensor, *captured: Value) -> tuple[Value, ...]:
    """What the graph of the branch that `condition` chooses returns."""
    body = node.get("then_branch" if condition.item() else "else_branch")
    outputs: tuple[Value, ...] = body((), dict(zip(node.captured, captured, strict=True)))
    return outputs


@operator("Loop", host=(0, 1), keeps_devices=True)
def loop(node: Node, trips: Tensor | None, condition: Tensor | None, *given: Value) -> tuple[Value, ...]:
    """The last states, and of each further output of the body those of all iterations, [iterations, ...].

    The body takes the iteration, the condition and the states, and returns the condition, the states and the rest.
    """
    body = node.get("body")
    states, outer = _given(node, given)
    goes_on = torch.tensor(True) if condition is None else condition
    scanned: list[tuple[Value, ...]] = []
    for iteration in itertools.count() if trips is None else range(int(trips.item())):
        if not goes_on.item():
            break
        goes_on, *after = body((torch.tensor(iteration), goes_on, *states), outer)
        states = tuple(after[: len(states)])
        scanned.append(tuple(after[len(states) :]))
    if not scanned and len(body.outputs) - 1 > len(states):
        raise _never_runs(node)
    return *states, *(torch.stack(outputs) for outputs in zip(*scanned, strict=True))


@operator("Scan", since=9, keeps_devices=True)
def scan(node: Node, *given: Value) -> tuple[Value, ...]:
    """The last states, and of each further output of the body those for all slices of the inputs that are scanned."""
    body = node.get("body")
    first, outer = _given(node, given)
    count: int = node.get("num_scan_inputs")
    states, scanned = first[: len(first) - count], first[len(first) - count :]
    axes = node.get("scan_input_axes") or [0] * count
    backwards = node.get("scan_input_directions") or [0] * count
    slices = [_in_order(x.unbind(axis), way) for x, axis, way in zip(scanned, axes, backwards, strict=True)]
    made: list[tuple[Value, ...]] = []
    for parts in zip(*slices, strict=True):
        after = body((*states, *parts), outer)
        states = after[: len(states)]
        made.append(after[len(states) :])
    kinds = len(body.outputs) - len(states)
    if not made and kinds:
        raise _never_runs(node)
    axes = node.get("scan_output_axes") or [0] * kinds
    backwards = node.get("scan_output_directions") or [0] * kinds
    outputs = zip(zip(*made, strict=True), axes, backwards, strict=True) if kinds else ()
    return *states, *(torch.stack(_in_order(parts, way), axis) for parts, axis, way in outputs)


def _given(node: Node, given: Sequence[Value]) -> tuple[tuple[Value, ...], dict[str, Value]]:
    """The inputs of the node itself, and what its inner graphs read from outside by name."""
    own = len(given) - len(node.captured)
    return tuple(given[:own]), dict(zip(node.captured, given[own:], strict=True))


def _in_order(parts: tuple[Tensor, ...], backwards: int) -> tuple[Tensor, ...]:
    return parts[::-1] if backwards else parts


def _never_runs(node: Node) -> UnsupportedOperators:
    return UnsupportedOperators(
        f"{node.op_type} (node {node.name!r}) never runs its body, whose outputs have shapes that are not known then; "
        "expected at least one iteration"
    )
