"""A small network that knows digits, made within a second: three layers of fixed filters, and one that was fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

FITTED_IMAGES = 700


def write_digits(folder: Path) -> tuple[Path, Path]:
    """`digits.onnx` (four layers with weights) and `digits.npz` (the images that the fit did not see), and both paths.

    The last layer is fitted in closed form to what the random filters before it find in 8 x 8 pixels.
    """
    generator = np.random.default_rng(0)
    digits = load_digits()
    order = generator.permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    filters = [
        (generator.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        for shape in ((16, 1, 3, 3), (32, 16, 3, 3), (48, 32, 3, 3))
    ]
    session = onnxruntime.InferenceSession(_model(filters, None).SerializeToString())
    (features,) = session.run(None, {"image": images[:FITTED_IMAGES]})
    features = features.astype(np.float64)
    targets = 12 * np.eye(10)[labels[:FITTED_IMAGES]]
    fitted = np.linalg.solve(features.T @ features + 30 * np.eye(features.shape[1]), features.T @ targets)
    model, data = folder / "digits.onnx", folder / "digits.npz"
    model.write_bytes(_model(filters, fitted.astype(np.float32)).SerializeToString())
    np.savez(data, image=images[FITTED_IMAGES:], labels=labels[FITTED_IMAGES:])
    return model, data


def _model(filters: list[NDArray[np.float32]], fitted: NDArray[np.float32] | None) -> ModelProto:
    """The network; without `fitted` it gives its features."""
    nodes, last = [], "image"
    for number, stride in enumerate((1, 2, 1), 1):
        convolved, rectified = f"convolved{number}", f"rectified{number}"
        nodes.append(
            helper.make_node(
                "Conv",
                [last, f"conv{number}.weight"],
                [convolved],
                name=f"conv{number}",
                pads=[1] * 4,
                strides=[stride] * 2,
            )
        )
        nodes.append(helper.make_node("Relu", [convolved], [rectified]))
        last = rectified
    nodes.append(helper.make_node("Flatten", [last], ["features"]))
    weights = [numpy_helper.from_array(kernel, f"conv{number}.weight") for number, kernel in enumerate(filters, 1)]
    output, width = "features", 48 * 4 * 4
    if fitted is not None:
        nodes.append(helper.make_node("MatMul", ["features", "fc.weight"], ["logits"], name="fc"))
        weights.append(numpy_helper.from_array(fitted, "fc.weight"))
        output, width = "logits", 10
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", width])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
