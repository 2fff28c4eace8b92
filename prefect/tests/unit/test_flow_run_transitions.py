"""What a flow run's change of state adds to the counters."""

from __future__ import annotations

from datetime import timedelta

import pytest

from datadog_checks.prefect.api.models import Event
from datadog_checks.prefect.counting.transitions import Outcome, flow_run_outcome, transition_of

from .builders import T0, after, flow_run, state_change, states, transition

GRACE = timedelta(seconds=15)
NOTHING = Outcome()


def test_a_run_that_enters_running_for_the_first_time_starts() -> None:
    run = flow_run(expected_start_time=T0, start_time=after(2.5))
    outcome = flow_run_outcome(transition("Running", "RUNNING", after(2.5)), run, None, GRACE)
    assert outcome == Outcome(("throughput",), (("queue_wait_duration", 2.5),))


@pytest.mark.parametrize(
    ("seconds", "counts"),
    [
        (14.999999, ("throughput",)),
        (15, ("throughput",)),
        (15.000001, ("throughput", "late_start.count")),
        (7200, ("throughput", "late_start.count")),
    ],
)
def test_a_start_is_late_when_it_is_more_than_the_grace_after_the_expected_time(
    seconds: float, counts: tuple[str, ...]
) -> None:
    run = flow_run(expected_start_time=T0, start_time=after(seconds))
    outcome = flow_run_outcome(transition("Running", "RUNNING", after(seconds)), run, None, GRACE)
    assert outcome == Outcome(counts, (("queue_wait_duration", seconds),))


def test_with_no_grace_every_start_after_the_expected_time_is_late() -> None:
    run = flow_run(expected_start_time=T0, start_time=after(0.1))
    outcome = flow_run_outcome(transition("Running", "RUNNING", after(0.1)), run, None, timedelta())
    assert outcome.counts == ("throughput", "late_start.count")


def test_a_start_before_the_expected_time_waited_zero_seconds() -> None:
    run = flow_run(expected_start_time=after(3), start_time=T0)
    outcome = flow_run_outcome(transition("Running", "RUNNING", T0), run, None, GRACE)
    assert outcome == Outcome(("throughput",), (("queue_wait_duration", 0.0),))


def test_a_start_without_an_expected_time_is_counted_but_neither_late_nor_waiting() -> None:
    outcome = flow_run_outcome(transition("Running", "RUNNING", T0), flow_run(start_time=T0), None, GRACE)
    assert outcome == Outcome(("throughput",))


def test_a_start_of_a_deleted_run_is_counted_without_a_wait() -> None:
    outcome = flow_run_outcome(transition("Running", "RUNNING", T0), None, states((0, "RUNNING")), GRACE)
    assert outcome == Outcome(("throughput",))


def test_a_run_that_resumes_after_a_pause_does_not_start_again() -> None:
    history = states((0, "RUNNING"), (5, "PAUSED"), (60, "RUNNING"))
    # The server leaves the run count as it is on resuming.
    resumed = transition("Running", "RUNNING", after(60), from_type="PAUSED", run_count=1)
    run = flow_run(expected_start_time=T0, start_time=T0)
    assert flow_run_outcome(resumed, run, history, GRACE) == NOTHING


def test_a_rerun_after_a_failure_does_not_start_again() -> None:
    history = states((0, "RUNNING"), (5, "FAILED"), (20, "SCHEDULED", "Rerunning"), (30, "RUNNING"))
    rerun = transition("Running", "RUNNING", after(30), from_type="SCHEDULED", run_count=2)
    assert flow_run_outcome(rerun, flow_run(expected_start_time=T0, start_time=T0), history, GRACE) == NOTHING


def test_a_run_that_was_cancelled_before_it_ran_starts_when_it_is_run_after_all() -> None:
    history = states((0, "SCHEDULED"), (5, "CANCELLED"), (20, "SCHEDULED"), (30, "RUNNING"))
    # Its start time is that of the cancellation.
    run = flow_run(expected_start_time=T0, start_time=after(5), run_count=1)
    outcome = flow_run_outcome(transition("Running", "RUNNING", after(30)), run, history, GRACE)
    assert outcome == Outcome(("throughput", "late_start.count"), (("queue_wait_duration", 30.0),))


def test_a_retry_adds_its_gap_and_is_no_start() -> None:
    history = states((0, "RUNNING"), (5, "SCHEDULED", "AwaitingRetry"), (12.5, "RUNNING", "Retrying"))
    retry = transition("Retrying", "RUNNING", after(12.5), from_type="SCHEDULED", run_count=2)
    outcome = flow_run_outcome(retry, flow_run(expected_start_time=T0, start_time=T0), history, GRACE)
    assert outcome == Outcome((), (("retry_gaps_duration", 7.5),))


@pytest.mark.parametrize(
    ("name", "to_type", "count"),
    [
        ("Completed", "COMPLETED", "completed.count"),
        ("Cached", "COMPLETED", "completed.count"),
        ("Skipped", "COMPLETED", "completed.count"),
        ("Failed", "FAILED", "failed.count"),
        ("TimedOut", "FAILED", "failed.count"),
        ("Crashed", "CRASHED", "crashed.count"),
        ("Cancelled", "CANCELLED", "cancelled.count"),
        ("out.of.luck", "FAILED", "failed.count"),
    ],
)
def test_a_finish_counts_by_the_type_of_its_state_whatever_its_name(name: str, to_type: str, count: str) -> None:
    finish = transition(name, to_type, after(8), from_type="RUNNING")
    run = flow_run(end_time=after(8), total_run_time=6.5, run_count=1)
    assert flow_run_outcome(finish, run, None, GRACE) == Outcome((count,), (("execution_duration", 6.5),))


@pytest.mark.parametrize("before", ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"])
@pytest.mark.parametrize("to_type", ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"])
def test_a_change_from_one_terminal_state_to_another_counts_nothing(before: str, to_type: str) -> None:
    change = transition(to_type.title(), to_type, after(9), from_type=before)
    assert not change.matters
    assert flow_run_outcome(change, flow_run(end_time=T0, total_run_time=5), None, GRACE) == NOTHING


@pytest.mark.parametrize("before", ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", None])
def test_a_finish_counts_from_whatever_state_that_is_not_terminal(before: str | None) -> None:
    finish = transition("Failed", "FAILED", after(9), from_type=before, run_count=0)
    assert finish.ends
    assert flow_run_outcome(finish, flow_run(), None, GRACE).counts == ("failed.count",)


@pytest.mark.parametrize(
    ("name", "to_type"),
    [
        ("Scheduled", "SCHEDULED"),
        ("Late", "SCHEDULED"),
        ("AwaitingRetry", "SCHEDULED"),
        ("Pending", "PENDING"),
        ("Paused", "PAUSED"),
        ("Suspended", "PAUSED"),
        ("Cancelling", "CANCELLING"),
    ],
)
def test_a_change_that_neither_starts_nor_ends_a_run_adds_nothing(name: str, to_type: str) -> None:
    change = transition(name, to_type, after(9), from_type="RUNNING")
    assert not change.matters
    assert flow_run_outcome(change, flow_run(start_time=T0, expected_start_time=T0), None, GRACE) == NOTHING


def test_a_run_cancelled_before_it_ran_neither_started_nor_was_late_nor_took_time() -> None:
    cancelled = transition("Cancelled", "CANCELLED", after(3600), from_type="SCHEDULED", run_count=0)
    # The server gives it a start time all the same.
    run = flow_run(expected_start_time=T0, start_time=after(3600), end_time=after(3600), total_run_time=0, run_count=0)
    assert flow_run_outcome(cancelled, run, None, GRACE) == Outcome(("cancelled.count",))


def test_a_run_whose_history_says_that_it_never_ran_has_no_duration() -> None:
    crashed = transition("Crashed", "CRASHED", after(9), from_type="PENDING", run_count=None)
    history = states((0, "SCHEDULED"), (5, "PENDING"), (9, "CRASHED"))
    assert flow_run_outcome(crashed, flow_run(), history, GRACE) == Outcome(("crashed.count",))


def test_a_run_that_failed_and_was_rerun_counts_in_both_with_the_durations_of_its_own_attempts() -> None:
    history = states((0, "RUNNING"), (10, "FAILED"), (50, "SCHEDULED"), (60, "RUNNING"), (64, "COMPLETED"))
    run = flow_run(start_time=T0, end_time=after(64), total_run_time=14, run_count=2)
    failed = transition("Failed", "FAILED", after(10), from_type="RUNNING", run_count=1)
    completed = transition("Completed", "COMPLETED", after(64), from_type="RUNNING", run_count=2)
    assert flow_run_outcome(failed, run, history, GRACE) == Outcome(("failed.count",), (("execution_duration", 10.0),))
    assert flow_run_outcome(completed, run, history, GRACE) == Outcome(
        ("completed.count",), (("execution_duration", 4.0),)
    )


def test_a_finish_whose_history_cannot_be_had_any_more_has_no_duration() -> None:
    completed = transition("Completed", "COMPLETED", after(64), from_type="RUNNING", run_count=2)
    run = flow_run(start_time=T0, end_time=after(64), total_run_time=14, run_count=2)
    # 14 s are those of all its attempts together.
    assert flow_run_outcome(completed, run, [], GRACE) == Outcome(("completed.count",))


def test_a_finish_of_a_deleted_run_without_history_is_counted_without_a_duration() -> None:
    completed = transition("Completed", "COMPLETED", after(64), from_type="RUNNING")
    assert flow_run_outcome(completed, None, [], GRACE) == Outcome(("completed.count",))


@pytest.mark.parametrize(
    "changes",
    [
        {"event": "prefect.flow-run.heartbeat", "resource": {"prefect.resource.id": "prefect.flow-run.1"}},
        {"resource": {"prefect.resource.id": "prefect.flow-run.1", "prefect.state-type": "DREAMING"}},
        {"resource": {"prefect.resource.id": "prefect.flow-run.1", "prefect.state-type": None}},
        {"resource": {"prefect.resource.id": "acme.flow-run.1", "prefect.state-type": "RUNNING"}},
        {"resource": {"prefect.resource.id": "prefect.deployment.1", "prefect.state-type": "RUNNING"}},
        {"resource": {"prefect.resource.id": None, "prefect.state-type": "RUNNING"}},
        {"resource": {}},
    ],
    ids=["heartbeat", "unknown type", "no type", "custom resource", "no run", "no id", "nothing"],
)
def test_an_event_that_tells_of_no_change_of_state_is_no_transition(changes: dict[str, object]) -> None:
    event = {"id": "1", "event": "prefect.flow-run.Running", "occurred": T0, **changes}
    assert transition_of(Event.model_validate(event)) is None


def test_an_event_without_payload_is_a_transition_from_no_known_state() -> None:
    event = state_change("Completed", "COMPLETED", T0).model_copy(update={"payload": None})
    change = transition_of(event)
    assert change is not None
    assert (change.from_type, change.run_count, change.ends) == (None, 1, True)


def test_the_state_before_is_taken_from_the_intention_where_the_payload_has_none() -> None:
    event = Event.model_validate(
        {
            "id": "1",
            "event": "prefect.flow-run.Failed",
            "occurred": T0,
            "resource": {"prefect.resource.id": "prefect.flow-run.1", "prefect.state-type": "FAILED"},
            "payload": {"intended": {"from": "COMPLETED", "to": "FAILED"}},
        }
    )
    change = transition_of(event)
    assert change is not None
    assert (change.from_type, change.ends) == ("COMPLETED", False)


@pytest.mark.parametrize("text", ["", "many", "-1", "1.5", "²"])
def test_a_run_count_that_is_no_number_is_unknown(text: str) -> None:
    event = state_change("Running", "RUNNING", T0)
    change = transition_of(event.model_copy(update={"resource": {**event.resource, "prefect.run-count": text}}))
    assert change is not None
    assert change.run_count is None
