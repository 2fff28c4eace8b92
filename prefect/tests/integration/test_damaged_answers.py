"""An object of Prefect's answers is damaged: it loses what depends on the damage, the rest counts, one warning."""

from __future__ import annotations

from typing import Any

import pytest

from lab.agent import Agent, CheckRunResult
from lab.prefect_api import Json, PrefectApi
from lab.proxy import Fault, Proxy, with_objects
from lab.server import PrefectServer

from ..conftest import AgentFactory
from .stage import Stage

STATUSES = ("is_ready", "is_not_ready", "is_paused")
NULL_OR_UNKNOWN = pytest.mark.parametrize("value", [None, "ON_FIRE"])


@pytest.fixture(scope="module")
def stage(server: PrefectServer) -> Stage:
    """A stage with two of each kind, of which one will be damaged."""
    stage = Stage(api := PrefectApi(server.api_url))
    stage.seen(stage.run("PENDING"), stage.run("PENDING", "RUNNING"), stage.run("PENDING", "RUNNING"))
    api.create_work_pool(f"{stage.name}-other")
    api.update_work_queue(stage.pool["name"], stage.queue["name"], last_polled="2026-01-01T00:00:00Z")
    return stage


@pytest.fixture
def behind(proxy: Proxy, stage: Stage, agent: AgentFactory) -> Agent:
    return agent(prefect_url=f"{proxy.url}/api", **stage.only_this)


def damaged(field: str, value: Any, *ids: str) -> Fault:
    """The field has that value in the objects of these ids."""

    def damage(item: Json) -> None:
        if item["id"] in ids:
            item[field] = value

    return with_objects(damage)


def run_with_one_warning(agent: Agent, words: str) -> CheckRunResult:
    result = agent.run()
    assert result.error == ""
    assert len(result.warnings) == 1, result.warnings
    assert words in result.warnings[0]
    return result


@NULL_OR_UNKNOWN
def test_a_pool_whose_status_cannot_be_read_loses_only_that(
    proxy: Proxy, behind: Agent, stage: Stage, value: Any
) -> None:
    proxy.spoil("/work_pools/filter", damaged("status", value, stage.pool["id"]))
    result = run_with_one_warning(behind, "status")
    pool = {"work_pool_id": stage.pool["id"]}
    assert [result.matching(f"work_pool.{name}", **pool) for name in STATUSES] == [[], [], []]
    assert result.gauge("work_pool.workers.offline", **pool) == 0
    assert result.gauge("work_pool.is_not_ready", work_pool_name=f"{stage.name}-other") == 1
    assert result.gauge("flow_runs.running", deployment_id=stage.deployment["id"]) == 2


@NULL_OR_UNKNOWN
def test_a_queue_whose_status_cannot_be_read_keeps_its_backlog(
    proxy: Proxy, behind: Agent, stage: Stage, value: Any
) -> None:
    proxy.spoil("/work_queues/filter", damaged("status", value, stage.queue["id"]))
    result = run_with_one_warning(behind, "status")
    queue = {"work_queue_id": stage.queue["id"]}
    assert [result.matching(f"work_queue.{name}", **queue) for name in STATUSES] == [[], [], []]
    assert result.one("work_queue.last_polled_age_seconds", **queue).tags == stage.queue_tags
    assert result.one("work_queue.backlog.size", **queue).tags == stage.queue_tags
    assert result.gauge("work_queue.backlog.size", **queue) == 1
    assert result.gauge("work_queue.concurrency.in_use", **queue) == 75
    assert result.gauge("work_queue.is_not_ready", work_queue_id=stage.pool["default_queue_id"]) == 1


@NULL_OR_UNKNOWN
def test_a_worker_whose_status_cannot_be_read_keeps_the_age_of_its_heartbeat(
    proxy: Proxy, behind: Agent, stage: Stage, value: Any
) -> None:
    for name in ("w1", "w2"):
        stage.api.heartbeat(stage.pool["name"], name)
    ids = {worker["name"]: worker["id"] for worker in stage.api.workers(stage.pool["name"])}
    proxy.spoil("/workers/filter", damaged("status", value, ids["w2"]))
    result = run_with_one_warning(behind, "status")
    assert result.matching("work_pool.worker.is_online", worker_name="w2") == []
    assert len(result.matching("work_pool.worker.heartbeat_age_seconds", worker_name="w2")) == 1
    assert result.gauge("work_pool.worker.is_online", worker_name="w1") == 1
    assert result.gauge("work_pool.workers.online", work_pool_id=stage.pool["id"]) == 1


@NULL_OR_UNKNOWN
def test_a_heartbeat_that_cannot_be_read_leaves_the_status_of_its_worker(
    proxy: Proxy, behind: Agent, stage: Stage, value: Any
) -> None:
    stage.api.heartbeat(stage.pool["name"], "w1")
    ids = {worker["name"]: worker["id"] for worker in stage.api.workers(stage.pool["name"])}
    proxy.spoil("/workers/filter", damaged("last_heartbeat_time", value, ids["w1"]))
    result = run_with_one_warning(behind, "last_heartbeat_time")
    assert result.matching("work_pool.worker.heartbeat_age_seconds", worker_name="w1") == []
    assert result.gauge("work_pool.worker.is_online", worker_name="w1") == 1


def test_several_damaged_objects_of_several_kinds_make_one_warning(proxy: Proxy, behind: Agent, stage: Stage) -> None:
    others = [
        stage.api.create_deployment(f"{stage.name}-{number}", stage.flow["id"], stage.pool["name"])["id"]
        for number in range(3)
    ]
    proxy.spoil("/deployments/filter", damaged("status", "ON_FIRE", *others[:2]))
    proxy.spoil("/work_pools/filter", damaged("status", None, stage.pool["id"]))
    result = run_with_one_warning(behind, "status")
    ready = {tag for series in result.matching("deployment.is_ready") for tag in series.tags if "deployment_id" in tag}
    assert ready == {f"deployment_id:{stage.deployment['id']}", f"deployment_id:{others[2]}"}


@NULL_OR_UNKNOWN
def test_a_flow_run_whose_state_cannot_be_read_is_not_counted_and_the_others_are(
    proxy: Proxy, behind: Agent, stage: Stage, value: Any
) -> None:
    running = {"state": {"type": {"any_": ["RUNNING"]}}, "deployment_id": {"any_": [stage.deployment["id"]]}}
    damaged_run, _ = stage.api.flow_runs(flow_runs=running)
    proxy.spoil("/flow_runs/filter", damaged("state_type", value, damaged_run["id"]))
    result = run_with_one_warning(behind, "state_type")
    deployment = {"deployment_id": stage.deployment["id"]}
    assert result.gauge("flow_runs.running", **deployment) == 1
    assert result.gauge("flow_runs.pending", **deployment) == 1


@pytest.mark.parametrize("field", ["occurred", "resource", "payload", "related"])
def test_an_event_with_a_field_that_cannot_be_read_costs_no_other_and_none_counts_twice(
    proxy: Proxy, behind: Agent, stage: Stage, field: str
) -> None:
    assert behind.run().error == ""
    first, second = (stage.run("PENDING", "RUNNING", "COMPLETED") for _ in range(2))
    stage.seen(first, second)
    completed = stage.api.flow_run_states(first["id"])[-1]
    proxy.spoil("/events/filter", damaged(field, "ON_FIRE", completed["id"]))
    results = [run_with_one_warning(behind, field)]
    proxy.heal()
    results += [behind.run(), behind.run()]
    assert results[-1].warnings == []
    deployment = {"deployment_id": stage.deployment["id"]}
    started = [result.count("flow_runs.throughput", **deployment) for result in results]
    completed_count = [result.count("flow_runs.completed.count", **deployment) for result in results]
    assert started == [2, 0, 0]
    assert completed_count[0] in (1, 2)
    assert sum(completed_count) in (1, 2)
