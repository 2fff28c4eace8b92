"""The table of metrics holds what the contract lists, and each of them is some collector's."""

from __future__ import annotations

from collections import Counter

import pytest

from datadog_checks.prefect.collectors import COLLECTORS, Collector, Server
from datadog_checks.prefect.output.metrics import BY_NAME, METRICS, series_names

EVERY_COLLECTOR: tuple[type[Collector], ...] = (Server, *COLLECTORS)
RUN_COUNTS = ("completed.count", "failed.count", "crashed.count", "cancelled.count", "throughput", "late_start.count")
GAUGES = {
    *("health", "ready"),
    *(f"work_pool.{name}" for name in ("is_ready", "is_not_ready", "is_paused", "workers.online", "workers.offline")),
    *("work_pool.worker.is_online", "work_pool.worker.heartbeat_age_seconds"),
    *(f"work_queue.{name}" for name in ("is_ready", "is_not_ready", "is_paused", "last_polled_age_seconds")),
    *(f"work_queue.{name}" for name in ("backlog.size", "backlog.age", "concurrency.in_use")),
    *(f"concurrency_limit.{name}" for name in ("limit", "active_slots", "in_use", "is_active")),
    "deployment.is_ready",
    *(f"flow_runs.{name}" for name in ("scheduled", "pending", "running", "paused")),
    *(f"task_runs.{name}" for name in ("pending", "running", "paused")),
}
COUNTS = {f"{family}.{name}" for family in ("flow_runs", "task_runs") for name in RUN_COUNTS}
HISTOGRAMS = {
    *(f"flow_runs.{name}" for name in ("execution_duration", "queue_wait_duration", "retry_gaps_duration")),
    *("task_runs.execution_duration", "task_runs.dependency_wait_duration"),
}
FOR_AN_HOUR_ZERO = {
    *COUNTS,
    *(f"flow_runs.{name}" for name in ("scheduled", "pending", "running", "paused")),
    *(f"task_runs.{name}" for name in ("pending", "running", "paused")),
    *("work_queue.backlog.size", "work_queue.backlog.age"),
}


@pytest.mark.parametrize(("type_", "names"), [("gauge", GAUGES), ("count", COUNTS), ("histogram", HISTOGRAMS)])
def test_the_metrics_of_the_contract_are_declared_with_their_types(type_: str, names: set[str]) -> None:
    assert {metric.name for metric in METRICS if metric.type == type_} == names


def test_each_metric_is_declared_once() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert list(BY_NAME.values()) == list(METRICS)


def test_all_names_stand_in_the_namespace() -> None:
    assert BY_NAME["flow_runs.completed.count"].full_name == "prefect.server.flow_runs.completed.count"
    assert {metric.full_name for metric in METRICS} == {f"prefect.server.{metric.name}" for metric in METRICS}


def test_no_two_metrics_share_a_series() -> None:
    names = [name for metric in METRICS for name in series_names(metric)]
    assert len(names) == len(set(names))


def test_a_histogram_shows_as_five_series_and_anything_else_as_itself() -> None:
    assert series_names(BY_NAME["flow_runs.execution_duration"]) == [
        f"prefect.server.flow_runs.execution_duration.{suffix}"
        for suffix in ("avg", "max", "median", "95percentile", "count")
    ]
    assert series_names(BY_NAME["health"]) == ["prefect.server.health"]


def test_zeros_follow_what_counts_runs_and_nothing_that_describes_an_object() -> None:
    assert {metric.name for metric in METRICS if metric.zero_when_gone} == FOR_AN_HOUR_ZERO


def test_each_metric_is_submitted_by_one_collector() -> None:
    owned = Counter(name for collector in EVERY_COLLECTOR for name in collector.owned)
    assert owned == Counter(metric.name for metric in METRICS)


def test_each_collector_says_what_is_missing_when_it_fails() -> None:
    subjects = [collector.subject for collector in EVERY_COLLECTOR]
    assert all(subjects)
    assert len(set(subjects)) == len(subjects)


def test_metrics_in_seconds_have_the_unit_second() -> None:
    in_seconds = {metric.name for metric in METRICS if metric.unit == "second"}
    assert in_seconds == {
        *HISTOGRAMS,
        "work_pool.worker.heartbeat_age_seconds",
        "work_queue.last_polled_age_seconds",
        "work_queue.backlog.age",
    }
