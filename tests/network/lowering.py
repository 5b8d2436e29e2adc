"""Models at older opsets, as onnx's checker takes them."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from network.opset import lower


def lowered(model: ModelProto, opset: int) -> ModelProto:
    """A copy at `opset`, that onnx's checker takes."""
    copy = ModelProto()
    copy.CopyFrom(model)
    lower(copy, opset)
    onnx.checker.check_model(copy, full_check=True)
    return copy
