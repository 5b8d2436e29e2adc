"""Whole jobs of a few networks in their quick form, and what becomes of every way in which a job can end."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import pipeline
from app.errors import AppError
from benchmarks.networks import trial
from benchmarks.networks.entry import BUILDERS, Builder, Refusal, made
from benchmarks.networks.networks import NAMES, build
from benchmarks.networks.random_weights import normal
from benchmarks.networks.running import outputs_of
from benchmarks.networks.trial import Word, merged, summary, tried
from benchmarks.networks.written import weights, written

TEXT = "(float[n, 12] x) => (float[n, 4] y) { a = MatMul(x, W) r = Relu(a) y = MatMul(r, V) }"
SHORT = ("ir3_opset7", "byte_image", "best_three", "branches", "keyword_stft", "weights_as_inputs")
"""Jobs of a few seconds: an old file, bytes, codes, bodies, an exported network, replaceable weights."""
BY_HAND = ("bodies", "interfaces", "masks", "old_files", "places", "quantized", "serving", "types")


def small(refusal=None):
    return made(written(TEXT, weights(0, W=(12, 30), V=(30, 4))), normal(x=(12,)), refusal=refusal)


@pytest.fixture
def network(monkeypatch):
    """A network called `small`, whose job does what the test says."""

    def prepare(job, refusal=None):
        monkeypatch.setitem(BUILDERS, "small", Builder("small", "a test", lambda: small(refusal)))
        monkeypatch.setattr(pipeline, "plan", job)
        return tried("small")

    return prepare


def raising(error):
    def job(*_, **__):
        raise error

    return job


def test_there_are_enough_networks():
    assert len(NAMES) >= 45


@pytest.mark.parametrize("name", [name for name in NAMES if BUILDERS[name].build.__module__.split(".")[-1] in BY_HAND])
def test_networks_written_by_hand_run_and_their_outputs_vary(name):
    file = build(name)
    fresh = {key: array[:16] for key, array in file.fresh.items()}
    for rows in outputs_of(file, file.model, fresh).values():
        assert all(len(values) == 16 for values in rows.values())
        assert any(np.std(np.asarray(values, np.float64), axis=0).max() > 1e-3 for values in rows.values())


@pytest.mark.parametrize("name", SHORT)
def test_the_product_keeps_its_word(name):
    report = tried(name, quick=True)
    assert report.well, report.line()
    assert report.word in (Word.KEPT, Word.NOT_MET)


def test_jobs_run_in_processes_of_their_own():
    (report,) = trial.run(["training_dropout"])
    assert report.word is Word.REFUSED
    assert summary([report])["kept_word"] == "1/1"


def test_a_job_that_does_not_end_is_a_failure(monkeypatch):
    monkeypatch.setattr(trial, "LIMIT_SECONDS", 0.0)
    (report,) = trial.run(["training_dropout"])
    assert (report.word, report.reasons) == (Word.FAILED, ("not done after 0 s",))


REFUSED = Refusal(("model_training_mode",), "eval")


@pytest.mark.parametrize(
    ("error", "refusal", "word"),
    [
        (KeyError("node_3"), None, Word.FAILED),
        (AppError("internal", "something broke"), REFUSED, Word.FAILED),
        (AppError("model_training_mode", "export with eval()"), None, Word.WRONGLY_REFUSED),
        (AppError("model_training_mode", "export with eval()"), REFUSED, Word.REFUSED),
        (AppError("model_training_mode", "no"), REFUSED, Word.WRONGLY_REFUSED),
        (AppError("model_invalid", "export with eval()"), REFUSED, Word.WRONGLY_REFUSED),
    ],
)
def test_how_a_job_ends_without_a_file(network, error, refusal, word):
    report = network(raising(error), refusal)
    assert report.word is word
    assert report.well == (word is Word.REFUSED)
    if word is not Word.REFUSED:
        assert str(getattr(error, "detail", error)) in report.line()


def delivered(model, claims, outcome="met"):
    plan = {
        "stays_float": {"bytes": 0, "share": 0.0},
        "audit": {"scales_bytes": 0},
        "layers": [],
        "reason": "misses by 3",
    }
    certificate = {"claims": claims, "blind_to": [], "samples": 72}
    result = SimpleNamespace(model=model, plan=plan, certificate=certificate, outcome=outcome)
    return lambda *_, **__: result


CLAIM = {"metric": "explained", "outputs": ["y"], "options": {"axis": 1}, "max_drop": 0.02}
OTHER = written(TEXT, weights(5, W=(12, 30), V=(30, 4)))


def test_a_network_that_must_be_refused_and_is_not(network):
    assert network(delivered(small().model, [CLAIM]), REFUSED).word is Word.NOT_REFUSED


def test_another_network_breaks_the_word_and_floats_are_told(network):
    report = network(delivered(OTHER, [CLAIM]))
    assert report.word is Word.BROKEN
    assert report.losses["explained of y"] > 0.5
    assert report.untold_bytes > 0
    assert summary([report])["broken"] == ["small"]


def test_not_met_is_an_honest_word(network):
    report = network(delivered(OTHER, [CLAIM], outcome="not_met"))
    assert (report.word, report.reasons) == (Word.NOT_MET, ("misses by 3",))


def test_a_file_that_does_not_run_breaks_the_word(network):
    renamed = written(TEXT.replace("] x)", "] z)").replace("(x, W)", "(z, W)"), weights(0, W=(12, 30), V=(30, 4)))
    report = network(delivered(renamed, [CLAIM]))
    assert report.word is Word.BROKEN
    assert report.interface == ("inputs ['z'], uploaded ['x']",)


def test_a_quick_job_keeps_what_the_network_asks_for():
    request = {"budget": {"max_drop": 0.1}, "weights": {"bits": [8]}}
    assert merged(request, trial.QUICK) == {
        "budget": {"max_drop": 0.1},
        "weights": {"bits": [8], "rounding": "nearest"},
        "sensitivity": {"method": "measured"},
    }
    assert request["weights"] == {"bits": [8]}
