"""The product's metrics written once more in numpy: what would a certificate say of a network that knows nothing?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.certificates.entry import Array, Arrays
from benchmarks.certificates.losses import accuracy_lost, changed, r2_lost, unexplained
from benchmarks.certificates.null import null_outputs


def would_certify(certificate: Mapping[str, Any], before: Arrays, fresh: Arrays) -> tuple[str, ...] | None:
    """The null networks that the certificate's claims and budgets let pass, all claims together.

    By the metrics written here, and by what the certificate itself says: `blind_to`, and each claim's `null`.
    None: no metric of it is written here, and it says nothing.
    """
    passed: list[str] = []
    claims = certificate.get("claims") or (certificate,)
    known = "blind_to" in certificate
    for kind, null in null_outputs(before).items():
        drops = [
            (claim, null_drop(claim["metric"], before, null, fresh, tuple(claim.get("outputs", ()))))
            for claim in claims
        ]
        seen = [(claim, drop) for claim, drop in drops if drop is not None]
        known = known or bool(seen)
        if len(seen) == len(claims) and all(drop <= claim["max_drop"] for claim, drop in seen):
            passed.append(f"{kind} (drop {max(drop for _, drop in seen):.4g})")
    passed += [f"blind to {blind['null']}" for blind in certificate.get("blind_to") or ()]
    said = [claim["null"] for claim in claims if claim.get("null")]
    for kind in said[0] if len(said) == len(claims) else ():
        if all(null.get(kind, 1e9) <= certificate["max_drop"] for null in said):
            passed.append(f"{kind} (the certificate's own test)")
    return tuple(passed) if known else None


def null_drop(metric: str, before: Arrays, after: Arrays, fresh: Arrays, outputs: tuple[str, ...] = ()) -> float | None:
    """The drop by `metric` of its first output, or None where the metric is not written here.

    Without `outputs` it is the network's first. `explained` takes the whole output as one channel group, which is
    never more than the worst of its groups.
    """
    output = outputs[0] if outputs else next(iter(before))
    x, y = before[output], after[output]
    if x.dtype == object:  # rows that one sample has more of than another
        return None
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
            return unexplained(x, y)
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
