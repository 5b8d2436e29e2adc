"""The real stages in this process: a small network that is really trained, and a job without broker and database."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
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
from app.schemas.parsing import parse_request
from app.schemas.plan import plan_schema_text
from pipeline.config import JobConfig
from pipeline.configure import configure
from pipeline.context import Context
from pipeline.events import Event, PlanEvaluated, Progress
from pipeline.stage import JobResult, Machine, Stage, Upload
from pipeline.store import MemoryStore
from pipeline.table import TABLE

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


class LocalContext(Context):
    """The context of a job that a test watches; its clock is the test's."""

    def __init__(self, job: LocalJob, stages: list[Stage], config: JobConfig) -> None:
        uploads = {"model": Upload(job.model_path, job.request.model_id)}
        if job.dataset_path is not None:
            uploads["dataset"] = Upload(job.dataset_path, str(job.request.dataset_id))
        super().__init__(stages, config, uploads, MemoryStore(job.results), job.report, job.machine)
        self._job = job

    def time_used(self, deadline_seconds: float | None) -> float:
        self._job.looks_at_the_clock += 1
        if self._job.late or deadline_seconds is None:
            return float(self._job.late)
        return min(1.0, self._job.looks_at_the_clock / self._job.late_after)


@dataclass
class LocalJob:
    """A job whose stage results lie in a dictionary. `stop_after` ends it after so many checks, as if killed.

    `checks_at_plans` are the checks that there had been when each plan was evaluated.

    `late`: the deadline has passed; else, if the request has one, it passes at look `late_after` at the clock.
    """

    model_path: Path
    dataset_path: Path | None
    request: JobRequest
    results: dict[str, bytes]
    machine: Machine = field(default_factory=Machine)
    ran: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    stop_after: int | None = None
    checks: int = 0
    checks_at_plans: list[int] = field(default_factory=list)
    late: bool = False
    late_after: float = math.inf
    looks_at_the_clock: int = 0

    @cached_property
    def config(self) -> JobConfig:
        return configure(self.request, self.machine, "job")

    @cached_property
    def context(self) -> LocalContext:
        return LocalContext(self, TABLE.needed(self.config), self.config)

    @property
    def keys(self) -> dict[str, str]:
        return self.context.keys

    def run(self) -> JobResult:
        for stage in TABLE.needed(self.config):
            if TABLE.run(stage, self.context, self.config):
                self.ran.append(stage.name)
        result = TABLE.report(self.context, self.config.report)
        Draft202012Validator(json.loads(plan_schema_text())).validate(result.plan)
        return result

    def result_of(self, name: str) -> bytes:
        """What the stage of this name writes; what it reads must be there."""
        stage = next(stage for stage in TABLE.stages if stage.name == name)
        self.context.run(stage, getattr(self.config, name))
        return self.results[self.keys[name]]

    def of_kind(self, kind: type[Event]) -> list[Any]:
        """The events of this kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def report(self, event: Event) -> None:
        if not isinstance(event, Progress):
            self.events.append(event)
            if isinstance(event, PlanEvaluated):
                self.checks_at_plans.append(self.checks)
            return
        assert 0 <= event.fraction <= 1
        assert not self.fractions or event.fraction >= self.fractions[-1], "progress runs backwards"
        self.fractions.append(event.fraction)
        self.checks += 1
        if self.stop_after is not None and self.checks > self.stop_after:
            raise Stopped


def _jobs_in(folder: Path) -> Callable[..., LocalJob]:
    def make(
        model: bytes,
        samples: Mapping[str, np.ndarray] | None,
        request: Mapping[str, Any] | None = None,
        results: dict[str, bytes] | None = None,
        **arguments: Any,
    ) -> LocalJob:
        model_path, dataset_path = folder / "model.onnx", folder / "data.npz"
        model_path.write_bytes(model)
        if samples is not None:
            np.savez(dataset_path, **samples)
        ids = {
            "model_id": Upload.of(model_path).sha256,
            "dataset_id": Upload.of(dataset_path).sha256 if samples is not None else None,
        }
        full = JobRequest.model_validate(json.loads(json.dumps({**ids, **(request or {})})), strict=False)
        path = dataset_path if samples is not None else None
        return LocalJob(model_path, path, full, {} if results is None else results, **arguments)

    return make


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., LocalJob]:
    """`job(model, samples, request, results)`: a job on these uploads; `results` of another job may be shared."""
    return _jobs_in(tmp_path)


@pytest.fixture(scope="module")
def lasting_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LocalJob]:
    """`job` for what several tests of a file look at."""
    return _jobs_in(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="session")
def stopped() -> type[Exception]:
    return Stopped


def configured(**request: Any) -> JobConfig:
    """The slices of a request about some model, on a machine with one thread."""
    return configure(parse_request({"model_id": "a" * 64, **request}), Machine(), "job")
