"""The slices of a job that certifies a quantized file: see `pipeline.config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.schemas.certificate_request import CertificateRequest
from pipeline.config import BudgetConfig, ClaimsConfig, Nothing, SampleConfig
from pipeline.configure import batch_axes_of, budget_of, claims_of
from pipeline.stage import Machine


@dataclass(frozen=True, slots=True)
class AdmitFloatConfig:
    """`own_metric`, `batch_axes`: see `AdmitConfig`."""

    samples: SampleConfig
    own_metric: bool
    batch_axes: tuple[tuple[str, int | None], ...] = ()


@dataclass(frozen=True, slots=True)
class AdmitPairConfig:
    """Both files are fed these samples."""

    samples: SampleConfig


@dataclass(frozen=True, slots=True)
class CompareConfig:
    """`ignored`: outputs that the request gives no weight."""

    samples: SampleConfig
    budget: BudgetConfig
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CertificateReportConfig:
    """`request` is the request of the API as it was understood."""

    samples: SampleConfig
    request: Mapping[str, Any] = field(compare=False)


@dataclass(frozen=True, slots=True)
class CertificateConfig:
    """The slice of every stage that certifies, by the stage's name."""

    admit_float: AdmitFloatConfig
    admit_pair: AdmitPairConfig
    reference: SampleConfig
    claims: ClaimsConfig
    inspect: Nothing
    compare: CompareConfig
    report: CertificateReportConfig


def configure_certificate(request: CertificateRequest, machine: Machine) -> CertificateConfig:
    """The slices of a request on this machine."""
    samples = replace(SampleConfig.of(request.seed, machine.memory_limit_bytes), as_uploaded=True)
    budget = budget_of(request)
    ignored = tuple(sorted(name for name, output in request.outputs.items() if output.weight == 0))
    return CertificateConfig(
        admit_float=AdmitFloatConfig(samples, request.budget.metric_id is not None, batch_axes_of(request.inputs)),
        admit_pair=AdmitPairConfig(samples),
        reference=samples,
        claims=claims_of(request, samples, budget),
        inspect=Nothing(),
        compare=CompareConfig(samples, budget, ignored),
        report=CertificateReportConfig(samples, request.model_dump(mode="json")),
    )
