"""What the database knows, as metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app.lifecycle.states import JobState
from app.services.health import Figures, read_figures
from app.store.engine import Sessions
from app.store.figures import Waiting
from app.store.stage_seconds import BOUNDS_SECONDS
from app.store.tables import StageSecondsRow

logger = logging.getLogger(__name__)


class StoredFigures(Collector):
    """Asks the database when it is scraped: several API processes then agree, and none keeps count."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def describe(self) -> Iterator[Metric]:
        # Without it the registry would collect, and so ask the database, when the collector is registered.
        return iter(())

    def collect(self) -> Iterator[Metric]:
        try:
            figures = read_figures(self._sessions)
        except SQLAlchemyError:
            logger.exception("the database does not answer a scrape")
            yield GaugeMetricFamily("bitbudget_database_up", "1 if the database answers", value=0)
            return
        yield GaugeMetricFamily("bitbudget_database_up", "1 if the database answers", value=1)
        yield from _of_workers(figures)
        yield from _of_jobs(figures)
        yield from _of_queues(figures.waiting, figures.now)
        yield _by("bitbudget_stored_bytes", "Stored contents", "project", figures.stored_bytes)
        yield _by("bitbudget_webhook_deliveries", "Messages not taken by webhooks", "state", figures.deliveries)
        yield _stage_seconds(figures.stages)


def _of_workers(figures: Figures) -> Iterator[Metric]:
    workers = {"busy": figures.busy, "idle": max(0, figures.condition.workers - figures.busy)}
    yield _by("bitbudget_workers", "Workers that are alive", "state", workers)
    yield GaugeMetricFamily(
        "bitbudget_workers_progressing",
        "Workers that get on, or have nothing to do",
        value=figures.condition.progressing,
    )


def _of_jobs(figures: Figures) -> Iterator[Metric]:
    states = {state.value: figures.jobs_by_state.get(state, 0) for state in JobState}
    yield _by("bitbudget_jobs", "Jobs that are kept", "state", states)
    yield _by("bitbudget_failed_jobs", "Failed jobs that are kept", "code", figures.failed_by_code)
    yield GaugeMetricFamily(
        "bitbudget_oldest_queued_job_seconds",
        "Waiting time of the oldest queued job",
        value=figures.condition.oldest_queued_seconds or 0.0,
    )


def _of_queues(waiting: Sequence[Waiting], now: datetime) -> Iterator[Metric]:
    jobs = {queue.project: queue.jobs for queue in waiting}
    yield _by("bitbudget_queued_jobs", "Jobs that wait", "project", jobs)
    ages = {queue.project: max(0.0, (now - queue.oldest).total_seconds()) for queue in waiting}
    yield _by("bitbudget_queue_age_seconds", "Waiting time of the oldest queued job", "project", ages)


def _stage_seconds(stages: Mapping[str, Sequence[StageSecondsRow]]) -> Metric:
    family = HistogramMetricFamily("bitbudget_stage_seconds", "Time that stages took", labels=["stage"])
    for stage, rows in stages.items():
        runs = {row.upper_seconds: row.runs for row in rows}
        counted, buckets = 0, []
        for bound in BOUNDS_SECONDS:
            counted += runs.get(bound, 0)
            buckets.append((f"{bound:g}", float(counted)))
        buckets.append(("+Inf", float(sum(runs.values()))))
        family.add_metric([stage], buckets, sum_value=sum(row.seconds for row in rows))
    return family


def _by(name: str, description: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, description, labels=[label])
    for value_of_label, value in values.items():
        family.add_metric([value_of_label], value)
    return family
