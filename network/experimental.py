"""Operators that old files have in the domain of the standard, although they were only an experiment there.

ONNX Runtime runs them in files of old opsets; converters from Core ML and Caffe wrote them, and ONNX Runtime itself
`LayerNormalization`. That and `ThresholdedRelu` became operators of the standard, the others stand here as what they
compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import TensorProto

from network.old_nodes import OldNode


def _affine(old: OldNode) -> None:
    """alpha * x + beta"""
    x = old.input(0)
    scaled = old.add("Mul", x, old.made_like(old.given.get("alpha", 1.0), x))
    old.end("Add", scaled, old.made_like(old.given.get("beta", 0.0), x))


def _crop(old: OldNode) -> None:
    """Of `[N, C, H, W]` without the border (left, top, right, bottom), or of `scale` (height, width) behind its left
    and its top."""
    left, top, right, bottom = old.given["border"]
    end = [-bottom or _FAR, -right or _FAR]
    if "scale" in old.given:
        height, width = old.given["scale"]
        end = [top + height, left + width]
    old.end("Slice", old.input(0), old.made([top, left]), old.made(end), old.made([2, 3]))


def _image_scaler(old: OldNode) -> None:
    """scale * x + bias of its channel"""
    x = old.input(0)
    scaled = old.add("Mul", x, old.made_like(old.given.get("scale", 1.0), x))
    bias = np.reshape(old.given.get("bias", [0.0]), (-1, 1, 1))
    old.end("Add", scaled, old.made(bias, old.type_of(x) or TensorProto.FLOAT))


def _parametric_softplus(old: OldNode) -> None:
    """alpha * log(exp(beta * x) + 1)"""
    x = old.input(0)
    softplus = old.add("Softplus", old.add("Mul", x, old.made_like(old.given.get("beta", 1.0), x)))
    old.end("Mul", softplus, old.made_like(old.given.get("alpha", 1.0), x))


def _scale(old: OldNode) -> None:
    """scale * x"""
    x = old.input(0)
    old.end("Mul", x, old.made_like(old.given.get("scale", 1.0), x))


def _scaled_tanh(old: OldNode) -> None:
    """alpha * tanh(beta * x)"""
    x = old.input(0)
    tanh = old.add("Tanh", old.add("Mul", x, old.made_like(old.given.get("beta", 1.0), x)))
    old.end("Mul", tanh, old.made_like(old.given.get("alpha", 1.0), x))


def _unchanged(old: OldNode) -> None:
    old.end(old.node.op_type, *old.node.input, **old.given)


_FAR = 1 << 31  # behind the end of any axis

EXPERIMENTAL: Mapping[str, tuple[int, Callable[[OldNode], None]]] = {
    "Affine": (10, _affine),
    "Crop": (10, _crop),
    "ImageScaler": (10, _image_scaler),
    "LayerNormalization": (17, _unchanged),
    "ParametricSoftplus": (10, _parametric_softplus),
    "Scale": (10, _scale),
    "ScaledTanh": (10, _scaled_tanh),
    "ThresholdedRelu": (10, _unchanged),
}
"""From which opset on ONNX Runtime has none, or the standard has it, and what writes it as operators of opset 18."""
