"""Makes the documents in this folder: a small residual network, trained on digits, is quantized within a budget.

    python tests/report/data/make.py

Run it when a member is added to the documents; torch and the processor decide the last digits.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import pipeline
from examples.networks import DigitsResNet, save, train
from pipeline import events

HERE = Path(__file__).parent
REQUEST = {"budget": {"metric": "top1", "max_drop": 0.005}, "weights": {"bits": [2, 3, 4, 8]}}


class Stopwatch:
    """What each stage takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = 0.0

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.StageBegan):
            self._began = time.monotonic()
        elif isinstance(event, events.StageEnded):
            self.seconds[event.stage] = round(time.monotonic() - self._began, 3)


def main() -> None:
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        network = DigitsResNet()
        train(network, epochs=12, learning_rate=5e-3)
        model, data = save(network, Path(folder), "digits")
        result = pipeline.plan(model, data, REQUEST, progress=watch)
    for kind in ("plan", "frontier", "sensitivity", "samples"):
        if kind in result.artifacts:
            (HERE / f"{kind}.json").write_bytes(result.artifacts[kind])
    (HERE / "stage_seconds.json").write_text(json.dumps(watch.seconds, indent=1) + "\n")


if __name__ == "__main__":
    main()
