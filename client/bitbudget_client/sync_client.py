"""The client that blocks until the server has answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from bitbudget_client import calls, results
from bitbudget_client.connection import PATIENCE_SECONDS, TIMEOUT, URL, Server
from bitbudget_client.documents import Document, Event, Job, Upload
from bitbudget_client.downloads import Received, download, results_of
from bitbudget_client.progress import Progress, display_of, unseen
from bitbudget_client.sources import Source
from bitbudget_client.submission import File, Question, Submission, submit
from bitbudget_client.sync_connection import Connection
from bitbudget_client.uploads import PIECES_FROM_BYTES, Sent, UploadCall, upload

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Client:
    """A bitbudget server.

    Every call is repeated within `patience_seconds` where the server is away or asks for patience; none has an effect
    twice. A `Problem` is the server's own answer, `Unreachable` that none came.

    Args:
        url, key, patience_seconds, pieces_from_bytes, timeout: see `Server`.
        transport: how requests are sent, such as `httpx.HTTPTransport(uds=PATH)` to a Unix socket.
    """

    def __init__(
        self,
        url: str = URL,
        key: str | None = None,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        pieces_from_bytes: int = PIECES_FROM_BYTES,
        timeout: httpx.Timeout = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection = Connection(Server(url, key, patience_seconds, pieces_from_bytes, timeout), transport)
        self._run = self._connection.run
        self._seconds = patience_seconds
        self._pieces = pieces_from_bytes

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def plan(
        self, model: File, data: File | None = None, *, progress: Progress = True, **question: Unpack[Question]
    ) -> Result:
        """Quantize a network within an accuracy budget, and wait for it.

        Args:
            model: the ONNX file (data files of its tensors lie beside it), its bytes, or a model that is there.
            data: samples: a file, its bytes, arrays by the names of the network's inputs, or a dataset that is there.
            question: `max_drop`, `metric`, `request`, `metric_graph`, `name`, `tags`, `priority`; see `Question`.

        Raises:
            JobFailed: the network, the data or the request does not do; the exception says why.
            JobCancelled: somebody cancelled the job.
        """
        return self.result(self._waited(Submission("/v1/jobs", question, {"model": model, "dataset": data}), progress))

    def certify(
        self,
        model: File,
        quantized: File,
        data: File | None = None,
        *,
        progress: Progress = True,
        **question: Unpack[Question],
    ) -> CertifiedFile:
        """Measure a quantized file of any tool against its float model, and wait for it; see `plan`."""
        files = {"model": model, "quantized": quantized, "dataset": data}
        return self.certified(self._waited(Submission("/v1/certificates", question, files), progress))

    def replan(self, job_id: str, *, progress: Progress = True, **question: Unpack[Question]) -> Result:
        """Ask another question about the model and data of a job, and wait; the analysis is not repeated.

        What the question leaves out stays as in that job; in its `request` None is the default.
        """
        return self.result(self._waited(Submission(f"/v1/jobs/{job_id}/replan", question), progress))

    def submit(
        self,
        model: File,
        data: File | None = None,
        *,
        idempotency_key: str | None = None,
        sent: Sent = unseen,
        **question: Unpack[Question],
    ) -> Job:
        """Make a job as `plan` does, and do not wait.

        Args:
            idempotency_key: a second call with the same key and question gives the job of the first.
            sent: is told how the uploads go on.
        """
        files = {"model": model, "dataset": data}
        return self._submit(Submission("/v1/jobs", question, files, idempotency_key), sent)

    def post_job(self, path: str, body: Document, idempotency_key: str | None = None) -> Job:
        """Make a job by one of the calls `/v1/jobs`, `/v1/certificates` and `/v1/jobs/ID/replan`, with this body."""
        return self._run(calls.make(path, body, self._seconds, idempotency_key))

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return self._run(calls.job(job_id, self._seconds))

    def jobs(self, **filters: Any) -> Iterator[Job]:
        """The jobs, newest first; `filters` are parameters of the call, such as `state` and `tag`."""
        return self._connection.pages(calls.jobs, filters)

    def wait(self, job_id: str, progress: Progress = True, every_seconds: float = calls.POLL_SECONDS) -> Job:
        """The job once it has ended, however it did."""
        with closing(display_of(progress)) as display:
            return self._run(calls.wait(job_id, self._seconds, display.job, every_seconds))

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """What happens to the job, until it has ended; goes on where it was when the connection breaks.

        Args:
            after: only events with a larger number.
        """
        return self._connection.events(f"/v1/jobs/{job_id}", after)

    def cancel(self, job_id: str) -> Job:
        """Ask for the job to be cancelled."""
        return self._run(calls.cancel(job_id, self._seconds))

    def result(self, job_id: str) -> Result:
        """The plan of a job that succeeded."""
        plan = self._run(results.plan_of(job_id, self._seconds))
        return Result(plan.job, plan.plan, plan.frontier_document, self)

    def certified(self, job_id: str) -> CertifiedFile:
        """What a job says of the quantized file that it certified."""
        report = self._run(results.report_of(job_id, self._seconds))
        return CertifiedFile(report.job, report.document, self)

    def download(self, job_id: str, folder: str | Path, received: Received = unseen) -> list[Path]:
        """Write every result of the job into `folder`. Each file is there whole or not at all, and has its digest."""
        names = results_of(self.job(job_id)).items()
        return [self.download_one(job_id, address, Path(folder) / name, received) for name, address in names]

    def download_one(self, job_id: str, address: str, path: str | Path, received: Received = unseen) -> Path:
        """Write one result, which stands at `address` below the job, to `path`; what broke off goes on."""
        return self._run(download(f"/v1/jobs/{job_id}/{address}", Path(path), self._seconds, received))

    def delete_job(self, job_id: str) -> None:
        """Remove a job that has ended, with all that it gave."""
        self._run(calls.delete(f"/v1/jobs/{job_id}", self._seconds))

    def upload_model(
        self, source: Source, *, name: str | None = None, tags: Sequence[str] | None = None, sent: Sent = unseen
    ) -> Upload:
        """Upload an ONNX file with its data files; one that is there already is not sent."""
        return self._run(upload(UploadCall("model", source, name, tags, self._pieces), self._seconds, sent))

    def upload_dataset(
        self, source: Source, *, name: str | None = None, tags: Sequence[str] | None = None, sent: Sent = unseen
    ) -> Upload:
        """Upload samples: a file, or arrays by the names of the network's inputs."""
        return self._run(upload(UploadCall("dataset", source, name, tags, self._pieces), self._seconds, sent))

    def models(self, **filters: Any) -> Iterator[Upload]:
        """The models, newest first; `filters` are `name` and `tag`."""
        return self._connection.pages(partial(calls.uploads, "model"), filters)

    def datasets(self, **filters: Any) -> Iterator[Upload]:
        """The datasets, as `models`."""
        return self._connection.pages(partial(calls.uploads, "dataset"), filters)

    def delete_model(self, model_id: str) -> None:
        """Remove a model that no waiting or running job reads."""
        self._run(calls.delete(f"/v1/models/{model_id}", self._seconds))

    def delete_dataset(self, dataset_id: str) -> None:
        """Remove a dataset that no waiting or running job reads."""
        self._run(calls.delete(f"/v1/datasets/{dataset_id}", self._seconds))

    def get(self, path: str, **params: Any) -> Document:
        """The JSON object that `GET` answers at an address of the API, such as `/v1/usage`."""
        return self._run(calls.get(path, self._seconds, **params))

    def text(self, path: str, **params: Any) -> str:
        """The text that `GET` answers at an address of the API, such as `/v1/jobs/ID/log`."""
        return self._run(calls.text(path, self._seconds, **params))

    def label(self, path: str, **changes: Any) -> Document:
        """Change `name`, `tags`, `pinned` or `priority` of what stands at an address; None is the default."""
        return self._run(calls.label(path, changes, self._seconds))

    def _submit(self, submission: Submission, sent: Sent) -> Job:
        return self._run(submit(submission, self._seconds, sent, self._pieces))

    def _waited(self, submission: Submission, progress: Progress) -> str:
        with closing(display_of(progress)) as display:
            job = self._submit(submission, display.moved)
            return self._run(calls.wait(job.id, self._seconds, display.job, calls.POLL_SECONDS)).id


@dataclass(frozen=True, repr=False)
class Result(results.Plan):
    """The plan of a job, and a way to its files."""

    client: Client

    def save(self, folder: str | Path) -> list[Path]:
        """Write model.onnx, plan.json, plan.csv and the rest into `folder`."""
        return self.client.download(self.job.id, folder)

    def sensitivity(self) -> Document:
        """The contents of sensitivity.json: every candidate's score, and the interactions."""
        return self.client.get(f"/v1/jobs/{self.job.id}/sensitivity")

    def replan(self, *, progress: Progress = True, **question: Unpack[Question]) -> Result:
        """Another question about the same model and data; see `Client.replan`."""
        return self.client.replan(self.job.id, progress=progress, **question)


@dataclass(frozen=True, repr=False)
class CertifiedFile(results.Report):
    """What was measured and found of a quantized file, and a way to its files."""

    client: Client

    def save(self, folder: str | Path) -> list[Path]:
        """Write certificate.json into `folder`."""
        return self.client.download(self.job.id, folder)
