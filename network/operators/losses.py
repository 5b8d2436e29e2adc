"""Losses over classes, which some files have in their graph.

Shapes: x [N, C, ...], target [N, ...] the class of each, weight [C].
"""

from __future__ import annotations

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator


@operator("NegativeLogLikelihoodLoss", since=12)
def negative_log_likelihood_loss(node: Node, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """-x at the class of each element, times the weight of the class; their mean by weight, their sum, or all."""
    given = node.get("ignore_index")
    ignored = torch.zeros_like(target, dtype=torch.bool) if given is None else target == given
    classes = torch.where(ignored, torch.zeros_like(target), target).long()
    shares = x.new_ones(target.shape) if weight is None else weight[classes]
    shares = torch.where(ignored, torch.zeros_like(shares), shares)
    losses = -x.gather(1, classes.unsqueeze(1)).squeeze(1) * shares
    reduction = node.get("reduction", "mean")
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / shares.sum()


@operator("SoftmaxCrossEntropyLoss", since=12)
def softmax_cross_entropy_loss(
    node: Node, x: Tensor, target: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The loss of log_softmax(x), and these."""
    logarithms = torch.log_softmax(x, 1)
    return negative_log_likelihood_loss(node, logarithms, target, weight), logarithms
