"""Every rule against ONNX Runtime, and its derivatives against finite differences. The cases lie in cases/."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import network.operators  # noqa: F401  (fills the registry)
from network.operators.registry import lookup, registered

Case = dict[str, Any]

CASES: list[Case] = []
IDS: list[str] = []
for _path in sorted(Path(__file__).with_name("cases").glob("*.py")):
    for _case in runpy.run_path(str(_path))["CASES"]:
        CASES.append(_case)
        IDS.append(f"{_path.stem}-{_case['op']}")


def _smooth(case: Case) -> bool:
    """Whether the case has an input to differentiate in."""
    floats = [isinstance(x, tuple) or getattr(x, "dtype", None) == np.float32 for x in case["inputs"]]
    return case.get("smooth", True) and any(
        is_float and position not in case.get("constant", ()) for position, is_float in enumerate(floats)
    )


SMOOTH = [pytest.param(case, id=name) for name, case in zip(IDS, CASES, strict=True) if _smooth(case)]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_gives_what_onnx_runtime_gives(case: Case, compare: Callable[[Case], None]) -> None:
    compare(case)


@pytest.mark.parametrize("case", SMOOTH)
def test_is_twice_differentiable(case: Case, differentiate: Callable[[Case], None]) -> None:
    differentiate(case)


def test_every_rule_has_a_case() -> None:
    covered = {lookup("", case["op"], case.get("opset", 25)) for case in CASES}
    missing = [f"{rule.op_type} since {rule.since}" for rule in registered() if rule not in covered]
    assert missing == []
