"""What the file of a plan gives for samples, run here or by another process before."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.measurement import Outputs
from evaluation.runner import OnnxRunner
from pipeline.context import Context
from pipeline.reference import runner_of
from pipeline.results import pack, unpack
from pipeline.workspace import Inputs

# outputs of one plan that are kept for another process; where there are more, it has the rounded weights, and runs them
MOST_BYTES = 64 << 20


class PlanOutputs:
    """The outputs of a plan's file, batch by batch; the file is made when the first batch is run here.

    Args:
        export: makes the file.
        recorded: what another process `packed`, empty for nothing.
        records: whether to keep what is run here.
    """

    def __init__(
        self,
        context: Context,
        inputs: Inputs,
        export: Callable[[], bytes],
        recorded: bytes = b"",
        *,
        records: bool = False,
    ) -> None:
        self._context = context
        self._inputs = inputs
        self._export = export
        self._records = records
        self._known: dict[int, dict[str, NDArray[np.generic]]] = {}
        self._size: int | None = None
        if recorded:
            document, arrays = unpack(recorded)
            self._size = document["size_bytes"]
            for key, array in arrays.items():
                place, _, name = key.partition("/")
                self._known.setdefault(int(place), {})[name] = array

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return len(self._file) if self._size is None else self._size

    def batch(self, place: int, run: Callable[[OnnxRunner], Outputs]) -> Outputs:
        """The outputs of the batch at `place`, known or `run` now."""
        if place in self._known:
            return self._known[place]
        outputs = run(self._runner)
        if self._records:
            self._known[place] = dict(outputs)
        return outputs

    def packed(self) -> bytes:
        """All that was recorded; empty where it is too much to keep."""
        arrays = {f"{place}/{name}": array for place, outputs in self._known.items() for name, array in outputs.items()}
        if sum(array.nbytes for array in arrays.values()) > MOST_BYTES:
            return b""
        return pack({"size_bytes": self.size_bytes}, arrays)

    @cached_property
    def _file(self) -> bytes:
        return self._export()

    @cached_property
    def _runner(self) -> OnnxRunner:
        return runner_of(self._context, self._inputs, self._file)
