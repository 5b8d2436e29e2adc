"""Unsigned integers of more than 8 bits, with which torch does not calculate: they are computed in int64.

Results wrap as those of the type itself do: a type of 64 bits shares its bits with int64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

import torch
from torch import Tensor

from network.errors import UnsupportedOperators
from network.operators.node import Node
from network.operators.registry import Compute

_UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})


def through_int64(compute: Callable[..., Tensor]) -> Compute:
    """The rule `compute`, whose unsigned operands of more than 8 bits come as int64; what it makes of that type has
    theirs again."""

    @wraps(compute)
    def wrapped(node: Node, *operands: Tensor | None) -> Tensor:
        unsigned = next((x.dtype for x in operands if x is not None and x.dtype in _UNSIGNED), None)
        if unsigned is None:
            return compute(node, *operands)
        result = compute(node, *_signed(node, operands))
        return result.to(unsigned) if result.dtype == torch.int64 else result

    return wrapped


def _signed(node: Node, operands: Sequence[Tensor | None]) -> list[Tensor | None]:
    signed = [x.to(torch.int64) if x is not None and x.dtype in _UNSIGNED else x for x in operands]
    for before, after in zip(operands, signed, strict=True):
        if before is not None and after is not None and before.dtype == torch.uint64 and bool((after < 0).any()):
            raise UnsupportedOperators(
                f"{node.op_type} (node {node.name!r}) has integers of 2^63 or more, which are not computed here; "
                "export the model with int64"
            )
    return signed
