"""Work queues: status, polling, backlog, concurrency."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lab.prefect_api import PrefectApi

from ..conftest import AgentFactory
from .stage import Stage


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    return Stage(api)


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def test_a_queue_shows_its_status_with_the_tags_of_queue_and_pool(stage: Stage, agent: AgentFactory) -> None:
    stage.api.update_work_queue(stage.pool["name"], stage.queue["name"], is_paused=True)
    result = agent(**stage.only_this).run()
    queue = {"work_queue_id": stage.queue["id"]}
    assert result.gauge("work_queue.is_paused", **queue) == 1
    assert result.gauge("work_queue.is_ready", **queue) == 0
    assert result.gauge("work_queue.is_not_ready", **queue) == 0
    assert result.one("work_queue.is_paused", **queue).tags == stage.queue_tags


def test_a_polled_queue_is_ready_and_tells_how_long_ago_it_was_polled(stage: Stage, agent: AgentFactory) -> None:
    queue = {"work_queue_id": stage.queue["id"]}
    a = agent(**stage.only_this)
    never_polled = a.run()
    assert never_polled.matching("work_queue.last_polled_age_seconds", **queue) == []
    assert never_polled.gauge("work_queue.is_not_ready", **queue) == 1

    stage.api.poll_work_pool(stage.pool["name"], [stage.queue["name"]])
    polled = a.run()
    assert polled.gauge("work_queue.is_ready", **queue) == 1
    assert 0 <= polled.gauge("work_queue.last_polled_age_seconds", **queue) < 10
    tags = polled.one("work_queue.last_polled_age_seconds", **queue).tags
    assert tags == stage.queue_tags | {"work_queue_status:READY"}


def test_a_run_ten_minutes_late_is_a_backlog_of_one_at_every_check_run(stage: Stage, agent: AgentFactory) -> None:
    run = stage.run()
    stage.api.set_flow_run_state(run["id"], "SCHEDULED", scheduled_time=ago(600), force=True)
    queue = {"work_queue_id": stage.queue["id"]}
    a = agent(**stage.only_this)
    for result in (a.run(), a.run()):
        assert result.gauge("work_queue.backlog.size", **queue) == 1
        assert result.gauge("work_queue.backlog.age", **queue) == pytest.approx(600, abs=10)
        tags = result.one("work_queue.backlog.size", **queue).tags
        assert tags == stage.queue_tags | {"work_queue_status:NOT_READY"}


@pytest.mark.needs("kinds of retries")
def test_the_backlog_holds_what_is_due_or_pending_and_nothing_else(stage: Stage, agent: AgentFactory) -> None:
    api = stage.api

    def scheduled(seconds_ago: float, name: str = "Scheduled") -> None:
        run = stage.run()
        api.set_flow_run_state(run["id"], "SCHEDULED", name, scheduled_time=ago(seconds_ago), force=True)

    scheduled(100, "Late")
    scheduled(-3600)
    scheduled(50, "AwaitingRetry")
    # Its next start is put off, but it has been expected since now.
    scheduled(-30, "AwaitingConcurrencySlot")
    stage.run("PENDING")
    stage.run("PENDING", "RUNNING")
    stage.run("PENDING", "RUNNING", "PAUSED")
    stage.run("PENDING", "RUNNING", "COMPLETED")
    result = agent(**stage.only_this).run()
    assert result.gauge("work_queue.backlog.size", work_queue_id=stage.queue["id"]) == 4
    assert result.gauge("work_queue.backlog.age", work_queue_id=stage.queue["id"]) == pytest.approx(100, abs=10)


def test_a_run_that_retries_inside_its_process_does_not_wait_in_the_queue(stage: Stage, agent: AgentFactory) -> None:
    run = stage.api.create_deployment_run(stage.deployment["id"], empirical_policy={"retries": 1, "retry_delay": 0})
    for state_type in ("PENDING", "RUNNING"):
        stage.api.set_flow_run_state(run["id"], state_type)
    answer = stage.api.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "FAILED"}})
    assert answer["state"]["name"] == "AwaitingRetry"
    result = agent(**stage.only_this).run()
    assert result.gauge("work_queue.backlog.size", work_queue_id=stage.queue["id"]) == 0
    assert result.gauge("work_queue.backlog.age", work_queue_id=stage.queue["id"]) == 0


def test_pending_running_and_cancelling_runs_hold_the_slots_of_a_limit(stage: Stage, agent: AgentFactory) -> None:
    stage.run("PENDING")
    for _ in range(2):
        stage.run("PENDING", "RUNNING")
    a = agent(**stage.only_this)
    queue = {"work_queue_id": stage.queue["id"]}
    assert a.run().gauge("work_queue.concurrency.in_use", **queue) == 75

    stage.run("PENDING", "RUNNING", "CANCELLING")
    stage.run("PENDING", "RUNNING", "PAUSED")
    full = a.run()
    assert full.gauge("work_queue.concurrency.in_use", **queue) == 100
    assert full.one("work_queue.concurrency.in_use", **queue).tags == stage.queue_tags | {"work_queue_status:NOT_READY"}
    default_queue = stage.pool["default_queue_id"]
    assert full.matching("work_queue.concurrency.in_use", work_queue_id=default_queue) == []


def test_the_backlog_of_a_deleted_queue_is_zero_and_its_status_is_gone(stage: Stage, agent: AgentFactory) -> None:
    run = stage.run()
    stage.api.set_flow_run_state(run["id"], "SCHEDULED", scheduled_time=ago(60), force=True)
    a = agent(**stage.only_this)
    queue = {"work_queue_id": stage.queue["id"]}
    assert a.run().gauge("work_queue.backlog.size", **queue) == 1
    stage.api.delete_work_queue(stage.pool["name"], stage.queue["name"])
    result = a.run()
    assert result.gauge("work_queue.backlog.size", **queue) == 0
    assert result.matching("work_queue.is_ready", **queue) == []
