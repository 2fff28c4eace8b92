"""What the object of a run that has ended tells by itself, and what its history does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from datadog_checks.prefect.api.models import FlowRun, TaskRun
from datadog_checks.prefect.counting.transitions import (
    Outcome,
    flow_run_outcome,
    task_end,
    task_identity,
    task_run_outcome,
    task_start,
    transition_of,
    transitions_in,
    transitions_of_ended,
)

from .builders import RUN_ID, T0, after, flow_run, related, state_change, states

GRACE = timedelta(seconds=15)


def ended_run(**changes: Any) -> FlowRun:
    """A run that ran once, from 2 s to 9 s after it was expected."""
    fields = {
        "state_type": "COMPLETED",
        "state_name": "Cached",
        "state": {"timestamp": after(9)},
        "run_count": 1,
        "expected_start_time": T0,
        "start_time": after(2),
        "end_time": after(9),
        "total_run_time": 7.0,
    }
    return flow_run(**{**fields, **changes})


def ended_task(**changes: Any) -> TaskRun:
    fields = {
        "id": "t1",
        "flow_run_id": "f1",
        "task_key": "load-8c2f0a1b",
        "dynamic_key": "0",
        "state_type": "COMPLETED",
        "run_count": 1,
        "expected_start_time": T0,
        "start_time": after(2),
        "end_time": after(9),
        "total_run_time": 7.0,
    }
    return TaskRun.model_validate({**fields, **changes})


def test_a_run_that_ran_once_and_without_a_break_tells_its_start_and_its_end() -> None:
    run = ended_run()
    transitions = transitions_of_ended(run)
    assert transitions is not None
    assert [(change.run_id, change.at, change.to_type) for change in transitions] == [
        (RUN_ID, after(2), "RUNNING"),
        (RUN_ID, after(9), "COMPLETED"),
    ]
    assert [flow_run_outcome(change, run, None, GRACE) for change in transitions] == [
        Outcome(("throughput",), (("queue_wait_duration", 2.0),)),
        Outcome(("completed.count",), (("execution_duration", 7.0),)),
    ]


def test_a_run_that_never_ran_tells_its_end_alone() -> None:
    run = ended_run(state_type="CANCELLED", run_count=0, start_time=after(9), total_run_time=0)
    transitions = transitions_of_ended(run)
    assert transitions is not None
    assert [flow_run_outcome(change, run, None, GRACE) for change in transitions] == [Outcome(("cancelled.count",))]


@pytest.mark.parametrize(
    "changes",
    [
        {"end_time": None},
        {"state_type": "RUNNING"},
        {"state_type": None},
        {"run_count": None},
        {"run_count": 2},
        {"start_time": None},
        {"total_run_time": None},
        {"state": None},
        {"state": {"timestamp": None}},
        {"state": {"timestamp": after(30)}},
        {"total_run_time": 5.0},
        {"start_time": after(-60), "total_run_time": 7.0},
        {"state_type": "CANCELLED", "run_count": 0, "start_time": after(2), "total_run_time": 0},
    ],
    ids=[
        "not ended",
        "running again",
        "unknown state",
        "unknown count",
        "rerun",
        "no start",
        "no running time",
        "no state",
        "no time of the state",
        "terminal to terminal since",
        "paused in between",
        "rerun that was cancelled before it ran",
        "cancelled twice before it ran",
    ],
)
def test_a_run_whose_object_does_not_tell_all_is_a_matter_for_its_history(changes: dict[str, Any]) -> None:
    assert transitions_of_ended(ended_run(**changes)) is None


def test_a_history_tells_all_changes_of_state() -> None:
    history = states((0, "SCHEDULED"), (2, "RUNNING"), (9, "FAILED", "TimedOut"))
    assert [(change.at, change.from_type, change.to_type, change.name) for change in transitions_in("r", history)] == [
        (T0, None, "SCHEDULED", "SCHEDULED"),
        (after(2), "SCHEDULED", "RUNNING", "RUNNING"),
        (after(9), "RUNNING", "FAILED", "TimedOut"),
    ]
    assert transitions_in("r", []) == []


def test_a_history_of_a_rerun_counts_each_of_its_ends_and_its_start_once() -> None:
    history = states(
        (0, "SCHEDULED"), (2, "RUNNING"), (9, "FAILED"), (20, "SCHEDULED"), (30, "RUNNING"), (34, "COMPLETED")
    )
    outcomes = [flow_run_outcome(change, ended_run(), history, GRACE) for change in transitions_in("r", history)]
    assert [outcome for outcome in outcomes if outcome != Outcome()] == [
        Outcome(("throughput",), (("queue_wait_duration", 2.0),)),
        Outcome(("failed.count",), (("execution_duration", 7.0),)),
        Outcome(("completed.count",), (("execution_duration", 4.0),)),
    ]


def test_a_task_run_that_ran_once_tells_its_start_and_its_end() -> None:
    run = ended_task()
    end = task_end(run)
    assert end is not None
    outcomes = [task_run_outcome(change, GRACE, None) for change in (task_start(run, after(2)), end)]
    assert outcomes == [Outcome(("throughput",)), Outcome(("completed.count",), (("execution_duration", 7.0),))]


def test_a_task_run_that_ran_before_it_had_an_end_time_tells_its_first_start_all_the_same() -> None:
    retried = ended_task(end_time=None, state_type="RUNNING", run_count=2)
    assert task_run_outcome(task_start(retried, after(2)), GRACE, None) == Outcome(("throughput",))


@pytest.mark.parametrize("changes", [{"end_time": None}, {"state_type": "PENDING"}, {"state_type": None}])
def test_a_task_run_that_is_not_over_tells_no_end(changes: dict[str, Any]) -> None:
    assert task_end(ended_task(**changes)) is None


def test_the_state_of_a_task_run_that_never_ran_tells_when_it_ended() -> None:
    cached = {"run_count": 0, "start_time": None, "end_time": None, "total_run_time": 0.0, "state_name": "Cached"}
    state = {"timestamp": after(9).isoformat()}
    end = task_end(ended_task(**cached, state=state))
    assert end is not None
    assert (end.at, task_run_outcome(end, GRACE, None)) == (after(9), Outcome(("completed.count",)))
    assert task_end(ended_task(**{**cached, "state_name": "RolledBack"}, state=state)) is None


def test_a_task_run_has_one_identity_in_its_event_and_in_its_object() -> None:
    event = state_change(
        "Completed",
        "COMPLETED",
        after(9),
        kind="task-run",
        run_id="another id",
        task_run={"task_key": "load-8c2f0a1b", "dynamic_key": "0"},
        related_to=[related("flow-run", "f1")],
    )
    told = transition_of(event)
    assert told is not None
    assert {task_identity(change) for change in (told, task_start(ended_task(), after(2)))} == {"f1/load-8c2f0a1b/0"}
