"""Small jobs, each with a plan that is known: what an undisturbed run of the library gives."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import pipeline

SAMPLES = 64
INPUTS, HIDDEN, OUTPUTS = 16, 24, 4
REQUEST: dict[str, Any] = {"budget": {"max_drop": 0.2}, "weights": {"bits": [4, 8]}}


@dataclass(frozen=True)
class TinyJob:
    """What is sent, and what has to come back."""

    model: bytes
    dataset: bytes
    request: str
    plan: bytes
    quantized: bytes


def tiny_job(seed: int) -> TinyJob:
    """A network of two products, its samples, and its plan by `pipeline.plan` in this process."""
    generator = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((generator.normal(size=shape) / shape[0] ** 0.5).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "w2"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", OUTPUTS])],
        [weight("w1", INPUTS, HIDDEN), weight("w2", HIDDEN, OUTPUTS)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    samples = generator.normal(size=(SAMPLES, INPUTS)).astype(np.float32)
    archive = io.BytesIO()
    np.savez(archive, x=samples)
    result = pipeline.plan(model, {"x": samples}, REQUEST, machine=pipeline.Machine(threads=1))
    return TinyJob(model, archive.getvalue(), json.dumps(REQUEST), result.artifacts["plan"], result.model)
