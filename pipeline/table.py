"""The job on one page: the ordered stages, what each reads and writes, and how long it may take.

    admit -> normalise -> resolve -> reference -> claims -> latency -> calibrate -> cross_layer -> sensitivity
          -> agreement -> plan -> certify

A request that brings a plan has nothing to search for, and runs the stages without a star:

    admit -> normalise -> resolve -> reference -> claims -> calibrate -> certify

A request to certify a quantized file has stages of its own, and shares two:

    admit_float -> admit_pair -> reference -> claims -> inspect -> compare

| stage | writes |
|---|---|
| admit | the shape of one sample, after everything that may be wrong with the uploads was looked at |
| normalise | the network as one ONNX dialect, proved to have the outputs of the uploaded file |
| resolve | the formats that the request leaves to each site |
| reference | the outputs of the uploaded file on the search samples, and what they are |
| claims | the metrics that the certificate is about, and what they cannot see |
| latency * | what every layer takes in every format; only where the request asks for latencies |
| calibrate | every weight rounded to every candidate format, or to the one of the request's plan |
| cross_layer * | the measured damage of every candidate, and the matrix of their interactions |
| sensitivity * | what the methods that take gradients say of every candidate |
| agreement * | which method predicts measured plans best |
| plan * | the frontier, the plans evaluated along it, and which to certify |
| certify | the certificate and the quantized file |
| admit_float | what `admit` does, for a float network that is only run |
| admit_pair | how the samples become calls of the quantized file, which may be run on them |
| inspect | what the quantized file stores, and what is wrong with that |
| compare | the certificate of the quantized file, and every other metric that fits |

Every stage writes one blob under a key made from what the blob depends on: the stage's name and version, the keys of
the stages it reads, the digests of the uploads it reads, and its slice of the configuration (`pipeline.config`), which
is all that it sees of the request. So a retry, a second budget or a second job on the same model finds the blob and
skips the stage; a killed worker resumes after the last finished stage, and inside a long stage after the last finished
chunk (`Context.chunk`). Several processes may work on one job: chunks of a stage that spreads are shared out among them
(`Context.spread`), with the same bytes as from one. A stage whose slice is None is not needed.
"""

from __future__ import annotations

from app.schemas.certificate_request import CertificateRequest
from app.schemas.job_request import JobRequest
from pipeline.certificate_config import CertificateConfig, CertificateReportConfig, configure_certificate
from pipeline.certificate_report import certificate_report
from pipeline.config import JobConfig, ReportConfig
from pipeline.configure import configure
from pipeline.context import Context
from pipeline.job_forecast import forecast_job
from pipeline.report import report
from pipeline.stage import JobResult, Machine, Stage, Table
from pipeline.stages import (
    admit,
    admit_float,
    admit_pair,
    agreement,
    calibrate,
    certify,
    claims,
    compare,
    cross_layer,
    inspect,
    latency,
    normalise,
    plan,
    reference,
    resolve,
    sensitivity,
)
from pipeline.time_limits import ADMISSION, LONG, MEDIUM, SHORT

ANALYSED = ("normalise", "reference", "calibrate", "dataset")
SPACE = ("normalise", "resolve", "latency", "calibrate", "dataset")
MEASURED = (*SPACE, "reference", "claims", "metric")

STAGES = (
    Stage("admit", ("model", "dataset"), admit.run, weight=1, time_limit=ADMISSION, version=4),
    Stage("admit_float", ("model", "dataset"), admit_float.run, weight=1, time_limit=ADMISSION, version=2),
    Stage(
        "admit_pair",
        ("model", "quantized", "admit_float", "dataset"),
        admit_pair.run,
        weight=1,
        time_limit=ADMISSION,
        version=3,
    ),
    Stage("normalise", ("model", "admit", "dataset"), normalise.run, weight=1, time_limit=SHORT, version=7),
    Stage("resolve", ("normalise", "dataset"), resolve.run, weight=1, time_limit=SHORT, version=10),
    Stage(
        "reference",
        ("model", "admit_float", "normalise", "dataset"),
        reference.run,
        weight=1,
        time_limit=MEDIUM,
        version=3,
    ),
    Stage(
        "claims",
        ("model", "admit_float", "normalise", "reference", "dataset", "metric"),
        claims.run,
        weight=1,
        time_limit=MEDIUM,
        version=2,
    ),
    Stage("inspect", ("model", "quantized", "admit_pair"), inspect.run, weight=2, time_limit=MEDIUM, version=2),
    Stage(
        "compare",
        ("quantized", "model", "admit_float", "admit_pair", "dataset", "reference", "claims", "metric"),
        compare.run,
        weight=5,
        time_limit=MEDIUM,
        version=2,
    ),
    Stage("latency", ("normalise", "resolve", "dataset"), latency.run, weight=2, time_limit=MEDIUM, version=6),
    Stage("calibrate", ("normalise", "dataset"), calibrate.run, weight=15, time_limit=MEDIUM, version=13, spreads=True),
    Stage("cross_layer", ANALYSED, cross_layer.run, weight=40, time_limit=LONG, version=9, spreads=True),
    Stage("sensitivity", ANALYSED, sensitivity.run, weight=15, time_limit=LONG, version=7, spreads=True),
    Stage(
        "agreement",
        (*ANALYSED, "cross_layer", "sensitivity"),
        agreement.run,
        weight=10,
        time_limit=MEDIUM,
        version=9,
        spreads=True,
    ),
    Stage(
        "plan",
        (*MEASURED, "cross_layer", "sensitivity", "agreement"),
        plan.run,
        weight=25,
        time_limit=LONG,
        version=32,
        spreads=True,
    ),
    Stage("certify", (*MEASURED, "model", "plan"), certify.run, weight=5, time_limit=MEDIUM, version=18),
)


def configure_any(
    request: JobRequest | CertificateRequest, machine: Machine, job_id: str
) -> JobConfig | CertificateConfig:
    """The slices of a request of either kind."""
    if isinstance(request, CertificateRequest):
        return configure_certificate(request, machine)
    return configure(request, machine, job_id)


def report_any(context: Context, config: ReportConfig | CertificateReportConfig) -> JobResult:
    """The result of a job of either kind."""
    if isinstance(config, CertificateReportConfig):
        return certificate_report(context, config)
    return report(context, config)


TABLE = Table(STAGES, configure_any, report_any, forecast_job, forecast_before="calibrate")
