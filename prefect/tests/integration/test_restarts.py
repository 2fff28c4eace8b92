"""What a large server's check has learned is known again at once after a restart, and right before it is shown."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from lab.agent import Agent, CheckRunResult, datadog_agent, forget_deployments
from lab.prefect_api import Json, PrefectApi, run_state
from lab.proxy import Proxy
from lab.server import PrefectServer

from ..conftest import AgentFactory
from .filled_server import POOL, filled_server, fixtures

pytestmark = pytest.mark.needs("a database file")

DEPLOYMENTS, PLANNED = 150, 5
MOST_RUNS = 10
# Three check runs after a restart, none of which reads a deployment that has not changed.
MOST_REQUESTS = 40


filled, api_of_filled = fixtures(DEPLOYMENTS, PLANNED)


def known(agent: Agent) -> CheckRunResult:
    """The first check run in which all is known."""
    for _ in range(MOST_RUNS):
        result = agent.run()
        if not result.warnings:
            return result
    raise AssertionError(result.warnings)


Deployments = dict[str, tuple[float, str, float]]


def shown(result: CheckRunResult) -> Deployments:
    """Readiness, `is_paused` and the number of planned runs of each deployment of which both are known."""
    planned = {series.tag("deployment_id"): series.value for series in result.matching("flow_runs.scheduled")}
    found = {}
    for series in result.matching("deployment.is_ready"):
        identity = series.tag("deployment_id")
        if identity in planned:
            found[identity] = series.value, series.tag("is_paused"), planned[identity]
    return found


def truth(server: PrefectServer) -> Deployments:
    """The same of all deployments, by the server's database."""
    query = """
        SELECT deployment.id, deployment.status, deployment.paused, COUNT(flow_run.id) FROM deployment
        LEFT JOIN flow_run ON flow_run.deployment_id = deployment.id AND flow_run.state_type = 'SCHEDULED'
        GROUP BY deployment.id
    """
    with closing(sqlite3.connect(server.home / "prefect.db")) as connection:
        rows = connection.execute(query).fetchall()
    return {identity: (float(status == "READY"), str(bool(paused)).lower(), n) for identity, status, paused, n in rows}


def with_planned(deployments: Deployments) -> Deployments:
    """Those that have planned runs: without any there is no series, or a zero."""
    return {identity: values for identity, values in deployments.items() if values[2]}


def deployments_of(api: PrefectApi, number: int, offset: int) -> list[Json]:
    found: list[Json] = api.post("deployments/filter", {"sort": "NAME_ASC", "limit": number, "offset": offset})
    return found


def plan(api: PrefectApi, deployment: Json) -> Json:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    return api.create_deployment_run(deployment["id"], run_state("SCHEDULED", scheduled_time=tomorrow))


def right_after_six(agent: Agent, server: PrefectServer) -> None:
    """After six check runs all is as in the database. Until then, what is not is absent."""
    for _ in range(6):
        result, real = agent.run(), truth(server)
        assert with_planned(shown(result)).items() <= real.items()
        assert {series.tag("deployment_id") for series in result.matching("deployment.is_ready")} <= set(real)
    assert result.warnings == []
    assert with_planned(shown(result)) == with_planned(real)
    assert len(result.matching("deployment.is_ready")) == len(real)


def test_a_restarted_agent_knows_all_in_its_first_check_run(server: PrefectServer, agent: AgentFactory) -> None:
    with Proxy(server.url) as proxy:
        observer = agent(prefect_url=f"{proxy.url}/api")
        assert with_planned(shown(known(observer))) == with_planned(truth(server))
        observer.restart()
        proxy.passed.clear()
        first = observer.run()
        assert with_planned(shown(first)) == with_planned(truth(server))
        assert first.warnings == []
        for _ in range(2):
            observer.run()
        assert len(proxy.passed) <= MOST_REQUESTS


def test_what_changed_while_the_agent_was_away_is_right_within_six_check_runs(
    server: PrefectServer, api: PrefectApi, agent: AgentFactory
) -> None:
    observer = agent()
    known(observer)
    paused, deleted, planned, unplanned = deployments_of(api, 4, 20)
    run = plan(api, unplanned)
    known(observer)
    observer.restart()
    api.pause_deployment(paused["id"])
    api.delete_deployment(deleted["id"])
    api.create_deployment(f"new-{uuid.uuid4()}", planned["flow_id"], POOL, "default")
    plan(api, planned)
    api.delete_flow_run(run["id"])
    right_after_six(observer, server)


def test_readiness_that_changed_while_the_agent_was_away_is_right(
    server: PrefectServer, api: PrefectApi, agent: AgentFactory
) -> None:
    observer = agent()
    known(observer)
    observer.restart()
    api.poll_work_pool(POOL, ["default"])
    api.wait_for_events(count=1, event={"name": ["prefect.deployment.ready"]})
    number = len(truth(server))
    api.wait_for_events(count=number, event={"name": ["prefect.deployment.ready"]})
    right_after_six(observer, server)


def test_another_server_that_takes_the_place_of_this_one_is_learned_anew(
    server: PrefectServer, agent: AgentFactory
) -> None:
    # One name for both: they share the stored state, as two servers under one address do.
    known(agent(server_name="production"))
    with filled_server(40, planned=3) as other:
        observer = agent(prefect_url=other.api_url, server_name="production")
        first = observer.run()
        assert any("starts anew" in warning for warning in first.warnings)
        assert {series.tag("deployment_id") for series in first.matching("deployment.is_ready")} <= set(truth(other))
        right_after_six(observer, other)


def test_a_server_with_yesterdays_backup_is_shown_as_it_was(agent: AgentFactory) -> None:
    with filled_server(40, planned=3) as server:
        api = PrefectApi(server.api_url)
        server.stop()
        backup = server.folder / "backup.db"
        shutil.copy(server.home / "prefect.db", backup)
        server.start()
        first, second = deployments_of(api, 2, 5)
        api.pause_deployment(first["id"])
        plan(api, second)
        made = api.create_deployment(f"new-{uuid.uuid4()}", first["flow_id"], POOL, "default")
        observer = agent(prefect_url=server.api_url)
        assert known(observer).one("deployment.is_ready", deployment_id=made["id"])
        server.stop()
        for file in server.home.glob("prefect.db*"):
            file.unlink()
        shutil.copy(backup, server.home / "prefect.db")
        server.start()
        observer.restart()
        right_after_six(observer, server)


def test_damaged_state_costs_one_warning_and_all_is_learned_anew(server: PrefectServer, agent: AgentFactory) -> None:
    observer = agent()
    known(observer)
    cache = datadog_agent._cache
    keys = [key for key, text in cache.items() if "_deployments_" in key and text]
    assert keys
    for key in keys:
        cache[key] = cache[key][: len(cache[key]) // 2]
    observer.restart()
    first = observer.run()
    told = "Initial load of deployments starts anew: their stored state cannot be read."
    assert len([warning for warning in first.warnings if warning.startswith(told)]) == 1
    assert with_planned(shown(known(observer))) == with_planned(truth(server))


def test_a_state_of_an_earlier_version_which_has_no_deployments_is_a_cold_start(
    server: PrefectServer, agent: AgentFactory
) -> None:
    observer = agent()
    known(observer)
    forget_deployments()
    observer.restart()
    for warning in observer.run().warnings:
        assert "initial load" in warning
    assert with_planned(shown(known(observer))) == with_planned(truth(server))
