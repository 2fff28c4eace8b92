"""What a task run's change of state adds to the counters."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from datadog_checks.prefect.collectors.task_runs import ends_of, latest_end
from datadog_checks.prefect.counting.transitions import Outcome, Transition, starts_task, task_run_outcome, upstream_ids
from datadog_checks.prefect.tags import RunTags, task_run_tags

from .builders import T0, after, related, transition

GRACE = timedelta(seconds=15)
NOTHING = Outcome()


def task(name: str, to_type: str, at: datetime, task_run: dict[str, Any] | None = None, **more: Any) -> Transition:
    return transition(name, to_type, at, kind="task-run", task_run=task_run or {}, **more)


def test_a_task_run_that_enters_running_for_the_first_time_starts() -> None:
    started = task("Running", "RUNNING", after(1), {"expected_start_time": T0.isoformat()})
    assert task_run_outcome(started, GRACE, None) == Outcome(("throughput",))


@pytest.mark.parametrize(
    ("seconds", "counts"),
    [(15, ("throughput",)), (15.000001, ("throughput", "late_start.count"))],
)
def test_a_task_run_is_late_when_it_starts_more_than_the_grace_after_the_expected_time(
    seconds: float, counts: tuple[str, ...]
) -> None:
    started = task("Running", "RUNNING", after(seconds), {"expected_start_time": T0.isoformat()})
    assert task_run_outcome(started, GRACE, None) == Outcome(counts)


def test_a_task_run_without_an_expected_time_starts_and_is_not_late() -> None:
    assert task_run_outcome(task("Running", "RUNNING", T0), GRACE, None) == Outcome(("throughput",))


@pytest.mark.parametrize(
    ("run_count", "from_type"), [(2, "RUNNING"), (2, "SCHEDULED"), (1, "RUNNING"), (None, "PENDING"), (0, "PENDING")]
)
def test_retrying_and_what_has_no_run_count_is_no_start(run_count: int | None, from_type: str) -> None:
    retrying = task("Retrying", "RUNNING", T0, {}, run_count=run_count, from_type=from_type)
    assert not starts_task(retrying)
    assert task_run_outcome(retrying, GRACE, after(-5)) == NOTHING


def test_how_often_it_ran_is_told_by_the_payload_where_the_process_has_an_older_prefect() -> None:
    started = task("Running", "RUNNING", T0, {"run_count": 1}, run_count=None)
    assert task_run_outcome(started, GRACE, None) == Outcome(("throughput",))
    ended = task("Completed", "COMPLETED", after(9), {"run_count": 1, "total_run_time": 9.0}, run_count=None)
    assert task_run_outcome(ended, GRACE, None) == Outcome(("completed.count",), (("execution_duration", 9.0),))


@pytest.mark.parametrize(
    ("name", "to_type", "count"),
    [
        ("Completed", "COMPLETED", "completed.count"),
        ("Cached", "COMPLETED", "completed.count"),
        ("Failed", "FAILED", "failed.count"),
        ("TimedOut", "FAILED", "failed.count"),
        ("Crashed", "CRASHED", "crashed.count"),
        ("Cancelled", "CANCELLED", "cancelled.count"),
    ],
)
def test_a_finish_counts_by_the_type_of_its_state_with_the_time_that_the_task_ran(
    name: str, to_type: str, count: str
) -> None:
    finish = task(name, to_type, after(9), {"total_run_time": 3.25}, from_type="RUNNING")
    assert task_run_outcome(finish, GRACE, None) == Outcome((count,), (("execution_duration", 3.25),))


def test_a_task_run_that_ran_for_no_time_has_a_duration_of_zero() -> None:
    finish = task("Completed", "COMPLETED", after(9), {"total_run_time": 0.0}, from_type="RUNNING")
    assert task_run_outcome(finish, GRACE, None).durations == (("execution_duration", 0.0),)


def test_a_task_run_that_ends_without_having_run_has_no_duration() -> None:
    cached = task("Cached", "COMPLETED", after(9), {"total_run_time": 0.0}, run_count=0)
    assert task_run_outcome(cached, GRACE, None) == Outcome(("completed.count",))


def test_a_finish_without_a_running_time_is_counted_without_a_duration() -> None:
    assert task_run_outcome(task("Failed", "FAILED", T0, {}), GRACE, None) == Outcome(("failed.count",))


def test_a_task_run_that_is_rolled_back_after_its_end_counts_nothing() -> None:
    rolled_back = task("RolledBack", "COMPLETED", after(9), {"total_run_time": 3}, from_type="COMPLETED")
    assert task_run_outcome(rolled_back, GRACE, None) == NOTHING


@pytest.mark.parametrize(
    ("name", "to_type"),
    [("Pending", "PENDING"), ("NotReady", "PENDING"), ("AwaitingRetry", "SCHEDULED"), ("Paused", "PAUSED")],
)
def test_a_change_that_neither_starts_nor_ends_a_task_run_adds_nothing(name: str, to_type: str) -> None:
    assert task_run_outcome(task(name, to_type, T0, {}, from_type="RUNNING"), GRACE, T0) == NOTHING


@pytest.mark.parametrize(("upstream_end", "seconds"), [(after(-4.5), 4.5), (T0, 0.0), (after(2), 0.0)])
def test_the_dependency_wait_lasts_from_the_end_of_the_upstream_to_the_start_and_is_never_negative(
    upstream_end: datetime, seconds: float
) -> None:
    started = task("Running", "RUNNING", T0, {"expected_start_time": after(-60).isoformat()})
    assert task_run_outcome(started, GRACE, upstream_end) == Outcome(
        ("throughput", "late_start.count"), (("dependency_wait_duration", seconds),)
    )


def test_upstream_are_the_task_runs_among_the_inputs_but_not_the_one_that_it_runs_inside_of() -> None:
    inputs = {
        "x": [{"input_type": "task_run", "id": "a"}, {"input_type": "task_run", "id": "b"}],
        "wait_for": [{"input_type": "task_run", "id": "c"}, {"input_type": "task_run", "id": "a"}],
        "y": [{"input_type": "parameter", "name": "y"}, {"input_type": "constant", "type": "int"}],
        "z": [{"input_type": "flow_run", "id": "f"}, {"input_type": "task_run"}],
        "__parents__": [{"input_type": "task_run", "id": "outer"}],
    }
    assert upstream_ids(task("Running", "RUNNING", T0, {"task_inputs": inputs})) == {"a", "b", "c"}


def test_a_task_run_whose_event_has_no_payload_has_no_upstream() -> None:
    assert upstream_ids(transition("Running", "RUNNING", T0, kind="task-run")) == set()


@pytest.mark.parametrize(
    ("upstream", "ends", "latest"),
    [
        ({"a", "b"}, {"a": after(1), "b": after(7), "c": after(9)}, after(7)),
        ({"a"}, {"a": T0}, T0),
        ({"a", "b"}, {"a": after(1)}, None),
        (set(), {"a": after(1)}, None),
    ],
    ids=["the latest", "only one", "one unknown", "no upstream"],
)
def test_the_upstream_ended_when_its_latest_did_and_is_unknown_when_one_of_them_is(
    upstream: set[str], ends: dict[str, datetime], latest: datetime | None
) -> None:
    assert latest_end(upstream, ends) == latest


def test_task_runs_end_when_they_first_become_terminal() -> None:
    changes = [
        task("Completed", "COMPLETED", T0, from_type="RUNNING", run_id="a"),
        task("RolledBack", "COMPLETED", after(5), from_type="COMPLETED", run_id="a"),
        task("Running", "RUNNING", after(6), run_id="b"),
    ]
    assert ends_of(changes) == {"a": T0}


def test_a_task_run_belongs_to_the_flow_run_that_its_event_names() -> None:
    others = [related("tag", "nightly"), related("flow-run", "f1", "brave-fox")]
    assert task("Running", "RUNNING", T0, related_to=others).flow_run_id == "f1"
    assert task("Running", "RUNNING", T0).flow_run_id is None


@pytest.mark.parametrize(
    ("key", "tags"),
    [
        ("load-8c2f0a1b", ("task_key:load-8c2f0a1b", "task_name:load")),
        ("load_all-unknown", ("task_key:load_all-unknown", "task_name:load_all")),
        ("load-2-8c2f0a1b", ("task_key:load-2-8c2f0a1b", "task_name:load-2")),
        ("load", ("task_key:load", "task_name:load")),
        ("load-deadbeef9", ("task_key:load-deadbeef9", "task_name:load-deadbeef9")),
        (None, ()),
    ],
)
def test_the_task_name_is_the_key_without_its_trailing_code_hash(key: str | None, tags: tuple[str, ...]) -> None:
    assert task_run_tags(RunTags(), key) == tags


def test_a_task_run_has_the_tags_of_its_flow_run() -> None:
    assert task_run_tags(RunTags(flow_id="f", flow_name="etl"), "load-8c2f0a1b") == (
        "flow_id:f",
        "flow_name:etl",
        "task_key:load-8c2f0a1b",
        "task_name:load",
    )
