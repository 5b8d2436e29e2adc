"""Normalisation by statistics: of the whole batch as trained, of a sample, of a channel, of a vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator

# Constant of the function body by which the specification defines MeanVarianceNormalization.
MEAN_VARIANCE_EPSILON = 1e-9


def _refuse_training(node: Node) -> str | None:
    if node.get("training_mode", 0) or (node.opset < 14 and node.output_count > 1):
        return "training mode; export the model for inference (model.eval())"
    return None


@operator("BatchNormalization", since=9, refuses=_refuse_training)
def batch_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias per channel (axis 1), with trained statistics."""
    factor = scale * torch.rsqrt(variance + node.get("epsilon", 1e-5))
    shift = bias - mean * factor
    per_channel = (-1,) + (1,) * (x.dim() - 2)
    return torch.addcmul(shift.reshape(per_channel), x, factor.reshape(per_channel))


@operator("LayerNormalization", since=17)
def layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    """Standardised over the axes from `axis` on, then scaled and shifted; with the mean and 1 / deviation if asked."""
    axes = _axes_from(node, x)
    epsilon = node.get("epsilon", 1e-5)
    normalized = x.shape[axes[0] :]
    fused = scale.shape == normalized and (bias is None or bias.shape == normalized)
    if fused:
        y = F.layer_norm(x, normalized, scale, bias, epsilon)
    else:
        y = F.layer_norm(x, normalized, None, None, epsilon) * scale
        y = y if bias is None else y + bias
    if node.output_count == 1:
        return (y,)
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return y, mean, torch.rsqrt(variance + epsilon)


@operator("RMSNormalization", since=23)
def rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """x / sqrt(mean of x² over the axes from `axis` on + epsilon) * scale."""
    mean_square = x.square().mean(_axes_from(node, x), keepdim=True)
    return x * torch.rsqrt(mean_square + node.get("epsilon", 1e-5)) * scale


@operator("InstanceNormalization")
def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each channel of each sample standardised over its spatial axes, then scale and bias [C]."""
    # F.instance_norm refuses one spatial element; as groups of one channel it is the same formula.
    return F.group_norm(x, x.shape[1], scale, bias, node.get("epsilon", 1e-5))


@operator("GroupNormalization", since=18)
def group_normalization_by_group(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """As of opset 18: scale and bias [num_groups]."""
    groups: int = node.get("num_groups")
    weights, biases = (p.repeat_interleave(x.shape[1] // groups) for p in (scale, bias))
    return F.group_norm(x, groups, weights, biases, node.get("epsilon", 1e-5))


@operator("GroupNormalization", since=21)
def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each group of channels of each sample standardised together, then scale and bias [C]."""
    return F.group_norm(x, node.get("num_groups"), scale, bias, node.get("epsilon", 1e-5))


@operator("LpNormalization")
def lp_normalization(node: Node, x: Tensor) -> Tensor:
    """x / (sum |x|^p)^(1/p) along `axis` for p = 1 or 2; a zero vector stays zero."""
    axis = node.get("axis", -1)
    if node.get("p", 2) == 1:
        norm = x.abs().sum(axis, keepdim=True)
        return x / torch.where(norm == 0, torch.ones_like(norm), norm)
    # The square root only ever sees a positive number: its derivative at 0 is infinite.
    square = x.square().sum(axis, keepdim=True)
    return x * torch.rsqrt(torch.where(square == 0, torch.ones_like(square), square))


@operator("MeanVarianceNormalization", since=9)
def mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    """(x - mean) / (deviation + 1e-9) over `axes`."""
    axes = node.get("axes", [0, 2, 3])
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / (torch.sqrt(variance) + MEAN_VARIANCE_EPSILON)


def _refuse_even(node: Node) -> str | None:
    # torch and ONNX put the odd channel of an even window on opposite sides; ONNX Runtime knows odd sizes only.
    return f"the even size {node.get('size')}" if node.get("size") % 2 == 0 else None


@operator("LRN", refuses=_refuse_even)
def local_response_normalization(node: Node, x: Tensor) -> Tensor:
    """x / (bias + alpha / size * sum of x² over `size` neighbouring channels)^beta."""
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return F.local_response_norm(x, node.get("size"), alpha, beta, bias)


def _axes_from(node: Node, x: Tensor) -> list[int]:
    """The axes from `axis` to the last."""
    first: int = node.get("axis", -1)
    return list(range(first % x.dim(), x.dim()))
