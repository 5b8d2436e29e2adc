"""Small float networks for quantized files, trained on digits, written with BatchNormalization still in them."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from examples.networks import TRAINING_IMAGES, DigitsTransformer, digits, save, train

_OPSET = 21
_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class FloatNetwork:
    """A float model with samples that its training did not see: inputs by name, and `labels`."""

    name: str
    model: onnx.ModelProto
    samples: Arrays

    @property
    def inputs(self) -> Arrays:
        return {name: values for name, values in self.samples.items() if name != "labels"}


class _Convolutional(nn.Module):
    """Four convolutions, the last two of one shape, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        for name, (inputs, outputs, stride) in zip(
            _CONVOLUTIONS, ((1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1)), strict=True
        ):
            self.add_module(name, nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False))
            self.add_module(f"bn_{name}", nn.BatchNorm2d(outputs))
        self.fc = nn.Linear(32, 10)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        for name in _CONVOLUTIONS:
            x = F.relu(self.get_submodule(f"bn_{name}")(self.get_submodule(name)(x)))
        return x.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))


class _Perceptron(nn.Module):
    """Four linear layers; the two in the middle are of one shape, and one weight where `tied`."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.l1, self.l2, self.l3 = nn.Linear(64, 96), nn.Linear(96, 96), nn.Linear(96, 96)
        if tied:
            self.l3.weight = self.l2.weight
        self.out = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for layer in (self.l1, self.l2, self.l3):
            x = F.relu(layer(x))
        return self.out(x)


@functools.cache
def convolutional() -> FloatNetwork:
    """Conv, BatchNormalization, Relu four times, mean, Gemm: `logits`."""
    trained = _trained_convolutional()
    nodes, tensors = _trunk(trained)
    nodes.append(helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1))
    return FloatNetwork("convolutional", _model(nodes, tensors, [1, 8, 8], ["logits"]), _images())


@functools.cache
def two_heads() -> FloatNetwork:
    """The same with a second output of the same shape, trained to say another number: `digit` and `tripled`."""
    trained = _trained_convolutional()
    nodes, tensors = _trunk(trained)
    images, labels = (array[:TRAINING_IMAGES] for array in digits())
    with torch.no_grad():
        features = trained.features(torch.from_numpy(images)).numpy().astype(np.float64)
    targets = 8 * np.eye(10)[labels * 3 % 10] - 4
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    second = np.linalg.solve(inputs.T @ inputs + 0.1 * np.eye(inputs.shape[1]), inputs.T @ targets)
    tensors["second.weight"] = second[:-1].T.astype(np.float32).copy()
    tensors["second.bias"] = second[-1].astype(np.float32)
    nodes += [
        helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["digit"], "fc", transB=1),
        helper.make_node("Gemm", ["features", "second.weight", "second.bias"], ["tripled"], "second", transB=1),
    ]
    return FloatNetwork("two_heads", _model(nodes, tensors, [1, 8, 8], ["digit", "tripled"]), _images())


@functools.cache
def perceptron(tied: bool = False) -> FloatNetwork:
    """MatMul, Add, Relu three times and a last MatMul and Add: `logits`."""
    torch.manual_seed(1)
    trained = _Perceptron(tied)
    train(trained, 40, 3e-3)
    nodes = [helper.make_node("Flatten", ["image"], ["flat"])]
    tensors: Arrays = {}
    value = "flat"
    for name in ("l1", "l2", "l3", "out"):
        layer = trained.get_submodule(name)
        weight = "l2.weight" if tied and name == "l3" else f"{name}.weight"
        tensors[weight] = layer.weight.detach().numpy().T.copy()
        tensors[f"{name}.bias"] = layer.bias.detach().numpy()
        made = "logits" if name == "out" else f"{name}_sum"
        nodes.append(helper.make_node("MatMul", [value, weight], [f"{name}_product"], f"{name}/MatMul"))
        nodes.append(helper.make_node("Add", [f"{name}_product", f"{name}.bias"], [made], f"{name}/Add"))
        if name != "out":
            value = f"{name}_out"
            nodes.append(helper.make_node("Relu", [made], [value], f"{name}/Relu"))
    name = "tied_perceptron" if tied else "perceptron"
    return FloatNetwork(name, _model(nodes, tensors, [1, 8, 8], ["logits"]), _images())


@functools.cache
def transformer() -> FloatNetwork:
    """Two blocks of an encoder, as torch exports them: `logits`."""
    torch.manual_seed(2)
    trained = DigitsTransformer(2, 32)
    train(trained, 25, 3e-3)
    with tempfile.TemporaryDirectory() as folder:
        path, _ = save(trained, Path(folder), "transformer")
        model = onnx.load(path)
    del model.graph.value_info[:]  # the exporter's shapes are out of date for ONNX Runtime's tools
    return FloatNetwork("transformer", model, _images())


@functools.cache
def _trained_convolutional() -> _Convolutional:
    torch.manual_seed(0)
    trained = _Convolutional()
    train(trained, 30, 5e-3)
    return trained


def _trunk(trained: _Convolutional) -> tuple[list[onnx.NodeProto], Arrays]:
    nodes: list[onnx.NodeProto] = []
    tensors: Arrays = {}
    value = "image"
    for name in _CONVOLUTIONS:
        conv, bn = trained.get_submodule(name), trained.get_submodule(f"bn_{name}")
        tensors[f"{name}.weight"] = conv.weight.detach().numpy()
        parts = {"weight": bn.weight, "bias": bn.bias, "mean": bn.running_mean, "var": bn.running_var}
        tensors |= {f"bn_{name}.{part}": tensor.detach().numpy() for part, tensor in parts.items()}
        strides = list(conv.stride)
        nodes += [
            helper.make_node("Conv", [value, f"{name}.weight"], [f"{name}_sum"], name, pads=[1] * 4, strides=strides),
            helper.make_node(
                "BatchNormalization", [f"{name}_sum", *(f"bn_{name}.{part}" for part in parts)], [f"{name}_bn"],
                f"bn_{name}", epsilon=bn.eps,
            ),
            helper.make_node("Relu", [f"{name}_bn"], [f"{name}_out"], f"relu_{name}"),
        ]  # fmt: skip
        value = f"{name}_out"
    tensors["fc.weight"] = trained.fc.weight.detach().numpy()
    tensors["fc.bias"] = trained.fc.bias.detach().numpy()
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["features"], "flatten"),
    ]
    return nodes, tensors


def _model(nodes: list[onnx.NodeProto], tensors: Arrays, image: list[int], outputs: list[str]) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *image])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 10]) for name in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in tensors.items() if n in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _images() -> Arrays:
    images, labels = digits()
    return {"image": images[TRAINING_IMAGES:], "labels": labels[TRAINING_IMAGES:]}
