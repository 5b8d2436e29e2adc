"""The standard's own tests of its operators: differentiable execution is right, or says that it does not compute it."""

from __future__ import annotations

import re

import pytest

from tests.oracles.node_tests import Kind, Outcome, by_kind, cases, run_execution

# What is left out on purpose: text and images, random numbers, training, floats of 8 bits or less and integers of 4 or
# less (which have to round as they do), formats of other domains, and what ONNX Runtime does not run.
WITHOUT_A_RULE = frozenset(
    {"Bernoulli", "BitCast", "CausalConvWithState", "ImageDecoder", "LinearAttention", "OptionalGetElement"}
    | {"OptionalHasElement", "RandomUniformLike", "Scatter", "TfIdfVectorizer", "Upsample"}
    | {"Attention", "BatchNormalization", "Cast", "CastLike", "Dropout", "GRU", "LSTM", "QuantizeLinear", "RNN", "Scan"}
)


@pytest.fixture(scope="module")
def outcomes() -> dict[Kind, list[Outcome]]:
    return by_kind(run_execution(case) for case in cases())


def test_no_value_is_wrong(outcomes: dict[Kind, list[Outcome]]) -> None:
    assert outcomes[Kind.WRONG] == []


def test_no_error_is_foreign(outcomes: dict[Kind, list[Outcome]]) -> None:
    assert outcomes[Kind.FOREIGN] == []


def test_what_is_not_supported_is_so_on_purpose(outcomes: dict[Kind, list[Outcome]]) -> None:
    texts = [outcome.text for outcome in outcomes[Kind.UNSUPPORTED]]
    named = {match[1] for text in texts if (match := re.match(r"operators without a rule: ([\w.]+)", text))}
    assert {operator for operator in named if "." not in operator} <= WITHOUT_A_RULE
    assert [text for text in texts if "is not computed from such values" in text] == []
    assert len(outcomes[Kind.RIGHT]) > 5 * len(texts)
