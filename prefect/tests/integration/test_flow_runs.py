"""Flow runs on a real server: what becomes of them is counted once, with the durations that the server has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from lab.agent import Agent
from lab.prefect_api import Json, PrefectApi

from ..conftest import AgentFactory
from .stage import Stage

COUNTS = ("completed.count", "failed.count", "crashed.count", "cancelled.count", "throughput", "late_start.count")


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    return Stage(api)


@pytest.fixture
def watching(stage: Stage, agent: AgentFactory) -> Agent:
    """An Agent that has begun to count on a stage with nothing on it."""
    watching = agent(**stage.only_this)
    _ = stage.deployment
    assert watching.run().error == ""
    return watching


def seconds_between(earlier: Json, later: Json) -> float:
    """Between two states."""
    first, second = (datetime.fromisoformat(state["timestamp"]) for state in (earlier, later))
    return (second - first).total_seconds()


def counted(agent: Agent, stage: Stage, family: str = "flow_runs") -> dict[str, float]:
    """The counts above 0 of one check run, which must go well."""
    result = agent.run()
    assert result.error == ""
    assert result.warnings == []
    values = {name: result.count(f"{family}.{name}", deployment_id=stage.deployment["id"]) for name in COUNTS}
    return {name: value for name, value in values.items() if value}


def test_each_state_shows_the_runs_that_are_in_it_now(stage: Stage, agent: AgentFactory) -> None:
    stage.run()
    planned = stage.run()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    stage.api.set_flow_run_state(planned["id"], "SCHEDULED", scheduled_time=tomorrow, force=True)
    stage.run("PENDING")
    for _ in range(3):
        stage.run("PENDING", "RUNNING")
    stage.run("PENDING", "RUNNING", "PAUSED:Suspended")
    result = agent(**stage.only_this).run()
    found = {state: result.gauge(f"flow_runs.{state}") for state in ("scheduled", "pending", "running", "paused")}
    assert found == {"scheduled": 2, "pending": 1, "running": 3, "paused": 1}
    assert all(series.tags == stage.run_tags for series in result.matching("flow_runs.running"))


def test_a_state_that_nothing_is_in_any_more_is_zero(stage: Stage, agent: AgentFactory) -> None:
    run = stage.run("PENDING", "RUNNING")
    a = agent(**stage.only_this)
    assert a.run().gauge("flow_runs.running") == 1
    stage.enter(run, "COMPLETED")
    a.restart()
    assert a.run().gauge("flow_runs.running") == 0


@pytest.mark.parametrize(
    ("last_state", "count"),
    [
        ("COMPLETED", "completed.count"),
        ("COMPLETED:Cached", "completed.count"),
        ("FAILED", "failed.count"),
        ("FAILED:TimedOut", "failed.count"),
        ("CRASHED", "crashed.count"),
        ("CANCELLED", "cancelled.count"),
    ],
)
def test_a_run_that_ends_is_counted_once_by_the_type_of_its_state(
    stage: Stage, watching: Agent, last_state: str, count: str
) -> None:
    run = stage.run("PENDING", "RUNNING", last_state)
    stage.seen(run)
    assert counted(watching, stage) == {count: 1, "throughput": 1}
    assert counted(watching, stage) == {}
    watching.restart()
    assert counted(watching, stage) == {}


def test_counts_and_durations_have_the_tags_of_the_run_and_the_times_of_the_server(
    stage: Stage, watching: Agent
) -> None:
    run = stage.run("PENDING", "RUNNING", "COMPLETED")
    stage.seen(run)
    _, _, running, completed = stage.api.flow_run_states(run["id"])
    expected_start = datetime.fromisoformat(stage.api.flow_run(run["id"])["expected_start_time"])
    wait = (datetime.fromisoformat(running["timestamp"]) - expected_start).total_seconds()
    result = watching.run()
    # Runs of other tests that have no deployment pass the filters.
    own = {"deployment_id": stage.deployment["id"]}
    executed, waited = (result.samples(f"flow_runs.{name}_duration", **own) for name in ("execution", "queue_wait"))
    assert executed == [pytest.approx(seconds_between(running, completed))]
    assert waited == [pytest.approx(wait)]
    names = ("completed.count", "throughput", "late_start.count", "execution_duration", "queue_wait_duration")
    assert all(result.one(f"flow_runs.{name}", **own).tags == stage.run_tags for name in names)


def test_a_run_cancelled_before_it_ran_neither_started_nor_was_late(stage: Stage, watching: Agent) -> None:
    run = stage.run("CANCELLED")
    stage.seen(run)
    result = watching.run()
    assert result.count("flow_runs.cancelled.count") == 1
    assert result.count("flow_runs.throughput") == 0
    assert result.count("flow_runs.late_start.count") == 0
    assert result.samples("flow_runs.execution_duration") == []
    assert result.samples("flow_runs.queue_wait_duration") == []


def test_a_run_that_fails_is_rerun_and_completes_counts_in_both_with_its_own_durations(
    stage: Stage, watching: Agent
) -> None:
    run = stage.run("PENDING", "RUNNING", "FAILED", "SCHEDULED:AwaitingRetry", "PENDING", "RUNNING", "COMPLETED")
    stage.seen(run)
    _, _, running, failed, retry, _, again, completed = stage.api.flow_run_states(run["id"])
    result = watching.run()
    assert result.count("flow_runs.failed.count") == 1
    assert result.count("flow_runs.completed.count") == 1
    assert result.count("flow_runs.throughput") == 1
    durations = [seconds_between(running, failed), seconds_between(again, completed)]
    assert result.samples("flow_runs.execution_duration") == pytest.approx(durations)
    assert result.samples("flow_runs.retry_gaps_duration") == pytest.approx([seconds_between(retry, again)])
    assert len(result.samples("flow_runs.queue_wait_duration")) == 1
    assert counted(watching, stage) == {}


def test_attempts_seen_in_different_check_runs_count_as_those_seen_together(stage: Stage, watching: Agent) -> None:
    run = stage.run("PENDING", "RUNNING", "FAILED")
    stage.seen(run)
    assert counted(watching, stage) == {"failed.count": 1, "throughput": 1}
    for state in ("SCHEDULED:AwaitingRetry", "RUNNING", "COMPLETED"):
        stage.enter(run, state)
    stage.seen(run)
    *_, retry, again, completed = stage.api.flow_run_states(run["id"])
    result = watching.run()
    assert result.count("flow_runs.completed.count") == 1
    assert result.count("flow_runs.throughput") == 0
    assert result.samples("flow_runs.execution_duration") == pytest.approx([seconds_between(again, completed)])
    assert result.samples("flow_runs.retry_gaps_duration") == pytest.approx([seconds_between(retry, again)])


def test_a_paused_run_that_resumes_does_not_start_again_and_its_pause_is_no_execution(
    stage: Stage, watching: Agent
) -> None:
    run = stage.run("PENDING", "RUNNING", "PAUSED")
    stage.seen(run)
    assert counted(watching, stage) == {"throughput": 1}
    stage.api.resume_flow_run(run["id"])
    stage.enter(run, "COMPLETED")
    stage.seen(run)
    states = stage.api.flow_run_states(run["id"])
    running = [seconds_between(state, after) for state, after in pairwise(states) if state["type"] == "RUNNING"]
    assert len(running) == 2
    result = watching.run()
    assert result.count("flow_runs.throughput") == 0
    assert result.samples("flow_runs.execution_duration") == [pytest.approx(sum(running))]
    assert result.samples("flow_runs.retry_gaps_duration") == []


def test_from_one_terminal_state_to_another_is_no_second_end(stage: Stage, watching: Agent) -> None:
    run = stage.run("PENDING", "RUNNING", "FAILED", "COMPLETED", "CRASHED")
    stage.seen(run)
    assert counted(watching, stage) == {"failed.count": 1, "throughput": 1}


def test_a_run_that_is_being_cancelled_is_not_cancelled_yet(stage: Stage, watching: Agent) -> None:
    run = stage.run("PENDING", "RUNNING", "CANCELLING")
    stage.seen(run)
    assert counted(watching, stage) == {"throughput": 1}


def test_a_run_that_starts_after_the_grace_is_late(stage: Stage, agent: AgentFactory) -> None:
    watching = agent(late_start_grace_seconds=5, **stage.only_this)
    _ = stage.deployment
    watching.run()
    late = stage.api.create_deployment_run(
        stage.deployment["id"],
        {
            "type": "SCHEDULED",
            "state_details": {"scheduled_time": (datetime.now(UTC) - timedelta(seconds=60)).isoformat()},
        },
    )
    in_time = stage.run("PENDING", "RUNNING")
    for state in ("PENDING", "RUNNING"):
        stage.enter(late, state)
    stage.seen(late, in_time)
    result = watching.run()
    assert result.count("flow_runs.throughput") == 2
    assert result.count("flow_runs.late_start.count") == 1
    waits = sorted(result.samples("flow_runs.queue_wait_duration"))
    assert waits[0] < 5
    assert waits[1] == pytest.approx(60, abs=10)


def test_what_a_deleted_run_went_through_is_counted_from_its_events(stage: Stage, watching: Agent) -> None:
    run = stage.run("PENDING", "RUNNING", "COMPLETED")
    stage.seen(run)
    _, _, running, completed = stage.api.flow_run_states(run["id"])
    stage.api.delete_flow_run(run["id"])
    result = watching.run()
    assert result.count("flow_runs.completed.count") == 1
    assert result.count("flow_runs.throughput") == 1
    assert result.samples("flow_runs.execution_duration") == pytest.approx([seconds_between(running, completed)])
    assert result.one("flow_runs.completed.count").tags == stage.run_tags


def test_a_subflow_has_no_deployment_pool_or_queue(stage: Stage, agent: AgentFactory) -> None:
    watching = agent(**stage.only_this)
    watching.run()
    stand_in = stage.api.create_task_run(stage.run("PENDING", "RUNNING")["id"], "sub-0")
    subflow = stage.api.create_flow_run(stage.flow["id"], parent_task_run_id=stand_in["id"])
    for state in ("RUNNING", "COMPLETED"):
        stage.enter(subflow, state)
    stage.seen(subflow)
    result = watching.run()
    completed = [series for series in result.matching("flow_runs.completed.count") if series.value]
    assert [(series.value, series.tags) for series in completed] == [(1, stage.flow_tags)]
    assert result.matching("task_runs.pending", task_key="sub-0") == []


def test_runs_of_a_deleted_deployment_keep_its_tags_and_its_own_gauge_is_gone(stage: Stage, watching: Agent) -> None:
    run = stage.run("PENDING", "RUNNING")
    deployment = {"deployment_id": stage.deployment["id"]}
    assert watching.run().matching("deployment.is_ready", **deployment)
    stage.api.delete_deployment(stage.deployment["id"])
    stage.enter(run, "COMPLETED")
    stage.seen(run)
    result = watching.run()
    assert result.matching("deployment.is_ready", **deployment) == []
    assert result.one("flow_runs.completed.count", **deployment).tags == stage.run_tags
    assert result.gauge("flow_runs.running", **deployment) == 0
