"""The job on one page: the ordered stages, what each reads and writes, and how long it may take.

    admit -> normalise -> resolve -> latency -> calibrate -> cross_layer -> sensitivity -> agreement -> plan
          -> certify

A request that brings a plan has nothing to search for, and runs the stages without a star:

    admit -> normalise -> resolve -> calibrate -> certify

| stage | writes |
|---|---|
| admit | the shape of one sample, after everything that may be wrong with the uploads was looked at |
| normalise | the network as one ONNX dialect |
| resolve | the metric, and the formats that the request leaves to each site |
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
    cross_layer,
    latency,
    normalise,
    plan,
    resolve,
    sensitivity,
)

STAGES = (
    Stage(
        name="admit",
        reads=(
            "model",
            "dataset",
        ),
        run=admit.run,
        weight=1,
        time_limit=timedelta(minutes=10),
        version=1,
    ),
    Stage(
        name="normalise",
        reads=(
            "model",
            "admit",
        ),
        run=normalise.run,
        weight=1,
        time_limit=timedelta(minutes=10),
        version=1,
    ),
    Stage(
        name="resolve",
        reads=(
            "normalise",
            "dataset",
        ),
        run=resolve.run,
        weight=1,
        time_limit=timedelta(minutes=10),
        version=4,
    ),
    Stage(
        name="latency",
        reads=(
            "normalise",
            "resolve",
            "dataset",
        ),
        run=latency.run,
        weight=2,
        time_limit=timedelta(hours=6),
        version=2,
    ),
    Stage(
        name="calibrate",
        reads=(
            "normalise",
            "dataset",
        ),
        run=calibrate.run,
        weight=15,
        time_limit=timedelta(hours=6),
        version=5,
    ),
    Stage(
        name="cross_layer",
        reads=(
            "normalise",
            "calibrate",
            "dataset",
        ),
        run=cross_layer.run,
        weight=40,
        time_limit=timedelta(hours=24),
        version=4,
    ),
    Stage(
        name="sensitivity",
        reads=(
            "normalise",
            "calibrate",
            "dataset",
        ),
        run=sensitivity.run,
        weight=15,
        time_limit=timedelta(hours=24),
        version=3,
    ),
    Stage(
        name="agreement",
        reads=(
            "normalise",
            "calibrate",
            "cross_layer",
            "sensitivity",
            "dataset",
        ),
        run=agreement.run,
        weight=10,
        time_limit=timedelta(hours=6),
        version=5,
    ),
    Stage(
        name="plan",
        reads=(
            "normalise",
            "resolve",
            "latency",
            "calibrate",
            "cross_layer",
            "sensitivity",
            "agreement",
            "dataset",
        ),
        run=plan.run,
        weight=25,
        time_limit=timedelta(hours=24),
        version=10,
    ),
    Stage(
        name="certify",
        reads=(
            "normalise",
            "resolve",
            "latency",
            "calibrate",
            "plan",
            "dataset",
        ),
        run=certify.run,
        weight=5,
        time_limit=timedelta(hours=6),
        version=6,
    ),
)

TABLE = Table(STAGES, configure, report)
