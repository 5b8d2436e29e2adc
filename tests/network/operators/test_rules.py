"""Every rule against ONNX Runtime, and its derivatives against finite differences. The cases lie in cases/."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import network.operators  # noqa: F401  (fills the registry)
from network.errors import OpsetNotReachable
from network.operators.registry import RULES, lookup

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


def _older(case: Case) -> list[int]:
    """For each version of the operator below 25 the oldest opset that has it, from 18 on."""
    versions = {opset: onnx.defs.has(case["op"], opset, "") for opset in range(18, 26)}
    since = {o: onnx.defs.get_schema(case["op"], o, "").since_version for o, known in versions.items() if known}
    return [opset for opset, version in since.items() if version != since[25] and version in (opset, since.get(18))]


# of the cases: the operators that have no counterpart before that opset with so many inputs, the attribute or its value
NEW = {
    ("AveragePool", "dilations"): 19,
    ("Pad", "wrap"): 19,
    ("Resize", "half_pixel_symmetric"): 19,
    **{(op, "ceil_mode"): 22 for op in ("AveragePool", "LpPool", "MaxPool")},
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=name) for name, c in zip(IDS, CASES, strict=True) if "opset" not in c and _older(c)],
)
def test_gives_what_onnx_runtime_gives_at_older_opsets(case: Case, compare: Callable[..., None]) -> None:
    said = {len(case["inputs"]), *case.get("attributes", {}), *map(str, case.get("attributes", {}).values())}
    needed = [first for (op, what), first in NEW.items() if op == case["op"] and what in said]
    for opset in _older(case):
        # below what it needs, a case may also be one that happens to mean the same
        with suppress(OpsetNotReachable) if opset < max(needed, default=0) else nullcontext():
            compare(case, opset)


@pytest.mark.parametrize("case", SMOOTH)
def test_is_twice_differentiable(case: Case, differentiate: Callable[[Case], None]) -> None:
    differentiate(case)


# Sequences are no inputs or outputs, and inner graphs no cases: `test_steps` has them. ONNX Runtime does not run
# CumProd and SwiGLU, of which the standard's own tests say what is right (`test_node_tests`).
ELSEWHERE = {"ConcatFromSequence", "CumProd", "If", "Loop", "Scan", "SplitToSequence", "SwiGLU"}


def test_every_rule_has_a_case() -> None:
    covered = {lookup(case["op"], case.get("opset", 25)) for case in CASES}
    rules = [rule for versions in RULES.values() for rule in versions.values()]
    elsewhere = {rule for rule in rules if rule.op_type in ELSEWHERE or rule.op_type.startswith("Sequence")}
    missing = [f"{rule.op_type} since {rule.since}" for rule in rules if rule not in covered | elsewhere]
    assert missing == []
