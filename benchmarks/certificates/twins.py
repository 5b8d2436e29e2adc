"""The product's metrics written once more in numpy: what would a certificate say of a network that knows nothing?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.certificates.entry import Array, Arrays
from benchmarks.certificates.losses import accuracy_lost, changed, r2_lost, unexplained
from benchmarks.certificates.null import null_outputs


def would_certify(certificate: Mapping[str, Any], before: Arrays, fresh: Arrays) -> tuple[str, ...] | None:
    """The null networks that the certificate's metric and budget let pass.

    By the metric written here, and by what the certificate itself says (`blind_to`, and `null_drops` by kind).
    None: the metric is not written here and the certificate does not say.
    """
    passed: list[str] = []
    known = False
    for kind, null in null_outputs(before).items():
        drop = null_drop(certificate["metric"], before, null, fresh)
        known = known or drop is not None
        if drop is not None and drop <= certificate["max_drop"]:
            passed.append(f"{kind} (drop {drop:.4g})")
    if "blind_to" in certificate:
        known = True
        passed += [f"blind to {what}" for what in certificate["blind_to"] or ()]
    if certificate.get("null_drops"):
        known = True
        drops = certificate["null_drops"]
        passed += [f"{kind} (certificate)" for kind, drop in drops.items() if drop <= certificate["max_drop"]]
    return tuple(passed) if known else None


def null_drop(metric: str, before: Arrays, after: Arrays, fresh: Arrays) -> float | None:
    """The drop by `metric`, or None where the metric is not written here. Metrics of one output take the first."""
    output = next(iter(before))
    x, y = before[output], after[output]
    match metric:
        case "top1" if "labels" in fresh:
            axis = 1 if x.ndim > 2 and x.shape[2:] == fresh["labels"].shape[1:] else -1
            return accuracy_lost(x, y, fresh["labels"], axis)
        case "agreement":
            return changed(x, y)
        case "kl":
            return _divergence(x, y)
        case "cosine":
            return _angle(x, y)
        case "explained":
            floats = [name for name, value in before.items() if value.dtype.kind == "f"]
            return max(unexplained(before[name], after[name]) for name in floats)
        case "r2" if "targets" in fresh:
            return r2_lost(x, y, fresh["targets"])
    return None


def _angle(x: Array, y: Array) -> float:
    a, b = (v.reshape(len(v), -1).astype(np.float64) for v in (x, y))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(1 - ((a * b).sum(1) / np.maximum(lengths, 1e-30)).mean())


def _divergence(x: Array, y: Array) -> float:
    def logs(values: Array) -> Array:
        v = values.astype(np.float64)
        if (v >= 0).all() and np.allclose(v.sum(-1), 1, atol=1e-3):
            return np.asarray(np.log(np.maximum(v, 1e-12)))
        v = v - v.max(-1, keepdims=True)
        return np.asarray(v - np.log(np.exp(v).sum(-1, keepdims=True)))

    p, q = logs(x), logs(y)
    return float((np.exp(p) * (p - q)).sum(-1).mean())
