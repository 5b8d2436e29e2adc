"""The standard's own tests of operators go to the newest opset and back without a wrong value or a foreign error.

One test of each operator, and those that were once wrong; `tests.oracles.opset_runs` has what runs them all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.oracles.node_networks import Inputs
from tests.oracles.node_tests import Case, Kind, cases
from tests.oracles.opset_runs import outcomes

ONCE_WRONG = (
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal",
    "test_bitcast_float32_to_int32",
    "test_cumprod_2d_axis_0",
    "test_reduce_sum_default_axes_keepdims_example",
    "test_scan_sum",
    "test_split_zero_size_splits_opset13",
    "test_training_dropout_default",
    "test_tril_zero",
)


def chosen(seed: int = 0) -> Iterator[Case]:
    by_operator: dict[str, list[Case]] = {}
    for case in cases():
        by_operator.setdefault(case.model.graph.node[0].op_type, []).append(case)
    draw = random.Random(seed)
    yield from (draw.choice(alike) for _, alike in sorted(by_operator.items()))
    yield from (case for case in cases() if case.name in ONCE_WRONG)


@pytest.mark.parametrize("part", range(4))
def test_no_operator_comes_out_wrong(part: int) -> None:
    draw = random.Random(part)
    ways = list(Inputs)
    found = []
    for place, case in enumerate(chosen()):
        if place % 4 == part:
            found += outcomes(case, ways if case.name in ONCE_WRONG else [draw.choice(ways)], (18,))
    wrong = [outcome for outcome in found if outcome.kind in (Kind.WRONG, Kind.FOREIGN)]
    assert not wrong
    assert sum(outcome.kind is Kind.RIGHT and outcome.name.endswith(", normalised") for outcome in found) > 30
