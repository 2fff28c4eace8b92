"""The one place where a metric is declared: its name, type, unit, tags and meaning.

`metadata.csv` is written from this table, and the submitter refuses a name that is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

NAMESPACE = "prefect.server"

MetricType = Literal["gauge", "count", "histogram"]

# The series that the Agent makes of a histogram, with their types in Datadog.
HISTOGRAM_SERIES = (
    ("avg", "gauge", "mean"),
    ("max", "gauge", "maximum"),
    ("median", "gauge", "median"),
    ("95percentile", "gauge", "95th percentile"),
    ("count", "rate", "number of samples per second"),
)

METADATA_COLUMNS = (
    "metric_name",
    "metric_type",
    "interval",
    "unit_name",
    "per_unit_name",
    "description",
    "orientation",
    "integration",
    "short_name",
    "curated_metric",
    "sample_tags",
)


@dataclass(frozen=True)
class Metric:
    """One metric.

    `name` has no namespace; `tags` lists the tag keys. `zero_when_gone`: a tag set that disappears is submitted as 0
    for an hour. This is true for metrics that count runs, and false for metrics that describe an existing object.
    """

    name: str
    type: MetricType
    unit: str
    tags: str
    description: str
    short_name: str
    orientation: Literal[-1, 0, 1] = 0
    zero_when_gone: bool = False

    @property
    def full_name(self) -> str:
        return f"{NAMESPACE}.{self.name}"


POOL = "work_pool_id, work_pool_name"
QUEUE = f"work_queue_id, work_queue_name, work_queue_priority, {POOL}"
LIMIT = "concurrency_limit_id, concurrency_limit_name, concurrency_limit_type"
FLOW_RUN = f"deployment_id, deployment_name, prefect_tag, flow_id, flow_name, {POOL}, work_queue_id, work_queue_name"
DEPLOYMENT = f"{FLOW_RUN}, is_paused"
TASK_RUN = f"{FLOW_RUN}, task_key, task_name"


def _server(name: str, description: str, short_name: str) -> Metric:
    return Metric(name, "gauge", "", "", description, short_name, orientation=1)


def _pool(name: str, description: str, short_name: str, unit: str = "", orientation: Literal[-1, 0, 1] = 0) -> Metric:
    return Metric(f"work_pool.{name}", "gauge", unit, f"{POOL}, work_pool_type", description, short_name, orientation)


def _worker(name: str, unit: str, description: str, short_name: str, orientation: Literal[-1, 0, 1]) -> Metric:
    tags = f"{POOL}, worker_id, worker_name"
    return Metric(f"work_pool.worker.{name}", "gauge", unit, tags, description, short_name, orientation)


def _queue(name: str, description: str, short_name: str, orientation: Literal[-1, 0, 1] = 0) -> Metric:
    return Metric(f"work_queue.{name}", "gauge", "", QUEUE, description, short_name, orientation)


def _limit(name: str, unit: str, description: str, short_name: str, orientation: Literal[-1, 0, 1] = 0) -> Metric:
    return Metric(f"concurrency_limit.{name}", "gauge", unit, LIMIT, description, short_name, orientation)


def _run_metrics(family: str, noun: str, tags: str) -> Iterator[Metric]:
    """The metrics that flow runs and task runs have in common."""
    label = noun.split()[0]
    for state in ("pending", "running", "paused"):
        description = f"Number of {noun}s that are now in a state of type {state.upper()}."
        yield Metric(f"{family}.{state}", "gauge", "run", tags, description, f"{label} {state}", zero_when_gone=True)
    for state, orientation in (("completed", 1), ("failed", -1), ("crashed", -1), ("cancelled", 0)):
        description = (
            f"Number of {noun}s that went from a non-terminal state to a terminal state of type {state.upper()} "
            "since the last collection."
        )
        yield Metric(
            f"{family}.{state}.count",
            "count",
            "run",
            tags,
            description,
            f"{label} {state}",
            orientation=orientation,  # type: ignore[arg-type]
            zero_when_gone=True,
        )
    yield Metric(
        f"{family}.throughput",
        "count",
        "run",
        tags,
        f"Number of {noun}s that entered RUNNING for the first time since the last collection.",
        f"{label} starts",
        orientation=1,
        zero_when_gone=True,
    )
    yield Metric(
        f"{family}.late_start.count",
        "count",
        "run",
        tags,
        f"Number of {noun}s that started more than late_start_grace_seconds after their expected start time "
        "since the last collection.",
        f"{label} late starts",
        orientation=-1,
        zero_when_gone=True,
    )
    yield Metric(
        f"{family}.execution_duration",
        "histogram",
        "second",
        tags,
        f"Time that a {noun} was RUNNING, one sample per transition to a terminal state.",
        f"{label} execution",
        orientation=-1,
    )


def _declare() -> Iterator[Metric]:
    yield _server("health", "1 when the server's health endpoint answers true, else 0.", "health")
    yield _server("ready", "1 when the server's readiness endpoint answers successfully, else 0.", "ready")

    yield _pool("is_ready", "1 when the work pool's status is READY, else 0.", "pool ready", orientation=1)
    yield _pool("is_not_ready", "1 when the work pool's status is NOT_READY, else 0.", "pool not ready", orientation=-1)
    yield _pool("is_paused", "1 when the work pool's status is PAUSED, else 0.", "pool paused")
    yield _pool("workers.online", "Number of the work pool's workers that are ONLINE.", "online workers", "worker", 1)
    yield _pool(
        "workers.offline",
        "Number of the work pool's workers that are OFFLINE, except those with a stale heartbeat.",
        "offline workers",
        "worker",
        -1,
    )
    yield _worker("is_online", "", "1 when the worker's status is ONLINE, else 0.", "worker online", 1)
    yield _worker("heartbeat_age_seconds", "second", "Time since the worker's last heartbeat.", "heartbeat age", -1)

    yield _queue("is_ready", "1 when the work queue's status is READY, else 0.", "queue ready", 1)
    yield _queue("is_not_ready", "1 when the work queue's status is NOT_READY, else 0.", "queue not ready", -1)
    yield _queue("is_paused", "1 when the work queue's status is PAUSED, else 0.", "queue paused")
    with_status = f"{QUEUE}, work_queue_status"
    yield Metric(
        "work_queue.last_polled_age_seconds",
        "gauge",
        "second",
        with_status,
        "Time since the work queue was last polled by a worker.",
        "last polled age",
        orientation=-1,
    )
    yield Metric(
        "work_queue.backlog.size",
        "gauge",
        "run",
        with_status,
        "Number of due flow runs that wait in the work queue.",
        "backlog size",
        orientation=-1,
        zero_when_gone=True,
    )
    yield Metric(
        "work_queue.backlog.age",
        "gauge",
        "second",
        with_status,
        "Time that the oldest flow run in the work queue's backlog has waited; 0 when the backlog is empty.",
        "backlog age",
        orientation=-1,
        zero_when_gone=True,
    )
    yield Metric(
        "work_queue.concurrency.in_use",
        "gauge",
        "percent",
        with_status,
        "Percentage of the work queue's concurrency limit that is in use.",
        "concurrency in use",
        orientation=-1,
    )

    yield _limit("limit", "", "Number of slots of the concurrency limit.", "slots")
    yield _limit("active_slots", "", "Number of slots of the concurrency limit that are taken.", "active slots")
    yield _limit("in_use", "percent", "Share of the slots of the concurrency limit that are taken.", "slots in use", -1)
    yield _limit("is_active", "", "1 when the global concurrency limit is enforced, else 0.", "limit active")

    yield Metric(
        "deployment.is_ready",
        "gauge",
        "",
        DEPLOYMENT,
        "1 when the deployment's status is READY, else 0.",
        "deployment ready",
        orientation=1,
    )

    yield Metric(
        "flow_runs.scheduled",
        "gauge",
        "run",
        FLOW_RUN,
        "Number of flow runs that are now in a state of type SCHEDULED, including those planned for the future.",
        "flow scheduled",
        zero_when_gone=True,
    )
    yield from _run_metrics("flow_runs", "flow run", FLOW_RUN)
    yield Metric(
        "flow_runs.queue_wait_duration",
        "histogram",
        "second",
        FLOW_RUN,
        "Time from a flow run's expected start to its start.",
        "flow queue wait",
        orientation=-1,
    )
    yield Metric(
        "flow_runs.retry_gaps_duration",
        "histogram",
        "second",
        FLOW_RUN,
        "Time from when a flow run enters AwaitingRetry until it is RUNNING again.",
        "flow retry gap",
        orientation=-1,
    )

    yield from _run_metrics("task_runs", "task run", TASK_RUN)
    yield Metric(
        "task_runs.dependency_wait_duration",
        "histogram",
        "second",
        TASK_RUN,
        "Time that a task run waited to start after its last upstream task run ended.",
        "task dependency wait",
        orientation=-1,
    )


METRICS: tuple[Metric, ...] = tuple(_declare())
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}


def series_names(metric: Metric) -> list[str]:
    """The full names of a metric's series in Datadog: five for a histogram, one for all other types."""
    if metric.type == "histogram":
        return [f"{metric.full_name}.{suffix}" for suffix, _, _ in HISTOGRAM_SERIES]
    return [metric.full_name]


def metadata_rows() -> list[dict[str, str]]:
    """The rows of `metadata.csv`, by column name, sorted by metric name."""
    rows = []
    for metric in METRICS:
        if metric.type == "histogram":
            for suffix, series_type, word in HISTOGRAM_SERIES:
                # The number of samples is neither good nor bad.
                is_count = suffix == "count"
                series = replace(
                    metric,
                    name=f"{metric.name}.{suffix}",
                    unit="sample" if is_count else metric.unit,
                    description=f"{metric.description.rstrip('.')}: {word}.",
                    short_name=f"{metric.short_name} {suffix}",
                    orientation=0 if is_count else metric.orientation,
                )
                rows.append(_metadata_row(series, series_type, "second" if is_count else ""))
        else:
            rows.append(_metadata_row(metric, metric.type, ""))
    return sorted(rows, key=lambda row: row["metric_name"])


def _metadata_row(metric: Metric, series_type: str, per_unit: str) -> dict[str, str]:
    return dict(
        zip(
            METADATA_COLUMNS,
            (
                metric.full_name,
                series_type,
                "",
                metric.unit,
                per_unit,
                metric.description,
                str(metric.orientation),
                "prefect",
                metric.short_name,
                # Curated metrics are for CPU and memory only.
                "",
                metric.tags.replace(" ", ""),
            ),
            strict=True,
        )
    )
