"""Work pools and their workers: statuses, heartbeats, and what is gone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lab.agent import CheckRunResult, Series
from lab.prefect_api import Json, PrefectApi
from lab.waiting import wait_until

from ..conftest import AgentFactory
from .stage import Stage

STATUSES = ("is_ready", "is_not_ready", "is_paused")
# The server's clock is known to about that.
CLOCK_SECONDS = 2
WORKER_METRICS = ("work_pool.worker.is_online", "work_pool.worker.heartbeat_age_seconds")


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    return Stage(api)


def statuses(result: CheckRunResult, pool: Json) -> dict[str, float]:
    return {name: result.gauge(f"work_pool.{name}", work_pool_id=pool["id"]) for name in STATUSES}


def worker_counts(result: CheckRunResult, pool: Json) -> dict[str, float]:
    return {name: result.gauge(f"work_pool.workers.{name}", work_pool_id=pool["id"]) for name in ("online", "offline")}


def worker(api: PrefectApi, pool: Json, name: str) -> Json:
    return next(worker for worker in api.workers(pool["name"]) if worker["name"] == name)


def series_of(result: CheckRunResult, worker: Json) -> list[Series]:
    return [series for series in result.series if f"worker_id:{worker['id']}" in series.tags]


def heartbeat_age(worker: Json) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(worker["last_heartbeat_time"])).total_seconds()


def test_each_status_of_a_pool_has_its_own_gauge(stage: Stage, agent: AgentFactory) -> None:
    a = agent(**stage.only_this)
    pool = stage.pool
    assert statuses(a.run(), pool) == {"is_ready": 0, "is_not_ready": 1, "is_paused": 0}

    stage.api.heartbeat(pool["name"], "w1")
    assert statuses(a.run(), pool) == {"is_ready": 1, "is_not_ready": 0, "is_paused": 0}

    stage.api.update_work_pool(pool["name"], is_paused=True)
    assert statuses(a.run(), pool) == {"is_ready": 0, "is_not_ready": 0, "is_paused": 1}


def test_the_gauges_of_a_pool_have_its_tags_and_its_type(stage: Stage, agent: AgentFactory) -> None:
    pool = stage.api.create_work_pool(f"{stage.name}-docker", type="docker")
    result = agent(**stage.only_this).run()
    tags = {f"work_pool_id:{pool['id']}", f"work_pool_name:{pool['name']}", "work_pool_type:docker"}
    names = [*STATUSES, "workers.online", "workers.offline"]
    assert all(result.one(f"work_pool.{name}", work_pool_id=pool["id"]).tags == tags for name in names)


def test_workers_are_online_or_offline_and_tell_the_age_of_their_heartbeat_until_they_are_stale(
    attentive_api: PrefectApi, agent: AgentFactory
) -> None:
    api, stage = attentive_api, Stage(attentive_api)
    pool = stage.pool
    api.heartbeat(pool["name"], "silent", interval_seconds=1)
    wait_until(lambda: worker(api, pool, "silent")["status"] == "OFFLINE", 60, "The end of the silent worker")
    for name in ("w1", "w2"):
        api.heartbeat(pool["name"], name)
    silent = worker(api, pool, "silent")
    youngest = heartbeat_age(silent)
    result = agent(prefect_url=api.api_url, **stage.only_this).run()
    oldest = heartbeat_age(silent)

    assert worker_counts(result, pool) == {"online": 2, "offline": 1}
    for name, is_online in (("silent", 0), ("w1", 1), ("w2", 1)):
        found = worker(api, pool, name)
        tags = stage.pool_tags | {f"worker_id:{found['id']}", f"worker_name:{name}"}
        assert [result.one(metric, worker_name=name).tags for metric in WORKER_METRICS] == [tags, tags]
        assert result.gauge("work_pool.worker.is_online", worker_id=found["id"]) == is_online
    age = result.gauge("work_pool.worker.heartbeat_age_seconds", worker_id=silent["id"])
    assert youngest - CLOCK_SECONDS <= age <= oldest + CLOCK_SECONDS

    stale_after = heartbeat_age(silent) - CLOCK_SECONDS
    stale = agent(prefect_url=api.api_url, worker_stale_after_seconds=stale_after, **stage.only_this).run()
    assert stale.gauge("work_pool.workers.offline", work_pool_id=pool["id"]) == 0
    assert series_of(stale, silent) == []


def test_a_pool_without_workers_has_none_online_and_none_offline(stage: Stage, agent: AgentFactory) -> None:
    pool = stage.pool
    assert worker_counts(agent(**stage.only_this).run(), pool) == {"online": 0, "offline": 0}


def test_a_stale_worker_is_gone_even_while_the_server_calls_it_online(stage: Stage, agent: AgentFactory) -> None:
    api, pool = stage.api, stage.pool
    api.heartbeat(pool["name"], "slow", interval_seconds=600)
    wait_until(lambda: heartbeat_age(worker(api, pool, "slow")) > 4, 60, "A heartbeat that is long ago")
    slow = worker(api, pool, "slow")
    assert slow["status"] == "ONLINE"
    stale = agent(worker_stale_after_seconds=1, **stage.only_this).run()
    assert worker_counts(stale, pool) == {"online": 0, "offline": 0}
    assert series_of(stale, slow) == []


def test_a_deleted_worker_is_absent_and_raises_no_gauge_to_zero(stage: Stage, agent: AgentFactory) -> None:
    api, pool = stage.api, stage.pool
    for name in ("stays", "goes"):
        api.heartbeat(pool["name"], name)
    goes = worker(api, pool, "goes")
    a = agent(**stage.only_this)
    assert len(series_of(a.run(), goes)) == len(WORKER_METRICS)
    api.delete_worker(pool["name"], "goes")
    result = a.run()
    assert series_of(result, goes) == []
    assert worker_counts(result, pool) == {"online": 1, "offline": 0}


def test_a_deleted_pool_is_absent_with_its_workers_and_raises_no_gauge_to_zero(
    stage: Stage, agent: AgentFactory
) -> None:
    api, pool = stage.api, stage.pool
    api.heartbeat(pool["name"], "w1")
    a = agent(**stage.only_this)
    assert a.run().gauge("work_pool.is_ready", work_pool_id=pool["id"]) == 1
    api.delete_work_pool(pool["name"])
    result = a.run()
    assert result.error == ""
    assert result.warnings == []
    of_pool = {series.name for series in result.series if f"work_pool_id:{pool['id']}" in series.tags}
    # Its default queue had a backlog, of which the contract says that it goes on as 0.
    assert of_pool == {"prefect.server.work_queue.backlog.size", "prefect.server.work_queue.backlog.age"}


def test_a_pool_with_blanks_and_umlauts_in_its_name_gives_right_numbers(api: PrefectApi, agent: AgentFactory) -> None:
    pool = api.create_work_pool("etl pool ü")
    api.heartbeat(pool["name"], "worker ö 1")
    queue = api.create_work_queue(pool["name"], "queue ä", concurrency_limit=2)
    flow = api.create_flow("flow ß")
    deployment = api.create_deployment("deployment é", flow["id"], pool["name"], queue["name"])
    run = api.create_deployment_run(deployment["id"])
    for state in ("PENDING", "RUNNING"):
        api.set_flow_run_state(run["id"], state)
    result = agent(work_pool_names={"include": ["^etl pool ü$"]}, deployment_names={"include": ["é"]}).run()

    assert result.error == ""
    assert result.warnings == []
    assert statuses(result, pool) == {"is_ready": 1, "is_not_ready": 0, "is_paused": 0}
    assert worker_counts(result, pool) == {"online": 1, "offline": 0}
    pool_tags = {f"work_pool_id:{pool['id']}", "work_pool_name:etl pool ü"}
    found = worker(api, pool, "worker ö 1")
    assert result.one("work_pool.worker.is_online").value == 1
    assert result.one("work_pool.worker.is_online").tags == pool_tags | {
        f"worker_id:{found['id']}",
        "worker_name:worker ö 1",
    }
    assert result.gauge("work_queue.concurrency.in_use", work_queue_name="queue ä") == 50
    assert result.one("flow_runs.running").value == 1
    assert result.one("flow_runs.running").tags == pool_tags | {
        f"work_queue_id:{queue['id']}",
        "work_queue_name:queue ä",
        f"deployment_id:{deployment['id']}",
        "deployment_name:deployment é",
        f"flow_id:{flow['id']}",
        "flow_name:flow ß",
    }
