"""The loss of whole plans, measured without exporting them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

from pipeline.context import Context
from pipeline.results import number, pack, unpack
from pipeline.workspace import Arrays, Inputs
from sensitivity.loss import Loss
from sensitivity.plan_losses import MeasuredPlans


class PlanLosses:
    """Mean losses of plans on `samples`; every value is a chunk, and several are spread.

    Args:
        batch: samples that run at once.
    """

    def __init__(self, context: Context, inputs: Inputs, samples: Arrays, loss: Loss, batch: int) -> None:
        self._context = context
        self._inputs = inputs
        self._samples = samples
        self._loss = loss
        self._batch = batch

    def mean(self, chunk: str, candidates: Sequence[int], samples: int | None = None) -> float:
        """The mean loss of a plan; NaN where it is no number: a plan may destroy the network.

        Args:
            chunk: the name of this value.
            candidates: their places among those of the job.
            samples: only of the first so many, rounded up to whole batches; None for all.
        """

        return _loss(self._context.chunk(chunk, lambda: self._measured(candidates, samples)))

    def means(self, chunks: Sequence[str], plans: Sequence[Sequence[int]]) -> Iterator[float]:
        """The mean loss over all samples of each of several plans, as `mean` gives it."""
        yield from map(_loss, self._context.spread(chunks, lambda place: self._measured(plans[place], None)))

    def _measured(self, candidates: Sequence[int], samples: int | None) -> bytes:
        return pack({"loss": number(self._runs.losses(candidates, samples).mean())})

    @cached_property
    def _runs(self) -> MeasuredPlans:
        """Made when the first value is not there yet."""
        return MeasuredPlans(
            self._inputs.network,
            self._context.workspace.candidates().changes(self._inputs.network),
            self._samples,
            self._loss,
            threads=self._context.machine.threads,
            batch=self._batch,
            check=self._context.check,
        )


def _loss(blob: bytes) -> float:
    document, _ = unpack(blob)
    return math.nan if document["loss"] is None else float(document["loss"])
