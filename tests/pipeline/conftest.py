"""The real stages in this process: a small network that is really trained, and a job without broker and database."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from jsonschema import Draft202012Validator
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from app.schemas.job_request import JobRequest
from app.schemas.plan import plan_schema_text
from pipeline.stage import Delivery, needed_stages
from pipeline.table import STAGES, deliver

TRAINING = 600


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images `[1797, 1, 8, 8]` and labels of scikit-learn's digits, shuffled."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images[order, None] / 16).astype(np.float32), data.target[order].astype(np.int64)


@pytest.fixture(scope="session")
def trained(digits) -> dict[str, np.ndarray]:
    """Weights of a network of two convolutions and a linear layer, trained on the first images."""
    images, labels = (torch.from_numpy(array[:TRAINING]) for array in digits)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(216, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(20):
        for batch in torch.randperm(TRAINING).split(60):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    names = {"0": "conv1", "2": "conv2", "5": "fc"}
    return {
        f"{names[key.split('.')[0]]}.{key.split('.')[1]}": tensor.detach().numpy()
        for key, tensor in network.state_dict().items()
    }


def convnet(weights: Mapping[str, np.ndarray], tail: tuple[onnx.NodeProto, ...] = (), output: str = "logits") -> bytes:
    """The network's ONNX file, with the nodes of `tail` after its logits."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "conv1.weight", "conv1.bias"], ["c1"], pads=[1, 1, 1, 1], name="first"),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "conv2.weight", "conv2.bias"], ["c2"], strides=[2, 2]),
            helper.make_node("Relu", ["c2"], ["r2"]),
            helper.make_node("Flatten", ["r2"], ["f"]),
            helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], transB=1),
            *tail,
        ],
        "convnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture(scope="session")
def model(trained) -> bytes:
    return convnet(trained)


@pytest.fixture(scope="session")
def softmax_model(trained) -> bytes:
    """The same network, past its softmax."""
    return convnet(trained, (helper.make_node("Softmax", ["logits"], ["p"], axis=-1),), "p")


@pytest.fixture(scope="session")
def samples(digits) -> dict[str, np.ndarray]:
    images, labels = digits
    return {"image": images[TRAINING:], "labels": labels[TRAINING:]}


class Stopped(Exception):
    """Stands for the death of a worker."""


@dataclass
class LocalJob:
    """A job whose stage results lie in a dictionary. `stop_after` ends it at that check, as a killed worker would.

    `late`: the deadline has passed; else, if the request has one, it passes at look `late_after` at the clock.
    """

    model_path: Path
    dataset_path: Path | None
    request: Mapping[str, Any]
    results: dict[str, bytes]
    digests: dict[str, str]
    threads: int = 1
    memory_limit_bytes: int | None = None
    ran: list[str] = field(default_factory=list)
    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    estimates: list[tuple[str, float, int]] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    stop_after: int | None = None
    checks: int = 0
    late: bool = False
    late_after: float = math.inf
    looks_at_the_clock: int = 0
    _stage: str = ""
    _reads: tuple[str, ...] = ()
    _keys: dict[str, str] = field(default_factory=dict)

    def run(self) -> Delivery:
        self._keys = dict(self.digests)
        for stage in needed_stages(STAGES, self.request):
            self._keys[stage.name] = stage.key(self.request, self._keys)
            if self._keys[stage.name] not in self.results:
                self._stage = stage.name
                self._reads = stage.reads
                self.fractions = []
                self.results[self._keys[stage.name]] = stage.run(self)
                self.ran.append(stage.name)
        self._reads = tuple(self._keys)
        delivery = deliver(self)
        Draft202012Validator(json.loads(plan_schema_text())).validate(json.loads(delivery.artifacts["plan"]))
        return delivery

    def read(self, stage: str) -> bytes:
        if stage not in self._reads:
            raise LookupError(f"{self._stage} reads {stage}, which its `reads` do not name")
        return self.results[self._keys[stage]]

    def chunk(self, name: str, compute: Callable[[], bytes]) -> bytes:
        key = f"{self._keys[self._stage]}/{name}"
        if key not in self.results:
            self.results[key] = compute()
        return self.results[key]

    def cached(self, key: str, compute: Callable[[], bytes]) -> bytes:
        if key not in self.results:
            self.results[key] = compute()
        return self.results[key]

    def progress(self, fraction: float) -> None:
        assert 0 <= fraction <= 1
        assert not self.fractions or fraction >= self.fractions[-1], "progress runs backwards"
        self.fractions.append(fraction)
        self.check()

    def check(self) -> None:
        self.checks += 1
        if self.stop_after is not None and self.checks > self.stop_after:
            raise Stopped

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        self.events.append((kind, json.loads(json.dumps(data, allow_nan=False))))

    def estimate(self, seconds: float, memory_bytes: int) -> None:
        self.estimates.append((self._stage, seconds, memory_bytes))

    def deadline_passed(self) -> bool:
        return self.time_used() >= 1

    def time_used(self) -> float:
        self.looks_at_the_clock += 1
        if self.late or self.request["search"]["deadline_seconds"] is None:
            return float(self.late)
        return min(1.0, self.looks_at_the_clock / self.late_after)


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., LocalJob]:
    """`job(model, samples, request, results)`: a job on these uploads; `results` of another job may be shared."""

    def make(
        model: bytes,
        samples: Mapping[str, np.ndarray] | None,
        request: Mapping[str, Any] | None = None,
        results: dict[str, bytes] | None = None,
        **arguments: Any,
    ) -> LocalJob:
        import hashlib

        model_path, dataset_path = tmp_path / "model.onnx", tmp_path / "data.npz"
        model_path.write_bytes(model)
        if samples is not None:
            np.savez(dataset_path, **samples)
        digests = {
            "model": hashlib.sha256(model).hexdigest(),
            "dataset": hashlib.sha256(dataset_path.read_bytes()).hexdigest() if samples is not None else "",
        }
        fields = {"model_id": digests["model"], "dataset_id": digests["dataset"] or None, **(request or {})}
        full = JobRequest.model_validate(json.loads(json.dumps(fields)), strict=False).model_dump(mode="json")
        path = dataset_path if samples is not None else None
        return LocalJob(model_path, path, full, {} if results is None else results, digests, **arguments)

    return make


@pytest.fixture(scope="session")
def stopped() -> type[Exception]:
    return Stopped
