"""Which rule computes an operator of ONNX: keyed by operator and the opset that introduced the rule's meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from network.operators.node import Node, Value

Compute = Callable[..., Tensor | tuple[Value, ...]]
Registered = TypeVar("Registered", bound=Compute)
Refusal = Callable[[Node], str | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """How torch computes an operator from opset `since` on.

    `compute(node, *inputs)` takes the inputs by position, `None` for an optional one that is left out, and returns
    the output, or a tuple when there are several. `host` lists the inputs that are read as Python numbers (shapes,
    axes): they stay in CPU memory when the network runs elsewhere. `refuses(node)` says why a node of this
    operator cannot be computed (an attribute value without an implementation), or None. With `keeps_devices` operands
    stay where they are: inner graphs read numbers and tensors.
    """

    op_type: str
    since: int
    compute: Compute
    host: frozenset[int]
    refuses: Refusal | None
    keeps_devices: bool

    def __call__(self, node: Node, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        outputs = self.compute(node, *inputs)
        return (outputs,) if isinstance(outputs, Tensor) else outputs


RULES: dict[str, dict[int, Rule]] = {}
"""By operator and first opset, in order of registration."""


def operator(
    op_type: str,
    *,
    since: int = 1,
    host: Sequence[int] = (),
    refuses: Refusal | None = None,
    keeps_devices: bool = False,
) -> Callable[[Registered], Registered]:
    """Registers the decorated function as the rule of `op_type` from opset `since` on.

    `since` is the first opset whose meaning the function has; a later version of the operator that only adds
    element types or optional inputs needs no rule of its own.

    Raises:
        ValueError: another rule of the operator begins at the same opset.
    """

    def register(compute: Registered) -> Registered:
        versions = RULES.setdefault(op_type, {})
        if since in versions:
            raise ValueError(f"operator {op_type!r} has two rules since opset {since}")
        versions[since] = Rule(op_type, since, compute, frozenset(host), refuses, keeps_devices)
        return compute

    return register


def lookup(op_type: str, opset: int) -> Rule | None:
    """The rule with the highest `since` that is at most `opset`, or None."""
    versions = RULES.get(op_type, {})
    since = max((version for version in versions if version <= opset), default=None)
    return None if since is None else versions[since]
