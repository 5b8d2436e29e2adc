"""Whether a delivered decoder decodes: from an empty past, step by step, as in one run over all tokens."""

from __future__ import annotations

import numpy as np
import onnxruntime

from benchmarks.networks.entry import Array, Cache, Network
from benchmarks.networks.running import session_of

TOKENS = 9
PREFILL = 4
BATCHES = (1, 3)
TOLERANCE = 2e-3
"""Relative to the largest logit: sums of floats in another order."""


def wrong_steps(file: Network, model: bytes) -> list[str]:
    """What goes wrong when the file decodes, one text for each batch; empty for a network without a cache."""
    if file.cache is None:
        return []
    session = session_of(model)
    texts = []
    for batch in BATCHES:
        ids = np.random.default_rng(7).integers(1, 20, (batch, TOKENS))
        try:
            whole, steps = _run(session, file.cache, [ids]), _run(session, file.cache, _steps(ids))
        except Exception as error:  # noqa: BLE001 - a decoder that does not run is what is looked for
            texts.append(f"decoding {batch} texts: {str(error).splitlines()[0][:200]}")
            continue
        worst = float(np.abs(whole - steps).max() / np.abs(whole).max())
        if not worst <= TOLERANCE:
            texts.append(f"decoding {batch} texts step by step differs by {worst:.2g} from one run over all tokens")
    return texts


def _steps(ids: Array) -> list[Array]:
    return [ids[:, :PREFILL], *(ids[:, i : i + 1] for i in range(PREFILL, ids.shape[1]))]


def _run(session: onnxruntime.InferenceSession, cache: Cache, parts: list[Array]) -> Array:
    """The logits of all tokens, given in parts one after another; the first part has an empty past."""
    past: dict[str, Array] = {}
    batch = parts[0].shape[0]
    for value in session.get_inputs():
        if value.name in cache.presents:
            shape = [batch if axis == 0 else size for axis, size in enumerate(value.shape)]
            shape[cache.length_axis] = 0
            past[value.name] = np.zeros(shape, np.float32)
    names = [output.name for output in session.get_outputs()]
    logits = []
    for part in parts:
        values = dict(zip(names, session.run(names, {cache.ids: part, **past}), strict=True))
        logits.append(values[cache.logits])
        past = {name: values[present] for name, present in cache.presents.items()}
    return np.concatenate(logits, axis=1)
