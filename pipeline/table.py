"""The job on one page: the ordered stages, what each reads and writes, and how long it may take.

    admit -> normalise -> reference -> resolve -> claims -> latency -> calibrate -> cross_layer -> sensitivity
          -> agreement -> plan -> certify

A request that brings a plan has nothing to search for, and runs the stages without a star:

    admit -> normalise -> reference -> resolve -> claims -> calibrate -> certify

| stage | writes |
|---|---|
| admit | the shape of one sample, after everything that may be wrong with the uploads was looked at |
| normalise | the network as one ONNX dialect, proved to have the outputs of the uploaded file |
| reference | the outputs of the uploaded file on the search samples, and what they are |
| resolve | the formats that the request leaves to each site |
| claims | the metrics that the certificate is about, and what they cannot see |
| latency * | what every layer takes in every format; only where the request asks for latencies |
| calibrate | every weight rounded to every candidate format, or to the one of the request's plan |
| cross_layer * | the measured damage of every candidate, and the matrix of their interactions |
| sensitivity * | what the methods that take gradients say of every candidate |
| agreement * | which method predicts measured plans best |
| plan * | the frontier, the plans evaluated along it, and which to certify |
| certify | the certificate and the quantized file |

Every stage writes one blob under a key made from what the blob depends on: the stage's name and version, the keys of
the stages it reads, the digests of the uploads it reads, and its slice of the configuration (`pipeline.config`), which
is all that it sees of the request. So a retry, a second budget or a second job on the same model finds the blob and
skips the stage; a killed worker resumes after the last finished stage, and inside a long stage after the last finished
chunk (`Context.chunk`). A stage whose slice is None is not needed.
"""

from __future__ import annotations

from datetime import timedelta

from pipeline.config import configure
from pipeline.report import report
from pipeline.stage import Stage, Table
from pipeline.stages import (
    admit,
    agreement,
    calibrate,
    certify,
    claims,
    cross_layer,
    latency,
    normalise,
    plan,
    reference,
    resolve,
    sensitivity,
)

MINUTES, HOURS, DAY = timedelta(minutes=10), timedelta(hours=6), timedelta(hours=24)

ANALYSED = ("normalise", "reference", "calibrate", "dataset")
SPACE = ("normalise", "resolve", "latency", "calibrate", "dataset")
MEASURED = (*SPACE, "reference", "claims", "metric")

STAGES = (
    Stage("admit", ("model", "dataset"), admit.run, weight=1, time_limit=MINUTES),
    Stage("normalise", ("model", "admit", "dataset"), normalise.run, weight=1, time_limit=MINUTES, version=3),
    Stage("reference", ("model", "normalise", "dataset"), reference.run, weight=1, time_limit=HOURS),
    Stage("resolve", ("normalise", "dataset"), resolve.run, weight=1, time_limit=MINUTES, version=5),
    Stage("claims", ("normalise", "reference", "dataset", "metric"), claims.run, weight=1, time_limit=HOURS),
    Stage("latency", ("normalise", "resolve", "dataset"), latency.run, weight=2, time_limit=HOURS, version=2),
    Stage("calibrate", ("normalise", "dataset"), calibrate.run, weight=15, time_limit=HOURS, version=6),
    Stage("cross_layer", ANALYSED, cross_layer.run, weight=40, time_limit=DAY, version=5),
    Stage("sensitivity", ANALYSED, sensitivity.run, weight=15, time_limit=DAY, version=4),
    Stage(
        "agreement", (*ANALYSED, "cross_layer", "sensitivity"), agreement.run, weight=10, time_limit=HOURS, version=6
    ),
    Stage(
        "plan", (*MEASURED, "cross_layer", "sensitivity", "agreement"), plan.run, weight=25, time_limit=DAY, version=11
    ),
    Stage("certify", (*MEASURED, "model", "plan"), certify.run, weight=5, time_limit=HOURS, version=7),
)

TABLE = Table(STAGES, configure, report)
