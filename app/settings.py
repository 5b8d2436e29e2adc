"""One frozen settings object, read from the environment with the prefix `BITBUDGET_`.

Settings say where things lie and how much of the machine may be used; what a job does stands in its request.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.store.objects import IN_DATABASE, Objects, check_target

PREFIX = "BITBUDGET_"
TEST_PREFIX = "BITBUDGET_TEST_"
"""Names with this prefix belong to the test suite (where its databases are); they are not settings."""
CLIENT_VARIABLES = frozenset({"BITBUDGET_SERVER", "BITBUDGET_KEY", "BITBUDGET_CONFIG"})
"""Read by the commands that talk to a server, and by examples/curl.sh; no settings of the service."""

GIB = 1024**3

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|\*")


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _host_names(text: str | None) -> str | None:
    for name in () if text is None else text.split(","):
        if not _HOST_NAME.fullmatch(name.strip()):
            raise ValueError(
                f"expected names or addresses without a port, with commas between them, or *, got {name.strip()!r}; "
                "e.g. bitbudget.example.com,10.0.0.5,[fd00::5]"
            )
    return text


def _target(text: str) -> str:
    return text if text == IN_DATABASE else check_target(text)


def _networks(text: str | None) -> str | None:
    for name in () if text is None else text.split(","):
        try:
            ipaddress.ip_network(name.strip())
        except ValueError as error:
            raise ValueError(
                f"expected networks with commas between them, e.g. 10.1.0.0/16,fd00::/8; {error}"
            ) from None
    return text


# Child processes get these paths by the environment and may run in another folder.
Absolute = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """Every setting, its default and its range. Sizes are bytes, durations seconds.

    Raises:
        pydantic.ValidationError: a value is out of range, or the environment holds a `BITBUDGET_` name that is
            not a setting (a misspelt limit that is silently ignored is no limit).
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,  # docker compose passes a variable that is not set as an empty one
        validate_default=True,
    )

    home: Absolute = Field(default_factory=lambda: Path.home() / ".bitbudget")
    """Folder of everything that the embedded mode keeps."""
    database_url: str = Field(default_factory=lambda known: f"sqlite:///{known['home'] / 'bitbudget.db'}")
    """`sqlite:///PATH` or `postgresql+psycopg://USER:PASSWORD@HOST/NAME`."""
    broker_url: str = "filesystem://"
    """`filesystem://` (folders under `home`, one worker) or `redis://HOST:PORT/NUMBER`."""
    tmp_dir: Absolute = Field(default_factory=lambda known: known["home"] / "tmp")
    """Where uploads and jobs keep files while they are worked on; needs room for the largest upload."""

    blobs: Annotated[str, AfterValidator(_target)] = IN_DATABASE
    """Where new contents go: `database`, `file:///FOLDER` (one that all processes share), or `s3://BUCKET/PREFIX`."""
    s3_endpoint: str | None = None
    """Address of a server that speaks the protocol of S3; None: Amazon's. Keys and region: the AWS_ variables."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    allowed_hosts: Annotated[str | None, AfterValidator(_host_names)] = None
    """Names by which the API may be addressed (`Host`), with commas between them, besides localhost; `*`: any. None:
    only localhost if `host` is a loopback address, else any."""

    auth: Literal["none", "keys"] = "none"
    """`none`: whoever reaches the port may do everything; `keys`: every call about a project asks for a key to it."""
    allow_open: bool = False
    """Let `serve` listen beyond this machine with `auth` none, e.g. in a container whose port is published on
    loopback only."""
    metrics_token: Annotated[str, Field(min_length=16)] | None = None
    """What whoever reads `/metrics` must send; None: open with `auth` none, closed with keys."""

    quota_bytes: Annotated[int, Field(ge=0)] | None = None
    """Contents that a project may store, unless it has a quota of its own; as in all further ones, None: no limit."""
    quota_queued: Annotated[int, Field(ge=0)] | None = None
    quota_running: Annotated[int, Field(ge=1)] | None = None
    """Jobs that run at once; None: as many as there are workers."""
    quota_samples: Annotated[int, Field(ge=1)] | None = None
    """Samples of one dataset."""
    quota_requests_per_minute: Annotated[int, Field(ge=1)] | None = None

    lease_seconds: Annotated[float, Field(gt=0)] = 30.0
    """How long a job stays with a worker that says nothing."""
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 5.0
    max_attempts: Annotated[int, Field(ge=1)] = 6
    """How many processes in turn a job may lose, without getting on, before it fails. Three are lost without its fault
    where processes are killed every few seconds [4 of 480 jobs]; six cost little more where it is the job's."""
    dispatch_interval_seconds: Annotated[float, Field(gt=0)] = 2.0

    webhook_networks: Annotated[str | None, AfterValidator(_networks)] = None
    """Networks that webhooks may lead to besides public addresses, with commas between them, e.g. `10.1.0.0/16`."""
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    """How long one try of a message may take in all."""
    webhook_retry_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Pause before the second try; it doubles up to six hours, until three days are over."""

    keep_days: Annotated[int, Field(ge=1)] | None = None
    """How many days jobs that have ended, and uploads and results of stages that nobody uses, stay in projects without
    a number of their own; None: for ever."""

    max_model_bytes: Annotated[int, Field(gt=0)] = 2 * GIB
    """Protocol buffers end at 2 GiB, so a larger ONNX file cannot hold its own weights."""
    max_dataset_bytes: Annotated[int, Field(gt=0)] = 4 * GIB
    max_upload_bytes: Annotated[int, Field(gt=0)] = 6 * GIB
    """Limit of one HTTP request body, whatever it holds."""

    header_seconds: Annotated[float, Field(gt=0)] = 10.0
    """How long a client may take for the head of a request."""
    stall_seconds: Annotated[float, Field(gt=0)] = 30.0
    """How long the body of a request, or the reading of an answer, may stand still."""
    min_bytes_per_second: Annotated[int, Field(ge=1)] = 1024
    """Slower bodies, and slower readers of answers, count as standing still."""
    max_connections: Annotated[int, Field(ge=1)] = 1024
    """Open connections; the limit of open files may allow fewer."""
    max_connections_per_address: Annotated[int, Field(ge=1)] = 256
    """Open connections of one client; all clients of a proxy count as one."""

    worker_memory_bytes: Annotated[int, Field(gt=0)] | None = None
    """Memory limit of the process that works on a job; None: no limit."""
    worker_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of the process that works on a job; None: every core."""

    sandbox: Literal["auto", "bubblewrap", "none"] = "auto"
    """Walls around the process that runs models: bubblewrap where it works, bubblewrap or no worker, none."""
    log_format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged; `debug` also has a line for every request."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_names(cls, values: Any) -> Any:
        refuse_unknown_names(os.environ, cls.model_fields)
        return values

    @model_validator(mode="after")
    def _heartbeat_fits_into_lease(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"heartbeat_seconds must be at most half of lease_seconds ({self.lease_seconds:g}), got "
                f"{self.heartbeat_seconds:g}: one late heartbeat would lose the job"
            )
        return self

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    def objects(self) -> Objects:
        """What of the contents lies beside the database."""
        return Objects(self.blobs, self.s3_endpoint)

    @property
    def broker_folder(self) -> Path:
        """Where `filesystem://` keeps its messages."""
        return self.home / "broker"

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for a child process with the same settings."""
        return {PREFIX + name.upper(): str(value) for name, value in self.model_dump().items() if value is not None}


def refuse_unknown_names(environment: Mapping[str, str], fields: Mapping[str, Any]) -> None:
    """Refuse variables that look like settings but are not.

    Raises:
        ValueError: names them all, each with the setting that was probably meant.
    """
    known = {PREFIX + name.upper() for name in fields}
    complaints = []
    for name in sorted(environment):
        upper = name.upper()  # pydantic-settings reads the environment without regard to case
        if not upper.startswith(PREFIX) or upper.startswith(TEST_PREFIX) or upper in known | CLIENT_VARIABLES:
            continue
        near = difflib.get_close_matches(upper, known, n=1)
        complaints.append(f"{name} (did you mean {near[0]}?)" if near else name)
    if complaints:
        raise ValueError(
            f"no setting is called {', '.join(complaints)}; correct or unset it. Settings: {', '.join(sorted(known))}"
        )
