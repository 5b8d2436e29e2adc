"""Calibration in several groups: the same weights, progress that only grows, one group's statistics at a time."""

from __future__ import annotations

import gc
import weakref

from quantization.statistics import InputStatistics
from workers.stages import calibrate

REQUEST = {"weights": {"bits": [3]}, "budget": {"max_drop": 0.5}}


def test_groups_change_no_weight_and_hold_one_statistic_at_a_time(job, model, samples, monkeypatch):
    together = job(model, samples, REQUEST).run()
    most: list[int] = []
    filled: list[weakref.ref[InputStatistics]] = []
    collect = InputStatistics.add

    def add(self, *arguments):
        if all(seen() is not self for seen in filled):
            filled.append(weakref.ref(self))
        most.append(sum(seen() is not None for seen in filled))
        collect(self, *arguments)

    monkeypatch.setattr(InputStatistics, "add", add)
    monkeypatch.setattr(calibrate, "STATISTICS_BYTES", 1)
    gc.disable()  # what is freed is freed because nobody holds it
    try:
        apart = job(model, samples, REQUEST).run()
    finally:
        gc.enable()
    assert len(filled) == 3
    assert max(most) == 1
    assert apart.artifacts["model"] == together.artifacts["model"]
