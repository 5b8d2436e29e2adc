"""What the whole job will take, told once: after the stages that are cheap, before the first weight is rounded.

Seconds are what the stages that have no result yet will do (`pipeline.job_work`) at the speed of this machine, and
float passes the same seconds in runs of the float network over all samples. Left out is what the request has measured:
how long layers are timed, and how many probes the traces of gradients need. A search that evolves ends
with its deadline, and one that has a deadline not long after it.
"""

from __future__ import annotations

from network.memory import estimate_memory
from pipeline.certificate_config import CertificateConfig
from pipeline.config import JobConfig
from pipeline.context import Context
from pipeline.cost_model import MatrixShape
from pipeline.events import WHOLE_JOB, Estimate
from pipeline.forecast import FLOAT32_BYTES, FLOAT64_BYTES, passes_bytes, resident_bytes, used_bytes
from pipeline.job_work import JobWork
from pipeline.machine_speed import measure_speed

ESTIMATED = ("calibrate", "cross_layer", "sensitivity", "agreement", "plan", "certify")
"""The stages that take long; those before them have run."""
MOMENT_COPIES = 3.0
"""Of a layer's second moments while a plan is rounded: those of both networks, about the means, and their factor."""
PLAN_COPIES = 2
"""Of a plan's codes: as they came, and rounded anew. Those of other formats stay in the file of results."""
RUN_COPIES = 2
"""Of the values of runs: ONNX Runtime keeps what it allocated."""
LOOP_BYTES = 16 << 20
"""Of the column loop of GPTQ, which takes so many rows at once."""


def forecast_job(context: Context, config: JobConfig | CertificateConfig) -> None:
    """Report what the stages without a result will take; nothing where all of them have one."""
    if isinstance(config, CertificateConfig):
        return
    left = [stage for stage in ESTIMATED if getattr(config, stage) is not None and not context.has_result(stage)]
    if not left:
        return
    inputs = context.workspace.inputs(config.calibrate.samples)
    speed = measure_speed(context, inputs)
    work = JobWork(inputs, config)
    seconds = {stage: work.of(stage).seconds(speed) for stage in left}
    total = sum(seconds.values())
    deadline = None if config.plan is None else config.plan.deadline_seconds
    if config.plan is not None and deadline is not None and "plan" in left:
        until_plan = total - seconds["plan"] - seconds["certify"]
        rest = max(deadline - context.elapsed_seconds - until_plan, 0.0)
        evolves = config.plan.search == "evolution"
        total += (rest if evolves else min(rest, seconds["plan"])) - seconds["plan"]
    context.event(
        Estimate(
            WHOLE_JOB,
            total,
            max(used_bytes(), resident_bytes() + job_bytes(work, left)),
            total / (speed.sample_seconds * inputs.dataset.samples),
        )
    )


def job_bytes(work: JobWork, stages: list[str]) -> int:
    """What these stages take at most, beside what the process has."""
    inputs, network = work.inputs, work.network
    weights = estimate_memory(network.proto, 1).weight_bytes
    codes = sum(shape.size * len(own) for shape, own in zip(work.shapes, work.formats, strict=True))
    moments = [FLOAT64_BYTES * _moments(shape) for shape in work.shapes]
    plans = PLAN_COPIES * sum(shape.size for shape in work.shapes)
    runs = RUN_COPIES * passes_bytes(inputs, _outputs(work), sum(work.measured))
    loop = max(min(LOOP_BYTES, 2 * FLOAT32_BYTES * shape.size) for shape in work.shapes)
    taken = {
        "calibrate": work.group_bytes + max(moments) + codes + loop,
        "cross_layer": codes + weights + runs,
        "plan": plans + MOMENT_COPIES * max(moments) + 3 * weights + loop,
        "certify": plans + MOMENT_COPIES * max(moments) + 3 * weights,
    }
    return int(max((taken[stage] for stage in stages if stage in taken), default=0))


def _outputs(work: JobWork) -> list[str]:
    return [output.name for output in work.network.outputs]


def _moments(shape: MatrixShape) -> int:
    return 0 if shape.macs_per_sample is None else shape.moments
