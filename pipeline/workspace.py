"""What most stages begin with: the normalised network, the samples with their split, and how many run at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.dataset import Dataset, Splits, read_dataset, split, synthesize
from network.graph import Network
from network.memory import estimate_memory
from network.normalise import load
from network.opset import TARGET_OPSET
from pipeline.stage import StageContext
from pipeline.stages.admit import SYNTHETIC_SAMPLES, dataset_limits
from planner.targets import target
from sensitivity.loss import Loss

Arrays = dict[str, NDArray[np.generic]]

# What may be alive at once: small beside any machine, large enough that batches keep every core busy. A worker with
# little memory takes at most these shares of its limit.
RUN_BYTES = 256 << 20
GROUP_BYTES = 1 << 30
RUN_SHARE = 1 / 16
GROUP_SHARE = 1 / 4
MOST_IN_A_RUN = 128
MOST_IN_A_BACKWARD_PASS = 64
MOST_IN_A_GROUP = 4096
# Curvature is an average over samples: past some hundreds, what the extra samples add is below the estimate's error.
SENSITIVITY_SAMPLES = 1024
RANGE_SAMPLES = 512
# A backward pass keeps about every activation, not only the peak of those alive at once.
ACTIVATIONS_PER_PEAK = 16


@dataclass(frozen=True)
class Inputs:
    """The normalised network with its data."""

    network: Network
    dataset: Dataset
    splits: Splits
    loss: Loss
    synthetic: bool
    memory_limit_bytes: int | None = None

    @classmethod
    def read(cls, context: StageContext, opset: int = TARGET_OPSET) -> Inputs:
        """From the stage `normalise` and the job's dataset; without one, inputs made from the graph's shapes.

        The network has the newest opset for what analyses it, so that jobs that want other opsets share the analysis,
        and `opset` for what writes it (`opset_of`): operators that are expanded for an older one round otherwise.

        Raises:
            OpsetNotReachable: the network has nodes that this opset does not have.
        """
        network = load(context.read("normalise"), opset)
        seed = int(context.request["seed"])
        if context.dataset_path is None:
            dataset = synthesize(network.inputs, SYNTHETIC_SAMPLES, seed)
        else:
            dataset = read_dataset(context.dataset_path, network.inputs, dataset_limits(context))
        splits = split(dataset.samples, seed, dataset.labels)
        loss = loss_of(network, dataset, context.request["budget"]["metric"])
        return cls(network, dataset, splits, loss, context.dataset_path is None, context.memory_limit_bytes)

    @property
    def static_batch(self) -> int | None:
        """The batch size that the graph fixes, None where it leaves it free."""
        return self.network.inputs[0].shape[0]

    @cached_property
    def _sample_bytes(self) -> int:
        return max(estimate_memory(self.network.proto, self.static_batch or 1).activation_bytes, 1)

    @property
    def _run_bytes(self) -> int:
        return self._within(RUN_BYTES, RUN_SHARE)

    def _within(self, most: int, share: float) -> int:
        return most if self.memory_limit_bytes is None else min(most, int(share * self.memory_limit_bytes))

    @property
    def batch(self) -> int:
        """Samples of one forward run."""
        return self.static_batch or _clamp(self._run_bytes // self._sample_bytes, MOST_IN_A_RUN)

    @property
    def backward_batch(self) -> int:
        """Samples of one backward pass."""
        fitting = self._run_bytes // (ACTIVATIONS_PER_PEAK * self._sample_bytes)
        return self.static_batch or _clamp(2 * fitting, MOST_IN_A_BACKWARD_PASS)

    @property
    def kept_bytes(self) -> int:
        """Most that values at one cut of the network may take."""
        return self._within(GROUP_BYTES, GROUP_SHARE)

    @property
    def group(self) -> int:
        """Samples whose activations at one cut of the network may be kept at once; a multiple of `batch`."""
        fitting = _clamp(self.kept_bytes // self._sample_bytes, MOST_IN_A_GROUP)
        return max(fitting // self.batch, 1) * self.batch

    @property
    def sensitivity_samples(self) -> NDArray[np.int64]:
        """The samples that candidates are scored on: half of the search's, at most `SENSITIVITY_SAMPLES`, or one batch.

        None of the calibration: GPTQ fits the weights to those, which would flatter the formats with the fewest bits.
        The other half compares the methods with plans that are measured.
        """
        half = max(1, len(self.splits.search) // 2)
        return self.splits.search[: max(min(SENSITIVITY_SAMPLES, half), self.static_batch or 0)]

    @property
    def range_samples(self) -> NDArray[np.int64]:
        """The calibration samples that ranges of activations are taken from: `RANGE_SAMPLES`, or one batch."""
        return self.splits.calibration[: max(RANGE_SAMPLES, self.static_batch or 0)]

    def take(self, indices: NDArray[np.int64]) -> Arrays:
        """The input arrays of these samples; with a fixed batch size only as many as fill whole batches."""
        whole = len(indices) // self.static_batch * self.static_batch if self.static_batch else len(indices)
        return {name: array[indices[:whole]] for name, array in self.dataset.inputs.items()}

    def backward_batches(self, indices: NDArray[np.int64]) -> Iterator[Arrays]:
        """The input arrays of these samples, as many at once as may go through a backward pass."""
        arrays = self.take(indices)
        for start in range(0, len(next(iter(arrays.values()))), self.backward_batch):
            yield {name: array[start : start + self.backward_batch] for name, array in arrays.items()}


def opset_of(request: Mapping[str, Any]) -> int:
    """The opset of the result: what the request asks for, or the newest that its target takes.

    Raises:
        ConstraintImpossible: the target takes no opset as new.
    """
    return target(request["target"]).opset_for(request["opset"])


def loss_of(network: Network, dataset: Dataset, metric: str | None) -> Loss:
    """Which loss's rise is the damage: KL for classifiers, squared error for everything else.

    A network is taken for a classifier when the data has labels, and, without labels or targets, when its output is
    one row of at least two numbers for each sample. Of the request only `metric` cosine matters, so that another
    budget finds the same analysis.
    """
    if dataset.targets is not None or metric == "cosine":
        return Loss.SQUARED_ERROR
    shape = network.outputs[0].shape
    if dataset.labels is not None or (len(shape) == 2 and (shape[1] or 2) >= 2):
        made_by = {name: node.op_type for node in network.proto.graph.node for name in node.output}
        return Loss.KL_PROBABILITIES if made_by.get(network.outputs[0].name) == "Softmax" else Loss.KL
    return Loss.SQUARED_ERROR


def _clamp(fitting: int, most: int) -> int:
    return max(1, min(fitting, most))
