"""A server that gives 50 objects a page, with more than that of everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from lab.agent import CheckRunResult
from lab.prefect_api import Json, PrefectApi, run_state
from lab.server import FAST_EVENTS, PrefectServer

from ..conftest import AgentFactory

PAGE = 50
MANY = 60
MORE_THAN_A_PAGE = PAGE + 1
RUNS = 120
TIES = 80


@pytest.fixture(scope="module")
def small_pages() -> Iterator[PrefectApi]:
    env = {**FAST_EVENTS, "PREFECT_SERVER_API_DEFAULT_LIMIT": str(PAGE)}
    with PrefectServer(env=env) as server:
        yield PrefectApi(server.api_url)


@pytest.fixture(scope="module")
def flow(small_pages: PrefectApi) -> Json:
    return small_pages.create_flow("etl")


@pytest.fixture(scope="module")
def deployments(small_pages: PrefectApi, flow: Json) -> list[Json]:
    """Each on a pool of its own."""
    made = []
    for number in range(MANY):
        pool = small_pages.create_work_pool(f"pool-{number}")
        made.append(small_pages.create_deployment(f"deployment-{number}", flow["id"], pool["name"]))
    return made


def by_tag(result: CheckRunResult, metric: str, key: str) -> dict[str, float]:
    """The values of a metric by that tag, of which there must be one series each."""
    found = [
        (tag.partition(":")[2], series.value)
        for series in result.matching(metric)
        for tag in series.tags
        if tag.startswith(f"{key}:")
    ]
    assert len(found) == len(dict(found)), found
    return dict(found)


def test_every_pool_queue_and_deployment_is_there_once(
    small_pages: PrefectApi, deployments: list[Json], agent: AgentFactory
) -> None:
    result = agent(prefect_url=small_pages.api_url).run()
    assert (result.error, result.warnings) == ("", [])
    pools = {f"pool-{number}": 1.0 for number in range(MANY)}
    assert by_tag(result, "work_pool.is_not_ready", "work_pool_name") == pools
    assert by_tag(result, "work_queue.is_not_ready", "work_pool_name") == pools
    ready = {deployment["name"]: 0.0 for deployment in deployments}
    assert by_tag(result, "deployment.is_ready", "deployment_name") == ready


def test_all_planned_runs_are_counted_though_more_than_a_page_of_them_share_their_start(
    small_pages: PrefectApi, deployments: list[Json], agent: AgentFactory
) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for number in range(RUNS):
        start = tomorrow + timedelta(seconds=max(0, number - TIES))
        state = run_state("SCHEDULED", scheduled_time=start)
        small_pages.create_deployment_run(deployments[number % MANY]["id"], state)
    a = agent(prefect_url=small_pages.api_url)
    for result in (a.run(), a.run()):
        assert (result.error, result.warnings) == ("", [])
        scheduled = by_tag(result, "flow_runs.scheduled", "deployment_name")
        assert scheduled == {deployment["name"]: RUNS / MANY for deployment in deployments}
        assert sum(scheduled.values()) == RUNS
        assert sum(by_tag(result, "work_queue.backlog.size", "work_queue_id").values()) == 0


def test_all_due_runs_and_running_task_runs_and_workers_are_counted(
    small_pages: PrefectApi, flow: Json, agent: AgentFactory
) -> None:
    pool = small_pages.create_work_pool("busy")
    queue = small_pages.create_work_queue(pool["name"], "busy", concurrency_limit=2 * MORE_THAN_A_PAGE)
    busy = small_pages.create_deployment("busy", flow["id"], pool["name"], queue["name"])
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    run = small_pages.create_flow_run(flow["id"])
    for number in range(MORE_THAN_A_PAGE):
        small_pages.create_deployment_run(busy["id"], run_state("SCHEDULED", scheduled_time=an_hour_ago))
        small_pages.create_deployment_run(busy["id"], {"type": "RUNNING"})
        small_pages.create_task_run(run["id"], "load-0a1b2c3d", {"type": "RUNNING"})
        small_pages.heartbeat(pool["name"], f"w{number}")
    workers = {f"w{number}" for number in range(MORE_THAN_A_PAGE)}
    only_this = {"work_pool_names": {"include": ["^busy$"]}}
    result = agent(prefect_url=small_pages.api_url, **only_this).run()
    assert (result.error, result.warnings) == ("", [])
    assert result.gauge("work_queue.backlog.size", work_queue_id=queue["id"]) == MORE_THAN_A_PAGE
    assert result.gauge("work_queue.concurrency.in_use", work_queue_id=queue["id"]) == 50
    assert result.gauge("flow_runs.running", deployment_id=busy["id"]) == MORE_THAN_A_PAGE
    assert result.gauge("task_runs.running", task_name="load") == MORE_THAN_A_PAGE
    assert result.gauge("work_pool.workers.online") == MORE_THAN_A_PAGE
    assert set(by_tag(result, "work_pool.worker.is_online", "worker_name")) == workers


def test_more_events_than_a_page_in_one_interval_are_each_counted_and_submitted_once(
    small_pages: PrefectApi, flow: Json, agent: AgentFactory
) -> None:
    a = agent(prefect_url=small_pages.api_url, collect_events=True, event_names={"include": [r"\.Cancelled$"]})
    assert a.run().error == ""
    runs = [small_pages.create_flow_run(flow["id"])["id"] for _ in range(MORE_THAN_A_PAGE)]
    ids = [small_pages.set_flow_run_state(run, "CANCELLED", force=True)["id"] for run in runs]
    small_pages.wait_for_events(ids)
    results = [a.run(), a.run()]
    a.restart()
    results.append(a.run())
    assert [(result.error, result.warnings) for result in results] == [("", [])] * len(results)
    counts = [result.count("flow_runs.cancelled.count", flow_name="etl") for result in results]
    assert counts == [MORE_THAN_A_PAGE, 0, 0]
    submitted = Counter(event["aggregation_key"] for result in results for event in result.events)
    assert submitted == {f"prefect.flow-run.{run}": 1 for run in runs}
