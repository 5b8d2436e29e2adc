"""Outputs of networks that know nothing, made from the float network's own: they cost nothing."""

from __future__ import annotations

import numpy as np

from evaluation.metrics.measurement import Output, Outputs


def other_samples(outputs: Outputs, seed: int = 0) -> dict[str, Output]:
    """Each sample with the outputs of another one, the same one for all outputs."""
    count = len(next(iter(outputs.values())))
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return {name: output[partner] for name, output in outputs.items()}


def mean_outputs(outputs: Outputs) -> dict[str, Output]:
    """Every sample with the mean of all; of codes with the most frequent code of each place."""
    return {name: mean_output(output) for name, output in outputs.items()}


def mean_output(output: Output) -> Output:
    if output.dtype.kind != "f":
        return np.broadcast_to(_most_frequent(output), output.shape)
    present = np.isfinite(output)
    count = np.maximum(present.sum(0), 1)
    mean = (np.where(present, output, 0).sum(0, dtype=np.float64) / count).astype(output.dtype)
    filled = np.broadcast_to(mean, output.shape)
    return filled if present.all() else np.where(present, filled, output)


def _most_frequent(codes: Output) -> Output:
    """Of each place the code that most samples have, the lowest of equals."""
    ordered = np.sort(codes.reshape(len(codes), -1), axis=0)
    best, most = ordered[0].copy(), np.zeros(ordered.shape[1], dtype=np.int64)
    run = np.zeros(ordered.shape[1], dtype=np.int64)
    for place in range(len(ordered)):
        same = ordered[place] == ordered[place - 1] if place else np.zeros(len(run), dtype=bool)
        run = np.where(same, run + 1, 1)
        better = run > most
        best, most = np.where(better, ordered[place], best), np.maximum(run, most)
    return np.asarray(best.reshape(codes.shape[1:]))
