"""Activation functions. Defaults of attributes are those of the ONNX specification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator

SELU_ALPHA = 1.67326319217681884765625
SELU_GAMMA = 1.05070102214813232421875

# From here on softplus(x) is x to the last bit of float64: log1p(exp(-40)) / 40 is below its unit roundoff.
SOFTPLUS_LINEAR_FROM = 40.0


@operator("LeakyRelu", since=6)
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.get("alpha", 0.01))


@operator("PRelu", since=7)
def prelu(_: Node, x: Tensor, slope: Tensor) -> Tensor:
    """x, or slope * x where x < 0; the slope broadcasts to x."""
    return torch.where(x < 0, slope * x, x)


@operator("ThresholdedRelu", since=10)
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return F.threshold(x, node.get("alpha", 1.0), 0.0)


@operator("Elu")
def elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.get("alpha", 1.0))


@operator("Selu", since=6)
def selu(node: Node, x: Tensor) -> Tensor:
    gamma: float = node.get("gamma", SELU_GAMMA)
    return gamma * F.elu(x, node.get("alpha", SELU_ALPHA))


@operator("Celu", since=12)
def celu(node: Node, x: Tensor) -> Tensor:
    return F.celu(x, node.get("alpha", 1.0))


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(x * node.get("alpha", 0.2) + node.get("beta", 0.5), 0.0, 1.0)


@operator("Softplus")
def softplus(_: Node, x: Tensor) -> Tensor:
    return F.softplus(x, beta=1.0, threshold=SOFTPLUS_LINEAR_FROM)


@operator("Gelu", since=20)
def gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


@operator("Swish", since=24)
def swish(node: Node, x: Tensor) -> Tensor:
    alpha = node.get("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("SwiGLU", since=28)
def gated_swish(node: Node, gate: Tensor, x: Tensor) -> Tensor:
    """Swish of the gate times x."""
    return swish(node, gate) * x


@operator("Shrink", since=9)
def shrink(node: Node, x: Tensor) -> Tensor:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


# Before opset 13 the softmax family flattens the axes from `axis` on; those versions have no rule.
@operator("Softmax", since=13)
def softmax(node: Node, x: Tensor) -> Tensor:
    return torch.softmax(x, node.get("axis", -1))


@operator("LogSoftmax", since=13)
def log_softmax(node: Node, x: Tensor) -> Tensor:
    return torch.log_softmax(x, node.get("axis", -1))


@operator("Hardmax", since=13)
def hardmax(node: Node, x: Tensor) -> Tensor:
    """One at the first largest element along `axis`, else zero."""
    axis = node.get("axis", -1)
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)
