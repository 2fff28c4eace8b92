"""One kind of request fails or breaks off for a while: the rest goes on, and nothing is lost or counted twice."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lab.agent import NAMESPACE, Agent, CheckRunResult
from lab.prefect_api import PrefectApi
from lab.proxy import Proxy, fails_with, is_cut_off, is_dropped, is_html
from lab.server import PrefectServer
from lab.task_run import ClientTaskRun

from ..conftest import AgentFactory
from .stage import Stage

SECOND = timedelta(seconds=1)
COUNTS_AND_HISTOGRAMS = (".count", ".throughput", "_duration")


@pytest.fixture(scope="module")
def stage(server: PrefectServer) -> Stage:
    """A stage on which every gauge has a value."""
    stage = Stage(api := PrefectApi(server.api_url))
    runs = stage.runs_in_progress()
    api.update_work_queue(stage.pool["name"], stage.queue["name"], last_polled="2026-01-01T00:00:00Z")
    stage.seen(*runs)
    return stage


@pytest.fixture
def behind(proxy: Proxy, stage: Stage, agent: AgentFactory) -> Agent:
    """An Agent that sees the stage through the proxy."""
    stage.api.heartbeat(stage.pool["name"], "w1")
    return agent(prefect_url=f"{proxy.url}/api", **stage.only_this)


def run_well(agent: Agent) -> CheckRunResult:
    result = agent.run()
    assert result.error == ""
    assert result.warnings == []
    return result


def gauges(result: CheckRunResult) -> set[tuple[str, frozenset[str]]]:
    return {
        (series.name.removeprefix(NAMESPACE), series.tags)
        for series in result.series
        if not series.name.endswith(COUNTS_AND_HISTOGRAMS)
    }


@pytest.mark.parametrize(
    ("path", "status", "missing", "named"),
    [
        ("/work_pools/filter", 500, ("work_pool.", "deployment."), ("work pools", "workers", "deployments")),
        ("/workers/filter", 500, ("work_pool.worker",), ("workers",)),
        ("/work_queues/filter", 500, ("work_queue.",), ("work queues", "backlogs", "concurrency")),
        ("/concurrency_limits/filter", 500, ("concurrency_limit.",), ("concurrency limits",)),
        ("/deployments/filter", 500, ("deployment.",), ("deployments",)),
        (
            "/flow_runs/filter",
            500,
            ("flow_runs.", "work_queue.backlog.", "work_queue.concurrency."),
            ("flow runs", "backlogs", "concurrency"),
        ),
        ("/task_runs/filter", 500, ("task_runs.",), ("task runs",)),
        ("/task_runs/filter", 403, ("task_runs.",), ("task runs",)),
        ("/admin/version", 500, ("nothing",), ("version",)),
        ("/admin/version", 403, ("nothing",), ("version",)),
    ],
)
def test_where_one_kind_of_request_fails_the_others_go_on_and_a_warning_names_what_is_missing(
    proxy: Proxy, behind: Agent, path: str, status: int, missing: tuple[str, ...], named: tuple[str, ...]
) -> None:
    before = gauges(run_well(behind))
    if path == "/admin/version":
        # It is asked for in the first check run, and then now and then.
        behind.restart()
    proxy.spoil(path, fails_with(status))
    spoilt = behind.run()
    assert spoilt.error == ""
    assert gauges(spoilt) == {(name, tags) for name, tags in before if not name.startswith(missing)}
    in_status = " ".join(spoilt.warnings)
    assert all(name in in_status for name in named)
    assert str(status) in in_status
    proxy.heal()
    assert gauges(run_well(behind)) == before


@pytest.mark.parametrize("path", ["/events/filter", "/flow_runs/filter"])
def test_what_could_not_be_counted_is_counted_once_as_soon_as_it_can(
    proxy: Proxy, behind: Agent, stage: Stage, path: str
) -> None:
    run_well(behind)
    proxy.spoil(path, fails_with(500))
    done = stage.run("PENDING", "RUNNING", "COMPLETED")
    task = ClientTaskRun(stage.api, "load", done["id"])
    last = [task.enter(state) for state in ("PENDING", "RUNNING", "FAILED")]
    stage.seen(done)
    stage.api.wait_for_events(last)
    spoilt = behind.run()
    assert spoilt.error == ""
    assert {"starts, retries and ends of flow runs", "starts and ends of task runs"} <= {
        warning.removeprefix("Missing: ").partition(".")[0] for warning in spoilt.warnings
    }
    # A count that could not be taken is absent, and not 0.
    assert [series for series in spoilt.series if series.name.endswith(COUNTS_AND_HISTOGRAMS)] == []
    proxy.heal()
    healed, later = run_well(behind), run_well(behind)
    deployment = {"deployment_id": stage.deployment["id"]}
    for name in ("flow_runs.completed.count", "flow_runs.throughput", "task_runs.failed.count", "task_runs.throughput"):
        assert (healed.count(name, **deployment), later.count(name, **deployment)) == (1, 0), name
    for name in ("flow_runs.execution_duration", "flow_runs.queue_wait_duration", "task_runs.execution_duration"):
        assert (len(healed.samples(name, **deployment)), len(later.samples(name))) == (1, 0), name


def test_what_is_not_named_yet_waits_for_its_names(proxy: Proxy, api: PrefectApi, agent: AgentFactory) -> None:
    stage = Stage(api)
    proxy.spoil("/flows/filter", fails_with(500))
    a = agent(prefect_url=f"{proxy.url}/api", **stage.only_this)
    done = stage.run("PENDING", "RUNNING", "COMPLETED")
    stage.run("PENDING", "RUNNING")
    stage.seen(done)
    nameless = a.run()
    assert nameless.error == ""
    assert nameless.warnings
    assert [series for series in nameless.series if f"flow_id:{stage.flow['id']}" in series.tags] == []
    proxy.heal()
    result = run_well(a)
    for name in ("flow_runs.completed.count", "flow_runs.running"):
        named = result.one(name, deployment_id=stage.deployment["id"])
        assert (named.value, named.tags) == (1, stage.run_tags)


def test_a_run_whose_history_cannot_be_read_is_counted_once_as_soon_as_it_can(
    proxy: Proxy, behind: Agent, stage: Stage
) -> None:
    run_well(behind)
    run = stage.run("PENDING", "RUNNING", "FAILED", "SCHEDULED:AwaitingRetry", "PENDING", "RUNNING", "COMPLETED")
    stage.seen(run)
    proxy.spoil("/flow_run_states/", fails_with(500))
    spoilt = behind.run()
    assert spoilt.error == ""
    assert len(spoilt.warnings) == 1
    assert "flow runs" in spoilt.warnings[0]
    proxy.heal()
    results = [spoilt, run_well(behind), run_well(behind)]
    for name in ("failed.count", "completed.count", "throughput"):
        assert sum(result.count(f"flow_runs.{name}") for result in results) == 1, name
    samples = {
        name: sum(len(result.samples(f"flow_runs.{name}_duration")) for result in results)
        for name in ("execution", "retry_gaps", "queue_wait")
    }
    assert samples == {"execution": 2, "retry_gaps": 1, "queue_wait": 1}


def test_a_server_that_is_busy_twice_is_asked_a_third_time_and_leaves_no_warning(
    proxy: Proxy, behind: Agent, stage: Stage
) -> None:
    before = gauges(run_well(behind))
    done = stage.run("PENDING", "RUNNING", "COMPLETED")
    stage.seen(done)
    for path in ("/health", "/work_queues/filter", "/events/filter"):
        proxy.spoil(path, fails_with(503), times=2)
    result = run_well(behind)
    assert result.gauge("health") == 1
    assert gauges(result) == before
    assert result.count("flow_runs.completed.count") == 1
    assert run_well(behind).count("flow_runs.completed.count") == 0


def test_whatever_breaks_once_and_passes_then_leaves_no_warning(proxy: Proxy, behind: Agent, stage: Stage) -> None:
    before = gauges(run_well(behind))
    done = stage.run("PENDING", "RUNNING", "COMPLETED")
    stage.seen(done)
    faults = {
        "/health": is_dropped,
        "/ready": fails_with(504),
        "/admin/version": fails_with(502),
        "/work_pools/filter": is_html,
        "/workers/filter": is_dropped,
        "/work_queues/filter": fails_with(502),
        "/deployments/filter": is_cut_off,
        "/flow_runs/filter": fails_with(504),
        "/task_runs/filter": fails_with(429, Retry_After="1"),
        "/events/filter": is_cut_off,
    }
    for path, fault in faults.items():
        proxy.spoil(path, fault, times=1)
    result = run_well(behind)
    assert (result.gauge("health"), result.gauge("ready")) == (1, 1)
    assert gauges(result) == before
    assert result.count("flow_runs.completed.count") == 1
    assert run_well(behind).count("flow_runs.completed.count") == 0


def test_a_web_page_in_place_of_the_health_is_asked_again(proxy: Proxy, behind: Agent) -> None:
    proxy.spoil("/health", is_html, times=1)
    assert run_well(behind).gauge("health") == 1
