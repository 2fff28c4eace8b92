"""A server with more deployments, planned runs and unfinished task runs than a check run reads: nothing is made up."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from datadog_checks.prefect.mirror.deployments import LEARNED_AT_ONCE
from lab.agent import Agent, CheckRunResult, forget_deployments
from lab.prefect_api import Json, PrefectApi, run_state
from lab.proxy import Proxy
from lab.server import PrefectServer
from lab.task_run import ClientTaskRun
from lab.waiting import wait_until

from ..conftest import AgentFactory
from .filled_server import POOL, fixtures

pytestmark = pytest.mark.needs("a database file")

DEPLOYMENTS = 2 * LEARNED_AT_ONCE + 10
PLANNED = 5
# Check runs until all is known: two pages of deployments and a part of one, and one more for what is planned last.
LEARNING_RUNS = 4
STUCK = 260
MOST_REQUESTS = 20
MOST_IDLE_REQUESTS = 10
MOST_IDLE_BYTES = 20_000


filled, api_of_filled = fixtures(DEPLOYMENTS, PLANNED)


@pytest.fixture
def informed(agent: AgentFactory) -> Agent:
    """An Agent that has come to know all deployments and planned runs."""
    informed = agent()
    for _ in range(LEARNING_RUNS):
        informed.run()
    return informed


def after_two_runs(informed: Agent) -> CheckRunResult:
    """What changes without an event is reported not later than in the second check run after it."""
    informed.run()
    return informed.run()


def scheduled(result: CheckRunResult) -> dict[str, float]:
    """`flow_runs.scheduled` by deployment."""
    return {series.tag("deployment_id"): series.value for series in result.matching("flow_runs.scheduled")}


def truth(server: PrefectServer) -> dict[str, float]:
    """How many runs each deployment has scheduled, by the server's database."""
    connection = sqlite3.connect(server.home / "prefect.db")
    try:
        query = "SELECT deployment_id, COUNT(*) FROM flow_run WHERE state_type = 'SCHEDULED' GROUP BY deployment_id"
        return {identity: float(number) for identity, number in connection.execute(query)}
    finally:
        connection.close()


def some_deployment(api: PrefectApi) -> Json:
    found: list[Json] = api.post("deployments/filter", {"sort": "NAME_ASC", "limit": 1, "offset": 70})
    return found[0]


def planned_run(api: PrefectApi, deployment: Json) -> Json:
    of_it = {"deployment_id": {"any_": [deployment["id"]]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    return api.flow_runs(flow_runs=of_it)[0]


def test_what_was_not_counted_yet_is_absent_and_never_too_small(server: PrefectServer, agent: AgentFactory) -> None:
    newcomer, real = agent(initial_load_share=0), truth(server)
    assert sum(real.values()) >= DEPLOYMENTS * PLANNED
    results = [newcomer.run() for _ in range(LEARNING_RUNS)]
    for result in results:
        assert scheduled(result).items() <= real.items()
    known = [len(result.matching("deployment.is_ready")) for result in results]
    assert known[:3] == [LEARNED_AT_ONCE, 2 * LEARNED_AT_ONCE, DEPLOYMENTS]
    assert results[0].warnings[0] == (
        f"deployments: initial load, {LEARNED_AT_ONCE} of {DEPLOYMENTS} read; the others appear as they are read"
    )
    assert scheduled(results[-1]) == real
    assert results[-1].warnings == []


def test_a_restart_brings_no_zeros_for_what_is_not_counted_yet(server: PrefectServer, agent: AgentFactory) -> None:
    real, informed = truth(server), agent(initial_load_share=0)
    for _ in range(LEARNING_RUNS):
        informed.run()
    assert scheduled(informed.run()) == real
    forget_deployments()
    informed.restart()
    first = scheduled(informed.run())
    assert first.items() <= real.items()
    assert len(first) < len(real)


def test_a_planned_run_counts_and_a_deleted_one_does_not_any_more(
    server: PrefectServer, api: PrefectApi, informed: Agent
) -> None:
    deployment = some_deployment(api)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    run = api.create_deployment_run(deployment["id"], run_state("SCHEDULED", scheduled_time=tomorrow))
    assert scheduled(informed.run()) == truth(server)
    # Which no event tells of.
    api.delete_flow_run(run["id"])
    assert scheduled(after_two_runs(informed)) == truth(server)
    api.delete_flow_run(planned_run(api, deployment)["id"])
    assert scheduled(after_two_runs(informed)) == truth(server)


def test_a_planned_run_that_is_started_early_is_not_scheduled_any_more(
    server: PrefectServer, api: PrefectApi, informed: Agent
) -> None:
    run = planned_run(api, some_deployment(api))
    api.set_flow_run_state(run["id"], "RUNNING", force=True)
    result = informed.run()
    assert scheduled(result) == truth(server)
    assert result.gauge("flow_runs.running", deployment_id=run["deployment_id"]) == 1
    api.set_flow_run_state(run["id"], "COMPLETED", force=True)


def test_the_runs_of_a_paused_deployment_vanish_and_come_back_when_it_is_resumed(
    server: PrefectServer, api: PrefectApi, informed: Agent
) -> None:
    deployment = some_deployment(api)
    api.pause_deployment(deployment["id"])
    result = after_two_runs(informed)
    real = truth(server)
    assert deployment["id"] not in real
    assert scheduled(result) == real | {deployment["id"]: 0.0}
    assert result.one("deployment.is_ready", deployment_id=deployment["id"], is_paused="true")
    api.resume_deployment(deployment["id"])
    wait_until(lambda: deployment["id"] in truth(server), 60, "Runs that the scheduler plans")
    result = after_two_runs(informed)
    assert result.one("deployment.is_ready", deployment_id=deployment["id"], is_paused="false")
    assert scheduled(result) == truth(server)


def test_deployments_that_come_and_go_are_noticed_within_two_check_runs(
    server: PrefectServer, api: PrefectApi, informed: Agent
) -> None:
    made = api.create_deployment(f"new-{uuid.uuid4()}", some_deployment(api)["flow_id"], POOL, "default")
    result = after_two_runs(informed)
    assert result.one("deployment.is_ready", deployment_id=made["id"])
    old = some_deployment(api)
    api.delete_deployment(old["id"])
    result = after_two_runs(informed)
    assert result.matching("deployment.is_ready", deployment_id=old["id"]) == []
    assert len(result.matching("deployment.is_ready")) == api.post("deployments/count", {})
    assert scheduled(result) == truth(server) | {old["id"]: 0.0}


def test_deployments_are_ready_as_soon_as_the_event_is_there(api: PrefectApi, informed: Agent) -> None:
    assert informed.run().gauge("deployment.is_ready", deployment_id=some_deployment(api)["id"]) == 0
    api.poll_work_pool(POOL, ["default"])
    number = api.post("deployments/count", {})
    api.wait_for_events(count=number, event={"name": ["prefect.deployment.ready"]})
    result = informed.run()
    assert [series.value for series in result.matching("deployment.is_ready")] == [1.0] * number


def test_task_runs_that_never_end_are_counted_without_being_read_again(
    server: PrefectServer, api: PrefectApi, agent: AgentFactory
) -> None:
    young = ClientTaskRun(api, "young")
    young.enter("PENDING")
    young.enter("RUNNING")
    api.wait_for_task_run(young.id, lambda task_run: task_run["state_type"] == "RUNNING")
    with stuck_copies(server, young.id, STUCK) as stuck, Proxy(server.url) as proxy:
        observer = agent(prefect_url=f"{proxy.url}/api")
        results = [observer.run() for _ in range(2)]
        assert [result.gauge("task_runs.running") for result in results] == [STUCK + 1.0] * 2
        proxy.passed.clear()
        assert observer.run().gauge("task_runs.running") == STUCK + 1
        task_pages = [request for request, _ in proxy.passed if request.path.endswith("/task_runs/filter")]
        assert len(task_pages) <= 3
        for number, identity in enumerate(stuck[:3], 1):
            api.delete_task_run(identity)
            assert observer.run().gauge("task_runs.running") == STUCK + 1 - number
        young.enter("COMPLETED")
        api.wait_for_task_run(young.id, lambda task_run: task_run["state_type"] == "COMPLETED")
        assert observer.run().gauge("task_runs.running") == STUCK - 3


@contextmanager
def stuck_copies(server: PrefectServer, task_run_id: str, number: int) -> Iterator[list[str]]:
    """Copies of a task run that were created hours ago and are RUNNING for ever, by their ids; gone in the end."""
    connection = sqlite3.connect(server.home / "prefect.db", timeout=30)
    try:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM task_run WHERE id = ?", (task_run_id,)).fetchone())
        rows = []
        for minutes in range(number):
            created = (datetime.now(UTC) - timedelta(hours=2, minutes=minutes)).strftime("%Y-%m-%d %H:%M:%S.%f")
            own = {"id": str(uuid.uuid4()), "dynamic_key": str(uuid.uuid4()), "state_id": None}
            rows.append({**row, **own, "expected_start_time": created})
        marks = ", ".join("?" * len(row))
        connection.executemany(
            f"INSERT INTO task_run ({', '.join(row)}) VALUES ({marks})", [list(copy.values()) for copy in rows]
        )
        connection.commit()
        ids = [copy["id"] for copy in rows]
        try:
            yield ids
        finally:
            connection.executemany("DELETE FROM task_run WHERE id = ?", [(identity,) for identity in ids])
            connection.commit()
    finally:
        connection.close()


# Without them the history of each run is asked for.
@pytest.mark.needs("run counts in events")
def test_a_check_run_asks_little_and_next_to_nothing_while_nothing_happens(
    server: PrefectServer, api: PrefectApi, agent: AgentFactory
) -> None:
    with Proxy(server.url) as proxy:
        observer = agent(prefect_url=f"{proxy.url}/api")
        for _ in range(LEARNING_RUNS + 2):
            observer.run()
        deployment = some_deployment(api)
        runs = [api.create_deployment_run(deployment["id"]) for _ in range(8)]
        for run in runs:
            api.set_flow_run_state(run["id"], "RUNNING", force=True)
            api.set_flow_run_state(run["id"], "COMPLETED", force=True)
        for run in runs:
            api.wait_for_run_events(run["id"])
        proxy.passed.clear()
        assert observer.run().count("flow_runs.completed.count") == 8
        assert len(proxy.passed) <= MOST_REQUESTS
