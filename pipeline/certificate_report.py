"""The report of a job that certifies a quantized file: one document, and nothing is computed here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.certificate_config import CertificateReportConfig
from pipeline.context import Context
from pipeline.results import unpack
from pipeline.stage import JobResult

CERTIFICATE_VERSION = 1
_NAMED = 3  # defects in a reason


def certificate_report(context: Context, config: CertificateReportConfig) -> JobResult:
    """The certificate with everything that was found; met where the budget is kept and no finding is a defect."""
    compared, _ = unpack(context.read("compare"))
    inspection, _ = unpack(context.read("inspect"))
    findings = [*inspection.pop("findings"), *compared["findings"]]
    defects = [finding for finding in findings if finding["severity"] == "defect"]
    certificate = compared["certificate"]
    outcome = "met" if certificate["met"] and not defects else "not_met"
    document = {
        "version": CERTIFICATE_VERSION,
        "outcome": outcome,
        "reason": _reason(certificate, defects),
        "model_sha256": context.keys["model"],
        "quantized_sha256": context.keys["quantized"],
        "dataset_sha256": context.keys["dataset"] or None,
        "request": dict(sorted(config.request.items())),
        "float_size_bytes": inspection.pop("float_bytes"),
        "size_bytes": inspection.pop("quantized_bytes"),
        "certificate": certificate,
        "metrics": compared["metrics"],
        "outputs": compared["outputs"],
        "findings": findings,
        "inspection": inspection,
    }
    summary = {key: document[key] for key in ("outcome", "reason", "float_size_bytes", "size_bytes", "certificate")} | {
        "findings": dict(sorted(Counter(finding["severity"] for finding in findings).items()))
    }
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    return JobResult(outcome, summary, {"certificate": text.encode()})


def _reason(certificate: Mapping[str, Any], defects: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the file is not certified: what it loses beyond the budget, and what is wrong with it."""
    reasons = []
    if not certificate["met"]:
        missed = [claim for claim in certificate["claims"] if not claim["met"]]
        worst = max(missed, key=lambda claim: claim["drop"] - claim["max_drop"])
        which = "drop" if certificate["confidence"] is None else "high"
        place = worst["part"] or " and ".join(worst["outputs"])
        reasons.append(
            f"the {worst['metric']} of {place} misses the budget on these samples (drop {worst[which]:.4g}, allowed "
            f"{worst['max_drop']:g})"
        )
    if defects:
        named = "; ".join(" at ".join(filter(None, (found["code"], found["where"]))) for found in defects[:_NAMED])
        more = f" and {len(defects) - _NAMED} more" if len(defects) > _NAMED else ""
        reasons.append(f"the file has {'a defect' if len(defects) == 1 else 'defects'}: {named}{more}")
    return "; ".join(reasons) or None
