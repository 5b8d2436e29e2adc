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
| latency * | what every layer takes in every format, if the request asks for it |
| calibrate | every weight rounded to every candidate format, or to the one of the request's plan |
| cross_layer * | the measured damage of every candidate, and the matrix of their interactions |
| sensitivity * | what the methods that take gradients say of every candidate |
| agreement * | which method predicts measured plans best |
| plan * | the frontier, the plans evaluated along it, and which to certify |
| certify | the certificate and the quantized file |

Every stage writes one blob under a key made from what the blob depends on: the stage's name and version, the keys of
the stages it reads, the digests of the uploads it reads, and the part of the request it obeys. So a retry, a second
budget or a second job on the same model finds the blob and skips the stage; a killed worker resumes after the last
finished stage, and inside a long stage after the last finished chunk (`StageContext.chunk`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pipeline.deliver import deliver
from pipeline.given_plan import brings_plan
from pipeline.methods import dear_method
from pipeline.stage import JSON, Stage
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

__all__ = ["STAGES", "deliver"]


def nothing(_request: Mapping[str, JSON]) -> JSON:
    """The result depends on no part of the request."""
    return None


def searches(request: Mapping[str, JSON]) -> bool:
    """The request brings no plan: one is searched for."""
    return not brings_plan(request)


STAGES: tuple[Stage, ...] = (
    Stage(
        name="admit",
        reads=("model", "dataset"),
        settings=nothing,
        run=admit.run,
        weight=1,
        time_limit=timedelta(minutes=10),
    ),
    Stage(
        name="normalise",
        reads=("model", "admit"),
        settings=nothing,
        run=normalise.run,
        weight=1,
        time_limit=timedelta(minutes=10),
    ),
    Stage(
        name="resolve",
        reads=("normalise", "dataset"),
        settings=lambda request: [request.get(name) for name in resolve.OBEYED],
        run=resolve.run,
        weight=1,
        time_limit=timedelta(minutes=10),
        version=3,
    ),
    Stage(
        name="latency",
        reads=("normalise", "dataset"),
        settings=latency.settings,
        run=latency.run,
        weight=2,
        time_limit=timedelta(hours=6),
        needed=searches,
    ),
    Stage(
        name="calibrate",
        reads=("normalise", "dataset"),
        settings=calibrate.settings,
        run=calibrate.run,
        weight=15,
        time_limit=timedelta(hours=6),
        version=4,
    ),
    Stage(
        name="cross_layer",
        reads=("normalise", "calibrate", "dataset"),
        settings=lambda request: [request["seed"], request["budget"]["metric"] == "cosine"],
        run=cross_layer.run,
        weight=40,
        time_limit=timedelta(hours=24),
        version=3,
        needed=searches,
    ),
    Stage(
        name="sensitivity",
        reads=("normalise", "calibrate", "dataset"),
        settings=lambda request: [request["seed"], request["budget"]["metric"] == "cosine", dear_method(request)],
        run=sensitivity.run,
        weight=15,
        time_limit=timedelta(hours=24),
        version=2,
        needed=searches,
    ),
    Stage(
        name="agreement",
        reads=("normalise", "calibrate", "cross_layer", "sensitivity", "dataset"),
        settings=lambda request: [request["seed"], request["budget"]["metric"] == "cosine"],
        run=agreement.run,
        weight=10,
        time_limit=timedelta(hours=6),
        version=5,
        needed=searches,
    ),
    Stage(
        name="plan",
        reads=("normalise", "resolve", "latency", "calibrate", "cross_layer", "sensitivity", "agreement", "dataset"),
        settings=lambda request: request,
        run=plan.run,
        weight=25,
        time_limit=timedelta(hours=24),
        version=9,
        needed=searches,
    ),
    Stage(
        name="certify",
        reads=("normalise", "resolve", "latency", "calibrate", "plan", "dataset"),
        settings=lambda request: request,
        run=certify.run,
        weight=5,
        time_limit=timedelta(hours=6),
        version=5,
    ),
)
