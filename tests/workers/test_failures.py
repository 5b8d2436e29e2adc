from __future__ import annotations

from datetime import timedelta

import pytest

from app.errors import CATALOGUE, AppError
from network.errors import ShapesNotFixed
from workers.failures import StageTimeLimit, failure

GIB = 1024**3


class Unknown(ValueError):
    code = "no_such_code"


@pytest.mark.parametrize(
    ("error", "code", "fault", "says"),
    [
        (
            ShapesNotFixed("axis 2 of x: got unknown, expected a number; send data"),
            "model_shapes_not_fixed",
            False,
            "send",
        ),
        (AppError("not_found", "The model was removed; upload it again."), "not_found", False, "upload it again"),
        (MemoryError(), "out_of_memory", False, "2.0 GiB"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory", False, "2.0 GiB"),
        (RuntimeError("std::bad_alloc"), "out_of_memory", False, "BITBUDGET_WORKER_MEMORY_BYTES"),
        (OSError(12, "Cannot allocate memory"), "out_of_memory", False, "2.0 GiB"),
        (StageTimeLimit("search", timedelta(hours=1)), "time_limit", False, "1:00:00"),
        (Unknown("/secret"), "internal", True, "Unknown"),
        (ValueError("/secret"), "internal", True, "ValueError"),
        (RuntimeError("shape '[3]' is invalid for input of size /secret"), "internal", True, "RuntimeError"),
    ],
)
def test_an_exception_becomes_a_code_of_the_catalogue_and_a_text(error, code, fault, says):
    said = failure(error, "search", 2 * GIB)
    assert (said.code, said.fault) == (code, fault)
    assert said.code in CATALOGUE
    assert says in said.detail
    assert "/secret" not in said.detail


def test_without_a_limit_the_text_names_none():
    assert "GiB" not in failure(MemoryError(), "search", None).detail
