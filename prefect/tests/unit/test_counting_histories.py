"""Each transition is counted once, in random histories and in those that once went wrong."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from datadog_checks.prefect.collectors import task_runs

from .counting_histories import ERRORS, INTERVAL_SECONDS, CountingHistories
from .run_stories import Step


# From so many ended task runs on, those that are known by their events are not read.
@pytest.mark.parametrize(("many", "examples"), [(task_runs.MANY, 700), (1, 300)])
def test_each_transition_is_counted_once_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, many: int, examples: int
) -> None:
    monkeypatch.setattr(task_runs, "MANY", many)
    run_state_machine_as_test(
        CountingHistories,
        # Examples are long, and making one takes time where the machine is busy.
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


# At some of these it has just been read.
@pytest.mark.parametrize("request_number", range(1, 11))
def test_a_history_that_goes_on_after_it_was_read_is_read_again(request_number: int) -> None:
    history = CountingHistories()
    at_once, retried = Step(0.002, 0, "at once", 0.0), Step(0.002, 5, "at once", 0.0)
    history.the_check_begins(seconds=900.0, shown="at once")
    history.a_flow_run_is_created(wait=0, deployed=False, shown="at once", steps=[at_once] * 8 + [retried])
    assert history.flow_runs[-1].state.name == "AwaitingRetry"
    # It runs, ends, and runs once more.
    steps = [at_once] * 4 + [Step(0.002, 1, "at once", 0.0)]
    history.the_check_runs(15, "goes on", request_number, ERRORS[0], 0, steps, False)
    history.teardown()


@pytest.mark.parametrize("request_number", range(1, 11))
def test_an_end_that_was_read_before_a_request_failed_is_read_again(
    monkeypatch: pytest.MonkeyPatch, request_number: int
) -> None:
    monkeypatch.setattr(task_runs, "MANY", 1)
    history = CountingHistories()
    at_once, never = Step(0.002, 0, "at once", 0.0), Step(0.002, 0, "never", 0.0)
    history.the_check_begins(seconds=900.0, shown="at once")
    history.a_task_run_is_created(flow_run=0, ahead=0, waits=0, shown="at once", steps=[at_once, at_once])
    history.time_passes(60)
    history.run_undisturbed()
    history.a_task_run_is_created(flow_run=0, ahead=0, waits=0, shown="at once", steps=[at_once, never])
    history.time_passes(60)
    history.the_check_runs(15, "fails", request_number, ERRORS[0], 0, [], False)
    history.run_undisturbed()
    assert sum(number for (name, _, _), number in history.counted.items() if name == "task_runs.completed.count") == 2


@pytest.mark.parametrize("is_told", [True, False], ids=["told in the end", "never told"])
def test_a_start_waits_for_the_end_that_it_waited_for_as_long_as_a_busy_server_may_take(is_told: bool) -> None:
    history = CountingHistories()
    # The server has not written the end down yet, nor does it show the event.
    history.server.task_runs_by_id = lambda ids: iter([])  # type: ignore[method-assign]
    history.server.ended_task_runs = lambda since: []  # type: ignore[method-assign]
    late, at_once = Step(0.002, 0, "late", 0.0), Step(0.002, 0, "at once", 0.0)
    history.the_check_begins(seconds=900.0, shown="at once")
    for waits, last in ((0, late), (1, at_once)):
        history.a_task_run_is_created(0, ahead=0, waits=waits, shown="at once", steps=[at_once, last])
    first, second = history.task_runs
    assert second.upstream == (first,)
    told = {"task_runs.throughput": 2, "task_runs.dependency_wait_duration": 1}

    def counted() -> dict[str, int]:
        return {name: sum(n for (metric, _, _), n in history.counted.items() if metric == name) for name in told}

    for _ in range(2):
        history.run_check()
        assert counted() == {"task_runs.throughput": 1, "task_runs.dependency_wait_duration": 0}
        history.server.clock += timedelta(seconds=INTERVAL_SECONDS)
    if is_told:
        history.late_events_become_visible(0, 1)
    else:
        history.server.clock += timedelta(minutes=1)
    history.run_check()
    assert counted() == (told if is_told else {**told, "task_runs.dependency_wait_duration": 0})


@pytest.mark.parametrize("request_number", range(1, 11))
def test_after_a_check_run_without_time_the_next_one_counts_all_of_it(request_number: int) -> None:
    history = CountingHistories()
    history.the_check_begins(seconds=900.0, shown="at once")
    history.a_run_goes_on(0, [Step(0.002, 0, "at once", 0.0)] * 4)
    history.time_passes(1300)
    history.time_passes(1300)
    history.the_check_runs(15, "is out of time", request_number, ERRORS[0], 0, [], False)
    history.run_undisturbed()
    assert history.counted == history.truth()
