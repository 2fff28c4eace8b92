"""What of a sheet reaches the Agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from datadog_checks.base import AgentCheck

from datadog_checks.prefect.collectors.flow_runs import FlowRunStates, FlowRunTransitions, ScheduledFlowRuns
from datadog_checks.prefect.counting.transitions import Outcome
from datadog_checks.prefect.output.metrics import NAMESPACE
from datadog_checks.prefect.output.submitter import Sheet, Submitter, VanishedTagSets
from datadog_checks.prefect.tags import Tags
from lab.agent import aggregator

from .builders import T0, after

A: Tags = ("flow_name:a",)
B: Tags = ("flow_name:b",)
COUNTS = tuple(name for name in FlowRunTransitions.owned if "duration" not in name)
Sample = tuple[str, str, float, tuple[str, ...]]


class Check(AgentCheck):
    __NAMESPACE__ = NAMESPACE


@pytest.fixture(autouse=True)
def empty_aggregator() -> Iterator[None]:
    aggregator.reset()
    yield
    aggregator.reset()


def submitter(*instance_tags: str) -> Submitter:
    return Submitter(Check("prefect", {}, [{}]), instance_tags, VanishedTagSets())


def submitted(submit: Submitter, sheet: Sheet, owned: Sequence[str] = (), seconds: float = 0) -> list[Sample]:
    """Name, type, value and tags of all that reached the Agent."""
    aggregator.reset()
    submit.submit(sheet, owned)
    submit.submit_zeros(after(seconds))
    return all_of_it()


def all_of_it() -> list[Sample]:
    return sorted(
        (
            name.removeprefix(f"{NAMESPACE}."),
            aggregator.METRIC_ENUM_MAP_REV[sample.type],
            sample.value,
            tuple(sample.tags),
        )
        for name in aggregator.metric_names
        for sample in aggregator.metrics(name)
    )


def test_a_gauge_is_submitted_with_the_tags_of_the_instance_and_its_own() -> None:
    sheet = Sheet()
    sheet.add("flow_runs.running", 3, A)
    sheet.add("health", 1)
    assert submitted(submitter("team:data"), sheet) == [
        ("flow_runs.running", "gauge", 3, ("team:data", "flow_name:a")),
        ("health", "gauge", 1, ("team:data",)),
    ]


def test_counts_are_summed_by_their_tag_sets() -> None:
    sheet = Sheet()
    for tags in (A, B, A, A):
        sheet.add("flow_runs.failed.count", 1, tags)
    assert submitted(submitter("team:data"), sheet) == [
        ("flow_runs.failed.count", "count", 1, ("team:data", "flow_name:b")),
        ("flow_runs.failed.count", "count", 3, ("team:data", "flow_name:a")),
    ]


def test_each_sample_of_a_histogram_is_submitted() -> None:
    sheet = Sheet()
    for seconds in (2.5, 1.0, 2.5):
        sheet.add("flow_runs.execution_duration", seconds, A)
    assert submitted(submitter("team:data"), sheet) == [
        ("flow_runs.execution_duration", "histogram", seconds, ("team:data", "flow_name:a"))
        for seconds in (1.0, 2.5, 2.5)
    ]


def test_an_outcome_adds_its_counts_and_durations() -> None:
    sheet = Sheet()
    sheet.add_outcome("flow_runs", Outcome(("throughput", "late_start.count"), (("queue_wait_duration", 20.0),)), A)
    assert submitted(submitter(), sheet) == [
        ("flow_runs.late_start.count", "count", 1, A),
        ("flow_runs.queue_wait_duration", "histogram", 20.0, A),
        ("flow_runs.throughput", "count", 1, A),
    ]


def test_of_gauges_that_exclude_each_other_one_is_1_and_the_others_are_0() -> None:
    sheet = Sheet()
    names = ("work_pool.is_ready", "work_pool.is_not_ready", "work_pool.is_paused")
    sheet.add_one_of(names, "work_pool.is_not_ready", A)
    assert submitted(submitter(), sheet) == [
        ("work_pool.is_not_ready", "gauge", 1.0, A),
        ("work_pool.is_paused", "gauge", 0.0, A),
        ("work_pool.is_ready", "gauge", 0.0, A),
    ]


def test_a_metric_that_is_not_declared_is_refused() -> None:
    with pytest.raises(KeyError):
        Sheet().add("flow_runs.dreaming", 1)


def test_where_runs_completed_the_other_counts_of_flow_runs_are_0() -> None:
    sheet = Sheet()
    sheet.add("flow_runs.completed.count", 1, A)
    assert submitted(submitter("team:data"), sheet, FlowRunTransitions.owned) == sorted(
        (name, "count", int(name == "flow_runs.completed.count"), ("team:data", "flow_name:a")) for name in COUNTS
    )


def test_when_nothing_happened_counts_are_0_for_an_hour() -> None:
    submit, sheet = submitter(), Sheet()
    sheet.add("flow_runs.completed.count", 1, A)
    submitted(submit, sheet, FlowRunTransitions.owned)
    nothing = sorted((name, "count", 0, A) for name in COUNTS)
    assert submitted(submit, Sheet(), FlowRunTransitions.owned, seconds=15) == nothing
    assert submitted(submit, Sheet(), FlowRunTransitions.owned, seconds=3600) == nothing
    assert submitted(submit, Sheet(), FlowRunTransitions.owned, seconds=3601) == []


def test_a_histogram_is_never_followed_by_a_zero() -> None:
    submit, sheet = submitter(), Sheet()
    sheet.add("flow_runs.execution_duration", 5, A)
    submitted(submit, sheet, FlowRunTransitions.owned)
    assert submitted(submit, Sheet(), FlowRunTransitions.owned, seconds=15) == []


def test_a_state_gauge_that_vanished_is_0_with_the_tags_of_the_instance_for_an_hour() -> None:
    submit, sheet = submitter("team:data"), Sheet()
    sheet.add("flow_runs.running", 2, A)
    submitted(submit, sheet, FlowRunStates.owned)
    states = ("paused", "pending", "running")
    zeros = [(f"flow_runs.{state}", "gauge", 0, ("team:data", "flow_name:a")) for state in states]
    assert submitted(submit, Sheet(), FlowRunStates.owned, seconds=15) == zeros
    assert submitted(submit, Sheet(), FlowRunStates.owned, seconds=3600) == zeros
    assert submitted(submit, Sheet(), FlowRunStates.owned, seconds=3601) == []


def test_zeros_are_for_what_no_collector_of_the_check_run_has_found() -> None:
    submit, running, scheduled = submitter(), Sheet(), Sheet()
    running.add("flow_runs.running", 1, A)
    scheduled.add("flow_runs.scheduled", 5, B)
    submit.submit(running, FlowRunStates.owned)
    submit.submit(scheduled, ScheduledFlowRuns.owned)
    submit.submit_zeros(T0)
    found = {(name.partition(".")[2], tags): value for name, _, value, tags in all_of_it()}
    expected = {(state, tags): 0.0 for state in ("pending", "running", "paused", "scheduled") for tags in (A, B)}
    assert found == expected | {("running", A): 1, ("scheduled", B): 5}


def test_a_collector_that_failed_gets_no_zeros() -> None:
    submit, running = submitter(), Sheet()
    running.add("flow_runs.running", 1, A)
    submitted(submit, running, FlowRunStates.owned)
    assert submitted(submit, Sheet(), ScheduledFlowRuns.owned, seconds=15) == [("flow_runs.scheduled", "gauge", 0, A)]


def test_a_gauge_of_an_object_that_is_gone_is_not_submitted() -> None:
    submit, sheet = submitter(), Sheet()
    sheet.add("deployment.is_ready", 1, A)
    submitted(submit, sheet, ["deployment.is_ready"])
    assert submitted(submit, Sheet(), ["deployment.is_ready"], seconds=15) == []


def test_an_event_has_the_tags_of_the_instance_too() -> None:
    sheet = Sheet()
    event = {"msg_title": "t", "msg_text": "x", "timestamp": T0.timestamp(), "event_type": "e", "tags": ["b:2"]}
    sheet.events.append(event)
    submitter("team:data").submit(sheet, ())
    assert [(event["msg_title"], event["tags"]) for event in aggregator.events] == [("t", ["team:data", "b:2"])]
    assert event["tags"] == ["b:2"]


def test_zeros_that_are_withheld_follow_as_soon_as_they_are_not() -> None:
    submit = submitter()
    owned = ("flow_runs.scheduled",)
    counted, unsure, sure = Sheet(), Sheet(), Sheet()
    counted.add("flow_runs.scheduled", 1, A)
    counted.withhold_zeros("flow_runs.scheduled")
    unsure.withhold_zeros("flow_runs.scheduled")
    assert submitted(submit, counted, owned) == [("flow_runs.scheduled", "gauge", 1, A)]
    assert submitted(submit, unsure, owned, seconds=15) == []
    assert submitted(submit, sure, owned, seconds=30) == [("flow_runs.scheduled", "gauge", 0, A)]
