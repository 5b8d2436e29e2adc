"""Weights that no sample reaches: in the branch of an If that is never taken, the body of a Loop that never runs.

Nothing measures what fewer bits do to them, so that they keep the widest format and are told.
"""

from __future__ import annotations

import numpy as np

from network.segments import SegmentedNetwork, Values
from pipeline.context import Context
from pipeline.workspace import Inputs


def unreached_sites(context: Context, inputs: Inputs) -> set[str]:
    """Names of the sites all of whose layers lie in inner graphs, and whose weight changes no output of any sample that
    is not held out."""
    network = inputs.network
    hidden = [site for site in network.sites if site.is_inner]
    if not hidden:
        return set()
    samples = np.concatenate([inputs.splits.search, inputs.splits.calibration])
    segments = SegmentedNetwork(network, context.machine.threads)
    waiting = {site.name for site in hidden}
    whole = segments.after(0)
    changed = {
        site.name: segments.after(0, replaced={site.weight: np.zeros(site.shape, np.float32)}) for site in hidden
    }
    for batch in network.batching.batches(inputs.take(samples), inputs.batch):
        call = network.batching.call(batch)
        before = whole.run(call)
        waiting = {name for name in waiting if _equal(before, changed[name].run(call))}
        context.check()
        if not waiting:
            break
    return waiting


def _equal(before: Values, after: Values) -> bool:
    return all(np.array_equal(array, after[name], equal_nan=array.dtype.kind == "f") for name, array in before.items())
