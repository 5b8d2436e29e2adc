"""docs/library.md says what the code does: the arguments of the calls, and the members of a result."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import pipeline


@pytest.fixture
def library(page: Callable[[str], Any]) -> Any:
    return page("library")


def test_every_argument_is_described(library: Any) -> None:
    names = [re.findall(r"`(\w+)`", cell) for cell, _ in library.rows("Plan")]
    described = [name for cell in names for name in cell]
    arguments = list(inspect.signature(pipeline.plan).parameters)
    assert described[: len(arguments)] == arguments


def test_every_member_of_a_result_that_is_described_exists(library: Any) -> None:
    names = {name for cell, _ in library.rows("Plan") for name in re.findall(r"`(\w+)`", cell)}
    described = names - set(inspect.signature(pipeline.plan).parameters) | {"model"}
    members = dir(pipeline.JobResult) + list(pipeline.JobResult.__dataclass_fields__)
    assert described <= set(members)
    assert {"outcome", "plan", "certificate", "frontier", "sensitivity", "model"} == described


def test_the_calls_are_written_as_they_are(library: Any) -> None:
    for name, written in re.findall(r"^`pipeline\.(\w+)\((.*)\)`", library.text, re.MULTILINE):
        arguments = re.findall(r"(\w+)(?:=\w+|=\.\.\.)?(?:, |$)", written.replace("*, ", ""))
        parameters = list(inspect.signature(getattr(pipeline, name)).parameters)
        assert arguments == parameters[: len(arguments)], name
