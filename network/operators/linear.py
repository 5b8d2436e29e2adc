"""Matrix products: Gemm, MatMul, Einsum; and the determinant."""

from __future__ import annotations

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator


@operator("Gemm", since=7)
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha * A' B' + beta * C with A' [M, K], B' [K, N] after `transA`, `transB`, and C broadcast to [M, N]."""
    if node.get("transA", 0):
        a = a.t()
    if node.get("transB", 0):
        b = b.t()
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if c is not None:
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)
    product = a @ b
    return product if alpha == 1.0 else product * alpha


@operator("MatMul")
def matmul(_: Node, a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of the last two axes, the others broadcast, as numpy.matmul."""
    return torch.matmul(a, b)


@operator("Einsum", since=12)
def einsum(node: Node, *operands: Tensor) -> Tensor:
    """The sum of products that the attribute `equation` writes in Einstein's convention."""
    return torch.einsum(node.get("equation"), *operands)


@operator("Det", since=11)
def determinant(_: Node, x: Tensor) -> Tensor:
    """Of the matrices in the last two axes."""
    value: Tensor = torch.linalg.det(x)
    return value
