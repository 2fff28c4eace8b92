"""What a flow run's history tells: first starts, running times, gaps before retries; and when it has to be read."""

from __future__ import annotations

from datetime import datetime

import pytest

from datadog_checks.prefect.api.models import Event, FlowRun, State
from datadog_checks.prefect.counting.transitions import (
    history_of,
    is_first_running,
    needs_history,
    retry_gap,
    running_time,
)

from .builders import T0, after, flow_run, state_change, states, transition


@pytest.mark.parametrize(
    ("history", "until", "seconds"),
    [
        (states((0, "SCHEDULED"), (3, "PENDING"), (5, "RUNNING"), (9, "COMPLETED")), 9, 4.0),
        (states((0, "RUNNING"), (5, "PAUSED"), (65, "RUNNING"), (67, "COMPLETED")), 67, 7.0),
        (states((0, "RUNNING"), (5, "PAUSED"), (65, "FAILED")), 65, 5.0),
        (states((0, "RUNNING"), (5, "SCHEDULED", "AwaitingRetry"), (35, "RUNNING"), (38, "COMPLETED")), 38, 8.0),
        (states((0, "RUNNING"), (5, "CANCELLING"), (25, "CANCELLED")), 25, 5.0),
        (states((0, "RUNNING"), (2, "RUNNING"), (6, "CRASHED")), 6, 6.0),
        (states((0, "RUNNING"), (10, "FAILED"), (20, "SCHEDULED"), (30, "RUNNING"), (34, "COMPLETED")), 34, 4.0),
        (states((0, "RUNNING"), (10, "FAILED"), (20, "SCHEDULED"), (30, "RUNNING"), (34, "COMPLETED")), 10, 10.0),
        (states((0, "RUNNING"), (10, "FAILED"), (20, "SCHEDULED"), (25, "CANCELLED")), 25, 0.0),
        (states((0, "SCHEDULED"), (9, "CANCELLED")), 9, None),
        (states((0, "SCHEDULED"), (5, "CANCELLED"), (8, "SCHEDULED"), (9, "CANCELLED")), 9, None),
        (states((9, "CRASHED")), 9, None),
        ([], 9, None),
    ],
    ids=[
        "a plain run",
        "without its pause",
        "paused until it failed",
        "without the wait for its retry",
        "without being cancelled",
        "running twice in a row",
        "the second attempt",
        "the first attempt",
        "cancelled before its rerun",
        "never ran",
        "never ran, twice",
        "nothing but its end",
        "no history",
    ],
)
def test_running_time_is_the_time_in_running_since_the_last_terminal_state(
    history: list[State], until: float, seconds: float | None
) -> None:
    assert running_time(history, after(until)) == seconds


@pytest.mark.parametrize(
    ("history", "until", "seconds"),
    [
        (states((0, "RUNNING"), (5, "SCHEDULED", "AwaitingRetry"), (9, "RUNNING")), 9, 4.0),
        (
            states(
                (0, "RUNNING"),
                (5, "SCHEDULED", "AwaitingRetry"),
                (20, "SCHEDULED", "Late"),
                (25, "PENDING"),
                (27, "RUNNING"),
            ),
            27,
            22.0,
        ),
        (
            states(
                (0, "RUNNING"),
                (5, "SCHEDULED", "AwaitingRetry"),
                (15, "SCHEDULED", "AwaitingRetry"),
                (25, "RUNNING"),
            ),
            25,
            20.0,
        ),
        (
            states(
                (0, "RUNNING"),
                (5, "SCHEDULED", "AwaitingRetry"),
                (8, "RUNNING"),
                (20, "SCHEDULED", "AwaitingRetry"),
                (30, "RUNNING"),
            ),
            30,
            10.0,
        ),
        (states((0, "RUNNING"), (10, "FAILED"), (40, "SCHEDULED", "AwaitingRetry"), (43, "RUNNING")), 43, 3.0),
        (
            states(
                (0, "RUNNING"),
                (5, "SCHEDULED", "AwaitingRetry"),
                (8, "CANCELLED"),
                (30, "SCHEDULED"),
                (40, "RUNNING"),
            ),
            40,
            None,
        ),
        (states((0, "RUNNING"), (5, "PAUSED"), (30, "RUNNING")), 30, None),
        (states((0, "RUNNING"), (5, "SCHEDULED", "AwaitingRetry"), (9, "RUNNING")), 0, None),
        (states((0, "RUNNING"), (9, "RUNNING"), (12, "SCHEDULED", "AwaitingRetry")), 9, None),
    ],
    ids=[
        "at once",
        "late and pending in between",
        "put off once more",
        "the second retry",
        "retried by hand after its end",
        "cancelled while it waited, then rerun",
        "a pause",
        "the first start",
        "one that comes later",
    ],
)
def test_a_retry_gap_is_the_time_from_entering_awaiting_retry_to_running_again(
    history: list[State], until: float, seconds: float | None
) -> None:
    assert retry_gap(history, after(until)) == seconds


@pytest.mark.parametrize(("at", "first"), [(5, True), (9, False)])
def test_only_the_first_running_of_a_history_is_a_start(at: float, first: bool) -> None:
    history = states((0, "SCHEDULED"), (5, "RUNNING"), (7, "PAUSED"), (9, "RUNNING"), (12, "COMPLETED"))
    assert is_first_running(history, after(at)) is first


@pytest.mark.parametrize(
    ("run", "run_count", "needed"),
    [
        (flow_run(start_time=T0), 1, False),
        (flow_run(start_time=after(-5)), 1, True),
        (flow_run(start_time=None), 1, True),
        (flow_run(start_time=T0), 2, True),
        (flow_run(start_time=T0), None, True),
        (None, 1, True),
    ],
    ids=["first start", "resumed", "unknown start", "second start", "unknown count", "deleted run"],
)
def test_entering_running_needs_the_history_unless_the_run_says_that_it_is_its_start(
    run: FlowRun | None, run_count: int | None, needed: bool
) -> None:
    assert needs_history(transition("Running", "RUNNING", T0, run_count=run_count), run) is needed


@pytest.mark.parametrize(
    ("run", "run_count", "needed"),
    [
        (flow_run(end_time=T0, total_run_time=4), 1, False),
        (flow_run(end_time=T0, total_run_time=0), 0, False),
        (None, 0, False),
        (flow_run(end_time=after(60), total_run_time=4), 1, True),
        (flow_run(end_time=None, total_run_time=4), 1, True),
        (flow_run(end_time=T0), 1, True),
        (flow_run(end_time=T0, total_run_time=4), 2, True),
        (flow_run(end_time=T0, total_run_time=4), None, True),
        (None, 1, True),
    ],
    ids=[
        "only attempt",
        "never ran",
        "deleted, never ran",
        "ended again since",
        "being rerun",
        "no running time",
        "second attempt",
        "unknown count",
        "deleted run",
    ],
)
def test_a_finish_needs_the_history_unless_the_run_tells_the_time_of_its_only_attempt(
    run: FlowRun | None, run_count: int | None, needed: bool
) -> None:
    finish = transition("Completed", "COMPLETED", T0, from_type="RUNNING", run_count=run_count)
    assert needs_history(finish, run) is needed


@pytest.mark.parametrize("from_type", ["SCHEDULED", "PENDING", "PAUSED", "CANCELLING"])
def test_a_rerun_that_was_cancelled_before_it_ran_needs_the_history(from_type: str) -> None:
    # It failed after 10 s, was scheduled again, and cancelled: the run count is still 1, and its time that of the
    # attempt that was counted already.
    cancelled = transition("Cancelled", "CANCELLED", after(60), from_type=from_type, run_count=1)
    assert needs_history(cancelled, flow_run(start_time=T0, end_time=after(60), total_run_time=10, run_count=1))


@pytest.mark.parametrize(
    ("name", "to_type", "from_type"),
    [("Late", "SCHEDULED", "SCHEDULED"), ("Paused", "PAUSED", "RUNNING"), ("Failed", "FAILED", "COMPLETED")],
)
def test_a_change_that_counts_nowhere_needs_no_history(name: str, to_type: str, from_type: str) -> None:
    assert not needs_history(transition(name, to_type, T0, from_type=from_type, run_count=3), None)


def test_the_history_of_a_deleted_run_is_read_off_its_events() -> None:
    events = [
        state_change("Failed", "FAILED", after(9), event_id="c"),
        state_change("Pending", "PENDING", T0, event_id="a"),
        Event(id="h", event="prefect.flow-run.heartbeat", occurred=after(4)),
        state_change("Running", "RUNNING", after(2), event_id="b"),
    ]
    found: list[tuple[str, str, str | None, datetime]] = [
        (state.id, state.type, state.name, state.timestamp) for state in history_of(events)
    ]
    assert found == [
        ("a", "PENDING", "Pending", T0),
        ("b", "RUNNING", "Running", after(2)),
        ("c", "FAILED", "Failed", after(9)),
    ]
