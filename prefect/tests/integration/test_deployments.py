"""Deployments: readiness, pauses, tags."""

from __future__ import annotations

import pytest

from lab.agent import Agent, CheckRunResult
from lab.prefect_api import Json, PrefectApi
from lab.proxy import Proxy, fails_with
from lab.waiting import wait_until

from ..conftest import AgentFactory
from .stage import Stage


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    return Stage(api)


def is_ready(result: CheckRunResult, deployment: Json) -> float:
    return result.gauge("deployment.is_ready", deployment_id=deployment["id"])


def after_two_runs(a: Agent) -> CheckRunResult:
    """What changes about a deployment is reported not later than in the second check run after it."""
    a.run()
    return a.run()


def test_a_deployment_is_ready_once_a_worker_has_polled_its_queue(stage: Stage, agent: AgentFactory) -> None:
    api, deployment = stage.api, stage.deployment
    a = agent(**stage.only_this)
    assert is_ready(a.run(), deployment) == 0
    api.poll_work_pool(stage.pool["name"], [stage.queue["name"]])
    wait_until(lambda: api.deployment(deployment["id"])["status"] == "READY", 60, "The deployment's readiness")
    assert is_ready(a.run(), deployment) == 1


def test_a_deployment_has_the_tags_of_its_flow_its_pool_and_its_queue(stage: Stage, agent: AgentFactory) -> None:
    deployment = stage.deployment
    a = agent(tags=["team:data"], service="etl", **stage.only_this)
    always = stage.run_tags | {"team:data", "service:etl"}
    assert a.run().one("deployment.is_ready").tags == always | {"is_paused:false"}
    stage.api.pause_deployment(deployment["id"])
    paused = after_two_runs(a).one("deployment.is_ready")
    assert paused.tags == always | {"is_paused:true"}
    assert paused.value == 0
    stage.api.resume_deployment(deployment["id"])
    assert after_two_runs(a).one("deployment.is_ready").tags == always | {"is_paused:false"}


def test_a_deployment_without_a_pool_has_the_tags_that_it_has(stage: Stage, agent: AgentFactory) -> None:
    alone = stage.api.create_deployment(f"{stage.name}-alone", stage.flow["id"])
    result = agent(**stage.only_this).run()
    own = {f"deployment_id:{alone['id']}", f"deployment_name:{alone['name']}", "is_paused:false"}
    assert result.one("deployment.is_ready").tags == stage.flow_tags | own


def test_a_deployment_that_moves_to_another_pool_and_queue_takes_their_tags(stage: Stage, agent: AgentFactory) -> None:
    api, deployment = stage.api, stage.deployment
    a = agent(**stage.only_this)
    assert a.run().one("deployment.is_ready").tags == stage.run_tags | {"is_paused:false"}
    pool = api.create_work_pool(f"{stage.name}-other")
    queue = api.create_work_queue(pool["name"], f"{stage.name}-express")
    body = {"work_pool_name": pool["name"], "work_queue_name": queue["name"]}
    api.patch(f"deployments/{deployment['id']}", body)
    moved = {
        f"deployment_id:{deployment['id']}",
        f"deployment_name:{deployment['name']}",
        f"work_pool_id:{pool['id']}",
        f"work_pool_name:{pool['name']}",
        f"work_queue_id:{queue['id']}",
        f"work_queue_name:{queue['name']}",
        "is_paused:false",
    }
    assert after_two_runs(a).one("deployment.is_ready").tags == stage.flow_tags | moved


def test_a_renamed_queue_has_its_new_name_in_the_tags_of_its_deployments_and_runs(
    stage: Stage, agent: AgentFactory
) -> None:
    stage.run("PENDING", "RUNNING")
    a = agent(**stage.only_this)
    assert a.run().one("flow_runs.running").tags == stage.run_tags
    new_name = f"{stage.name}-renamed"
    stage.api.patch(f"work_pools/{stage.pool['name']}/queues/{stage.queue['name']}", {"name": new_name})
    renamed = stage.run_tags - {f"work_queue_name:{stage.queue['name']}"} | {f"work_queue_name:{new_name}"}
    result = a.run()
    assert result.one("deployment.is_ready").tags == renamed | {"is_paused:false"}
    running = {series.tags: series.value for series in result.matching("flow_runs.running")}
    assert running == {renamed: 1, stage.run_tags: 0}
    queue = result.one("work_queue.is_not_ready", work_queue_id=stage.queue["id"])
    assert f"work_queue_name:{new_name}" in queue.tags


def test_a_deleted_deployment_is_absent_and_raises_no_gauge_to_zero(stage: Stage, agent: AgentFactory) -> None:
    deployment = stage.deployment
    a = agent(**stage.only_this)
    assert is_ready(a.run(), deployment) == 0
    stage.api.delete_deployment(deployment["id"])
    result = after_two_runs(a)
    assert result.error == ""
    assert result.warnings == []
    assert [series for series in result.series if f"deployment_id:{deployment['id']}" in series.tags] == []


def test_a_deployment_with_the_name_of_a_deleted_one_is_another(stage: Stage, agent: AgentFactory) -> None:
    a = agent(**stage.only_this)
    old = stage.deployment
    assert is_ready(a.run(), old) == 0
    stage.api.delete_deployment(old["id"])
    new = stage.api.create_deployment(old["name"], stage.flow["id"], stage.pool["name"], stage.queue["name"])
    found = after_two_runs(a).one("deployment.is_ready", deployment_name=old["name"])
    assert f"deployment_id:{new['id']}" in found.tags


@pytest.mark.parametrize("filtered", [True, False])
def test_runs_of_a_deployment_that_came_and_went_between_two_check_runs_have_its_name(
    stage: Stage, agent: AgentFactory, filtered: bool
) -> None:
    a = agent(**(stage.only_this if filtered else {}))
    a.run()
    run = stage.run("PENDING", "RUNNING", "COMPLETED")
    stage.seen(run)
    stage.api.delete_deployment(stage.deployment["id"])
    completed = a.run().one("flow_runs.completed.count", deployment_id=stage.deployment["id"])
    assert completed.value == 1
    assert completed.tags == stage.run_tags


def test_a_run_that_outlives_its_deployment_counts_while_deployments_cannot_be_read(
    stage: Stage, proxy: Proxy, agent: AgentFactory
) -> None:
    stage.run("PENDING", "RUNNING")
    stage.api.delete_deployment(stage.deployment["id"])
    behind = agent(prefect_url=f"{proxy.url}/api")
    assert behind.run().gauge("flow_runs.running", deployment_id=stage.deployment["id"]) == 1
    proxy.spoil("/deployments/filter", fails_with(500))
    assert behind.run().gauge("flow_runs.running", deployment_id=stage.deployment["id"]) == 1
