"""Losses of whole plans, of all samples and of the first ones."""

from __future__ import annotations

import numpy as np
import pytest

from sensitivity.loss import Kind, Loss
from sensitivity.plan_losses import MeasuredPlans

LOSS = Loss.of(Kind.KL, "y")


def test_the_first_samples_lose_what_they_lose_among_all(mlp, perturbations, samples_of):
    changes = perturbations(mlp, 0.2, count=1)
    measured = MeasuredPlans(mlp, changes, samples_of(mlp, 12), LOSS, batch=5)
    plan = range(len(changes))
    whole = measured.losses(plan)
    assert whole.shape == (12,)
    for samples, whole_batches in ((1, 5), (5, 5), (6, 10), (11, 12), (12, 12)):
        np.testing.assert_array_equal(measured.losses(plan, samples), whole[:whole_batches])


def test_more_cores_change_no_loss_and_no_whole_batch(mlp, perturbations, samples_of):
    changes, inputs = perturbations(mlp, 0.2, count=1), samples_of(mlp, 12)
    one, three = (MeasuredPlans(mlp, changes, inputs, LOSS, threads=threads, batch=5) for threads in (1, 3))
    plan = range(len(changes))
    np.testing.assert_allclose(three.losses(plan), one.losses(plan), rtol=1e-4, atol=1e-9)
    assert len(three.losses(plan, 6)) == 10


def test_check_is_called_after_every_batch(mlp, perturbations, samples_of):
    """So that a plan on many samples can be stopped before it has run on all of them."""

    class Cancelled(Exception):
        pass

    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Cancelled

    measured = MeasuredPlans(mlp, perturbations(mlp, 0.2, count=1), samples_of(mlp, 12), LOSS, batch=5, check=check)
    assert calls == 3
    with pytest.raises(Cancelled):
        measured.losses([0])
    assert calls == 5
