"""The configuration file: the members of a request, and the server, in TOML.

    server = "https://bitbudget.example.com"
    objective = "size"

    [budget]
    max_drop = 0.01

A file `bitbudget.toml` in the working folder is read without being named. It may come with somebody else's files, so it
says nothing about the server: samples and keys go only where a file that was named, or an option, sends them.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import BaseModel

from app.cli.output import WrongUsage
from app.schemas.job_request import FROM_ELSEWHERE, JobRequest
from app.schemas.labels import JobLabels

DEFAULT_FILE = Path("bitbudget.toml")
_OF_A_SERVER = ("server", "key")

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="BITBUDGET_CONFIG",
        help="A TOML file with members of the request, and `server` and `key`; options and --request override it.",
        show_default="bitbudget.toml, if there is one",
        exists=True,
        dir_okay=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says."""

    request: Mapping[str, Any] = field(default_factory=dict)
    server: str | None = None
    key: str | None = None


def read_config(path: Path | None) -> Config:
    """The file at `path`, or `bitbudget.toml` in the working folder; nothing where there is neither.

    Raises:
        WrongUsage: it is not TOML, or has a member that there is not.
    """
    file = path or DEFAULT_FILE
    if path is None and not file.is_file():
        return Config()
    try:
        members = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file} is not TOML: {error}") from None
    of_server = {name: members.pop(name) for name in _OF_A_SERVER if name in members}
    if of_server and path is None:
        raise WrongUsage(
            f"{file} is read because it lies in this folder, and then it may not name {' or '.join(of_server)}; name "
            f"the file (--config {file}, or BITBUDGET_CONFIG), or leave them out and give --server and BITBUDGET_KEY"
        )
    for name, value in of_server.items():
        if not isinstance(value, str):
            raise WrongUsage(f"{file}: {name} is a text, got {value!r}")
    known = [name for name in JobRequest.model_fields if name not in FROM_ELSEWHERE]
    _check_names(file, "", members, [*known, *JobLabels.model_fields, *_OF_A_SERVER])
    for name, value in members.items():
        if name in JobRequest.model_fields:
            _check_members(file, name, value, JobRequest.model_fields[name].annotation)
    return Config(members, **of_server)


def _check_members(file: Path, place: str, value: Any, annotation: Any) -> None:
    """Refuse unknown names within `value`; whether what they have is right, the service says."""
    if not isinstance(value, Mapping):
        return
    if model := _model(annotation):
        if model.model_config.get("extra") == "allow":
            return
        _check_names(file, f"{place}.", value, model.model_fields)
        for name, inner in value.items():
            _check_members(file, f"{place}.{name}", inner, model.model_fields[name].annotation)
    elif get_origin(annotation) is dict:
        for name, inner in value.items():
            _check_members(file, f"{place}.{name}", inner, get_args(annotation)[1])


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that a value of this type is an object of, if it is."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return next((model for part in get_args(annotation) if (model := _model(part))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _check_names(file: Path, place: str, given: Collection[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; did you mean {place}{near[0]}?" if near else f"; there are {', '.join(sorted(set(known)))}"
            raise WrongUsage(f"{file}: there is no {place}{name}{meant}")
