from __future__ import annotations

import importlib
import pkgutil

import pytest

from app.errors import CATALOGUE, AppError, ErrorClass, problem

LIBRARIES = ("network", "quantization", "sensitivity", "planner", "evaluation")


def _codes_of_libraries() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        package = importlib.import_module(library)
        for info in pkgutil.walk_packages(package.__path__, f"{library}."):
            for value in vars(importlib.import_module(info.name)).values():
                if (
                    isinstance(value, type)
                    and issubclass(value, ValueError)
                    and isinstance(getattr(value, "code", None), str)
                ):
                    found[f"{value.__module__}.{value.__qualname__}"] = value.code
    return found


def test_every_error_of_the_libraries_is_in_the_catalogue() -> None:
    codes = _codes_of_libraries()
    assert "network.errors.NotOnnx" in codes
    missing = {name: code for name, code in codes.items() if code not in CATALOGUE}
    assert not missing, f"add these to app/errors.py: {missing}"


def test_a_problem_has_the_members_of_rfc_9457_and_the_code() -> None:
    body = problem("job_not_finished", "wait", instance="/v1/jobs/1/plan", extra={"errors": []})
    assert body == {
        "type": "urn:bitbudget:error:job_not_finished",
        "title": CATALOGUE["job_not_finished"].title,
        "status": 409,
        "detail": "wait",
        "code": "job_not_finished",
        "instance": "/v1/jobs/1/plan",
        "errors": [],
    }


def test_the_code_of_a_newer_version_is_shown_as_it_is() -> None:
    assert problem("from_the_future", "x")["code"] == "from_the_future"


def test_only_codes_of_the_catalogue_can_be_raised() -> None:
    with pytest.raises(ValueError, match=r"'nonsense'; add it to the catalogue in app/errors\.py"):
        AppError("nonsense", "x")


def test_an_error_class_has_the_status_of_an_error() -> None:
    with pytest.raises(ValueError, match="from 400 to 599, got 200"):
        ErrorClass(200, "fine")
