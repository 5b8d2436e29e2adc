"""The rule that says whether a word is kept: files that are known to be good or bad, and checks that cannot fail."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.certificates import kept_word
from benchmarks.certificates.coverage import rounded
from benchmarks.certificates.kept_word import Report, Word, run_entry, summary
from benchmarks.certificates.networks import NAMES, build
from benchmarks.certificates.rule import RuleCannotFail, judge, require_failing
from benchmarks.certificates.running import outputs_of
from benchmarks.certificates.twins import would_certify

CERTIFICATE = {"metric": "agreement", "max_drop": 0.05, "samples": 240}


@pytest.fixture(scope="module")
def digits():
    return build("digits_agreement")


@pytest.fixture(scope="module")
def before(digits):
    return outputs_of(digits.model, digits.fresh, digits.batch_axes)


def judged(entry, before, model):
    return judge(entry, CERTIFICATE, before, outputs_of(model, entry.fresh, entry.batch_axes))


def test_there_are_enough_networks_of_every_kind():
    assert len(NAMES) >= 40


def test_the_float_network_and_a_careful_rounding_keep_the_word(digits, before):
    assert judged(digits, before, digits.model).losses == {"accuracy": 0, "changed": 0}
    careful = judged(digits, before, rounded(digits.model, levels=255))
    assert careful.kept
    assert careful.limits["changed"] >= 0.05


def test_a_broken_network_is_noticed(digits, before):
    broken = judged(digits, before, rounded(digits.model, levels=3))
    assert not broken.kept
    assert any(reason.startswith("changed") for reason in broken.reasons)


def test_a_drop_just_above_the_budget_is_noticed_by_the_budget_alone(digits, before):
    """Not by what the entry calls broken: here that is out of reach."""
    lenient = replace(digits, broken={"changed": 1.0})
    after = {"logits": before["logits"].copy()}
    count = int(0.2 * len(after["logits"]))
    after["logits"][:count] = -after["logits"][:count]
    judgement = judge(lenient, CERTIFICATE, before, after)
    assert not judgement.kept
    assert judge(lenient, {**CERTIFICATE, "metric": "kl"}, before, after).kept, "nats are another unit"


@pytest.mark.parametrize("wrong", ["nan", "type", "shape", "name"])
def test_an_interface_that_changed_is_noticed(digits, before, wrong):
    logits = before["logits"].copy()
    match wrong:
        case "nan":
            logits[7, 3] = np.nan
            after = {"logits": logits}
        case "type":
            after = {"logits": logits.astype(np.float64)}
        case "shape":
            after = {"logits": logits[:, :-1]}
        case _:
            after = {"scores": logits}
    assert not judge(digits, CERTIFICATE, before, after).kept


def test_a_check_that_cannot_fail_is_an_error(digits, before):
    require_failing(digits, CERTIFICATE, before)
    blind = replace(digits, check=lambda before, after, fresh: {"changed": 0.0}, broken={"changed": 0.1})
    with pytest.raises(RuleCannotFail, match="mend the entry's check"):
        require_failing(blind, CERTIFICATE, before)


def test_a_cosine_of_one_number_would_be_certified_without_any_network():
    value = {"value": np.random.default_rng(0).uniform(2, 3, (300, 1)).astype(np.float32)}
    told = would_certify({"metric": "cosine", "max_drop": 0.02}, value, {})
    assert told is not None
    assert len(told) == 2
    assert would_certify({"metric": "explained", "max_drop": 0.02}, value, {}) == ()
    assert would_certify({"metric": "unheard of", "max_drop": 0.02}, value, {}) is None


def test_what_a_certificate_says_of_itself_counts():
    value = {"value": np.random.default_rng(0).normal(size=(300, 1))}
    claim = {"metric": "explained", "max_drop": 0.02, "outputs": ["value"]}
    certificate = {"max_drop": 0.02, "claims": [claim], "blind_to": [{"null": "output state", "drop": 0.0}]}
    assert would_certify(certificate, value, {}) == ("blind to output state",)
    own = {**claim, "null": {"the mean outputs": 0.01}}
    assert would_certify({"max_drop": 0.02, "claims": [own]}, value, {}) == (
        "the mean outputs (the certificate's own test)",
    )


def test_a_whole_job_keeps_its_word():
    report = run_entry("cell_by_hand")
    assert report.word in (Word.KEPT, Word.NOT_MET), report.line()
    assert report.bytes < report.float_bytes


def test_a_refusal_keeps_no_word():
    reports = [Report("a", "f", Word.KEPT), Report("b", "f", Word.NOT_MET), Report("c", "f", Word.REFUSED)]
    figures = summary([*reports, Report("d", "f", Word.BROKEN, vacuous=("mean",))])
    assert figures["kept_word"] == "2/4"
    assert (figures["not_met"], figures["vacuous"], figures["broken"]) == (1, 1, ["d"])


def test_a_delivered_file_that_does_not_run_keeps_no_word(digits):
    certificate = {**CERTIFICATE, "drop": 0.0, "low": 0.0, "high": 0.0}
    result = SimpleNamespace(outcome="met", certificate=certificate, model=b"no network", plan={"reason": None})
    report = kept_word._judged(digits, result, 0.0, 0.0)
    assert report.word is Word.BROKEN
    assert "does not run" in report.reasons[0]
