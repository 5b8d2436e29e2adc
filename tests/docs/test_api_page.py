"""docs/api.md says what the code does: calls, fields with their defaults, errors with their statuses, limits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.api import receiving
from app.errors import CATALOGUE
from app.lifecycle.states import JobState, Outcome
from app.main import create_app
from app.schemas import job_request, parsing
from app.schemas.answers import Job, Problem, Upload
from app.schemas.budget import MetricOptions
from app.schemas.job_request import JobRequest
from app.schemas.labels import JobLabels
from app.settings import GIB, Settings


@pytest.fixture
def api(page: Callable[[str], Any]) -> Any:
    return page("api")


def _code(cell: str) -> str:
    found = re.match(r"`([^`]+)`", cell)
    assert found, f"a row begins with a name in backticks, got {cell!r}"
    return found[1]


def test_every_error_code_has_its_row_and_status(api: Any) -> None:
    told = {_code(code): int(status) for code, status, _ in api.rows("Errors")}
    assert told == {code: known.status for code, known in CATALOGUE.items()}


def test_every_error_row_says_what_to_do(api: Any) -> None:
    assert all(remedy.endswith(".") for _, _, remedy in api.rows("Errors"))


def test_every_code_in_the_text_exists(api: Any) -> None:
    for _, _, errors in api.rows("Calls"):
        assert set(re.findall(r"`(\w+)`", errors)) <= set(CATALOGUE)


def test_every_call_is_described_with_every_status_that_it_declares(api: Any, tmp_path: Path) -> None:
    document = create_app(Settings(home=tmp_path)).openapi()
    # In the text above the table, for all calls.
    everywhere = {"401", "403", "421", "422", "429", "500", "503"}
    calls = {
        f"{method.upper()} {path}": set(operation["responses"]) - everywhere
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    rows = {_code(call).partition("?")[0]: f"{answer} {errors}" for call, answer, errors in api.rows("Calls")}
    assert set(rows) == set(calls)
    missing = {
        call: statuses - set(re.findall(r"\b\d{3}\b", rows[call]))
        for call, statuses in calls.items()
        if not statuses <= set(re.findall(r"\b\d{3}\b", rows[call]))
    }
    assert not missing


def test_every_parameter_of_a_call_is_mentioned(api: Any, tmp_path: Path) -> None:
    document = create_app(Settings(home=tmp_path)).openapi()
    told = api.section("Calls")
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                assert parameter["name"] in told


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _models(get_args(annotation)[0])
    else:
        for part in get_args(annotation):
            yield from _models(part)


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field that holds a value of its own, by its path; a member of a mapping is called NAME. The options of a
    metric are described with the budget, and are one row where they stand again."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if path == "outputs.NAME.options":  # those of the budget, which have their rows
            yield path, field
            continue
        inner = [found for found in _models(field.annotation) if found is not NoneType]
        mapping = get_origin(field.annotation) is dict
        again = MetricOptions in inner and not path.startswith("budget.")
        if not inner or mapping or again:
            yield path, field
        for found in () if again else inner:
            yield from _fields(found, f"{path}.NAME." if mapping else f"{path}.")


def test_every_field_of_the_request_stands_there_with_its_default(api: Any) -> None:
    told = {_code(name): default for name, _, default, _ in api.rows("The request of a job")}
    expected = {}
    for path, field in _fields(JobRequest):
        default = field.get_default()
        default = default.model_dump() if isinstance(default, BaseModel) else default
        expected[path] = "required" if field.is_required() else f"`{json.dumps(default)}`"
    assert told == expected


def test_every_label_is_described_with_its_default(api: Any) -> None:
    told = {_code(name): default for name, _, default, _ in api.rows("Names and tags")}
    given = JobLabels().model_dump(mode="json")
    assert {name: default.partition(";")[0] for name, default in told.items()} == {
        name: f"`{json.dumps(default)}`" for name, default in given.items()
    }


def test_every_member_of_an_upload_is_described(api: Any) -> None:
    told = api.section("An upload")
    assert [name for name in Upload.model_fields if f"`{name}`" not in told] == []


def test_every_member_state_and_outcome_of_a_job_is_described(api: Any) -> None:
    told = api.section("A job")
    rows = {_code(row[0]) for row in api.rows("A job")}
    assert rows == {*JobState, *Outcome}
    assert [name for name in Job.model_fields if f"`{name}`" not in told] == []


def test_every_member_of_a_problem_is_named(api: Any) -> None:
    told = api.section("Errors")
    assert [name for name in Problem.model_fields if f"`{name}`" not in told] == []


def test_the_limits_are_those_of_the_code(api: Any, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    told = {what: limit for what, limit, _ in api.rows("Limits")}
    assert told["a model"] == f"{settings.max_model_bytes // GIB} GiB"
    assert told["a dataset"] == f"{settings.max_dataset_bytes // GIB} GiB"
    assert told["one request body"] == f"{settings.max_upload_bytes // GIB} GiB"
    assert told["a JSON body"] == f"{receiving.JSON_BYTES // 1024**2} MiB, {parsing.MAX_DEPTH} levels deep"
    assert f"at most {job_request.MAX_LAYERS:,} members" in api.section("The request of a job")
