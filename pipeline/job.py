"""One job as a library call: `plan` searches for a plan, `apply` takes one as it is, `certify` a quantized file.

    result = pipeline.plan("network.onnx", "samples.npz", {"budget": {"max_drop": 0.01}})
    Path("quantized.onnx").write_bytes(result.model)

No database, no HTTP and no Celery: a worker makes the same call, with a store and a report of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from app.errors import AppError
from app.schemas.parsing import merge, parse_certificate_request, parse_request, with_uploads
from app.schemas.plan import applied_request
from pipeline.archives import is_archive, self_contained, unpacked
from pipeline.events import Report, silent
from pipeline.process import left_alone
from pipeline.run import run
from pipeline.stage import JobResult, Machine, Upload
from pipeline.store import Store
from pipeline.table import TABLE
from quantization.export.audit import audit as stored_contents

Model = str | Path | bytes
Data = str | Path | Mapping[str, ArrayLike] | None
Request = Mapping[str, Any] | None


def plan(
    model: Model,
    data: Data = None,
    request: Request = None,
    *,
    metric: Model | None = None,
    cache: str | Path | Store | None = None,
    progress: Report = silent,
    machine: Machine | None = None,
) -> JobResult:
    """The smallest (or fastest) network that keeps a budget, with the evidence.

    Args:
        model: an ONNX file (data files of its tensors lie beside it), a zip archive of one with its data files, or the
            bytes of an ONNX file.
        data: a file of arrays, or arrays by the names of the graph's inputs, samples first, with `labels` or `targets`;
            None: samples are made from the graph's shapes.
        request: what `POST /v1/jobs` takes, without the ids of the uploads.
        metric: your own metric, an ONNX graph or its bytes, in place of `budget.metric`.
        cache: a folder or a store for the results of stages, so that a second question about the same network repeats
            no analysis and a call that was cut short goes on; None: nothing is kept.
        progress: gets what happens (`pipeline.events`), at least every few seconds; what it raises ends the call.
        machine: threads and memory; by default all cores that this process may use, and no limit.

    Raises:
        AppError: the request is not valid; `code` is that of the API.
        ValueError: the network, the data or the constraints do not allow it; `code` is that of the API.
        OSError: a file cannot be read.
    """
    return _call(Files(model, data, metric), request or {}, cache, progress, machine)


def apply(
    model: Model,
    plan: Mapping[str, Any],
    data: Data = None,
    request: Request = None,
    *,
    metric: Model | None = None,
    cache: str | Path | Store | None = None,
    progress: Report = silent,
    machine: Machine | None = None,
) -> JobResult:
    """The network quantized as `plan` says, without any search, and its certificate.

    Args:
        plan: as a job delivered it, edited or not (`GET /v1/schemas/plan-1.json`). Budget, rounding, target, opset and
            seed are those of its job.
        request: what else counts, as `plan` takes it, without what a search obeys.

    Otherwise, and for what it raises, see `plan`.
    """
    return _call(Files(model, data, metric), request or {}, cache, progress, machine, applied_request(plan))


def certify(
    float_model: Model,
    quantized: Model,
    data: Data = None,
    request: Request = None,
    *,
    metric: Model | None = None,
    cache: str | Path | Store | None = None,
    progress: Report = silent,
    machine: Machine | None = None,
) -> JobResult:
    """What a quantized file of anybody's making loses against its float model, and what is wrong with it.

    Both are run as they are, so that any operator of ONNX Runtime may stand in them.

    Args:
        float_model, quantized: ONNX files, or their bytes, with the same inputs.
        request: what `POST /v1/certificates` takes, without the ids of the uploads.

    Otherwise, and for what it raises, see `plan`. The result has a `report`, and neither plan nor model.
    """
    return _call(Files(float_model, data, metric, quantized), request or {}, cache, progress, machine)


def audit(file: str | Path | bytes) -> dict[str, Any]:
    """What a quantized ONNX file, or its bytes, holds: every weight and activation as it is stored.

    Raises:
        FileNotAudited: it is not an ONNX file, or stores a weight in a way that is not known.
        OSError: it cannot be read.
    """
    contents = stored_contents(file if isinstance(file, bytes) else Path(file).read_bytes())
    weights = [
        {
            "name": weight.name,
            "shape": list(weight.shape),
            "format": weight.format.name,
            "bits": weight.bits,
            "codes_bytes": weight.size_bytes,
            "scales_bytes": weight.scale_bytes,
        }
        for weight in contents.weights
    ]
    return {
        "total_bytes": contents.total_bytes,
        "weights": weights,
        "activations": [asdict(activation) for activation in contents.activations],
    }


@dataclass(frozen=True, slots=True)
class Files:
    """What a call is about: `quantized` is a file to certify, `metric` a metric graph."""

    model: Model
    data: Data = None
    metric: Model | None = None
    quantized: Model | None = None

    def uploads(self, folder: Path) -> dict[str, Upload]:
        """By kind; what is not a file is written to `folder`."""
        given = {"model": self.model, "quantized": self.quantized, "metric": self.metric}
        found = {kind: _model_file(file, folder, kind) for kind, file in given.items() if file is not None}
        data = _data_file(self.data, folder)
        return found if data is None else {**found, "dataset": data}


def _call(
    files: Files,
    members: Mapping[str, Any],
    cache: str | Path | Store | None,
    progress: Report,
    machine: Machine | None,
    base: Mapping[str, Any] | None = None,
) -> JobResult:
    """A job on files, bytes or arrays; what is not a file is written to a folder that goes with the call.

    The `members` of the request override those of `base`.
    """
    machine = machine or Machine(threads=len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="bitbudget-") as folder, _threads_of(machine), left_alone():
        uploads = files.uploads(Path(folder))
        members = with_uploads(members, {kind: upload.sha256 for kind, upload in uploads.items()})
        parse = parse_request if files.quantized is None else parse_certificate_request
        request = parse(members if base is None else merge(base, members))
        if request.budget.metric_id is not None and files.metric is None:
            raise AppError(
                "budget_invalid",
                "budget.metric_id names a metric graph that this call does not have; give it as the argument metric, "
                "or name another metric as budget.metric",
            )
        # results of stages are several times the float file: on disk they take no memory
        kept = Path(folder) / "results" if cache is None else cache
        return run(TABLE, request, uploads, cache=kept, progress=progress, machine=machine)


@contextmanager
def _threads_of(machine: Machine) -> Iterator[None]:
    """The threads that a worker has: numpy none of its own, whose sums would come in another order, and torch these."""
    before = torch.get_num_threads()
    torch.set_num_threads(machine.threads)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def _model_file(model: Model, folder: Path, name: str) -> Upload:
    if not isinstance(model, bytes):
        source = Path(model)
        if not is_archive(source):
            together = self_contained(source)
            if together is None:
                return Upload.of(source)
            model = together
    path = folder / f"{name}.onnx"
    if isinstance(model, bytes):
        path.write_bytes(model)
    else:
        unpacked(source, path)
    return Upload.of(path)


def _data_file(data: Data, folder: Path) -> Upload | None:
    if not isinstance(data, Mapping):
        return None if data is None else Upload.of(Path(data))
    path = folder / "data.npz"
    with ZipFile(path, "w") as archive:  # numpy's own writer takes some names for its arguments
        for name, array in data.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return Upload.of(path)
