"""The option `collectors` turns kinds of data off, and with them their requests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import datadog_checks.prefect
from datadog_checks.prefect.collectors import COLLECTORS, NAMES
from lab.agent import NAMESPACE, CheckedAgent, CheckRunResult, forget_everything
from lab.prefect_api import PrefectApi
from lab.proxy import Proxy
from lab.server import PrefectServer
from lab.task_run import ClientTaskRun

from ..conftest import AgentFactory
from .stage import Stage

README = Path(__file__).parents[2] / "README.md"
ALWAYS = {"health", "ready"}
# Counting begins so long before the first check run, so that all of them count the same runs.
LONG = {"min_collection_interval": 600}
OWNED = {collector.name: set(collector.owned) for collector in COLLECTORS}


@pytest.fixture(scope="module")
def stage(server: PrefectServer) -> Iterator[Stage]:
    """One of everything that has a metric at once."""
    api = PrefectApi(server.api_url)
    stage = Stage(api)
    api.heartbeat(stage.pool["name"], "w1")
    api.poll_work_pool(stage.pool["name"], [stage.queue["name"]])
    stage.run()
    running = stage.run("PENDING", "RUNNING")
    last = [ClientTaskRun(api, "load", running["id"]).enter(state) for state in ("PENDING", "RUNNING")]
    stage.seen(running)
    api.wait_for_events(last)
    yield stage
    api.delete_own_deployments()


@pytest.fixture(scope="module")
def everything(stage: Stage) -> Iterator[set[str]]:
    """The names of all metrics that there are without the option."""
    forget_everything()
    yield metrics(CheckedAgent({"prefect_url": stage.api.api_url, "skip_proxy": True, **LONG}).run())
    forget_everything()


def metrics(result: CheckRunResult) -> set[str]:
    assert (result.error, result.warnings) == ("", [])
    return {series.name.removeprefix(NAMESPACE) for series in result.series}


@pytest.mark.parametrize("name", sorted(NAMES - {"events"}))
def test_a_collector_that_is_excluded_submits_nothing_and_all_others_what_they_do_without(
    everything: set[str], agent: AgentFactory, name: str
) -> None:
    assert metrics(agent(**LONG, collectors={"exclude": [name]}).run()) == everything - OWNED[name]


@pytest.mark.parametrize("name", sorted(NAMES - {"events"}))
def test_a_collector_that_alone_is_included_submits_what_it_does_beside_the_others(
    everything: set[str], agent: AgentFactory, name: str
) -> None:
    alone = metrics(agent(**LONG, collectors={"include": [name]}).run())
    # Tag sets that only others have found get no zeros from it.
    assert alone - ALWAYS <= everything & OWNED[name]
    assert alone >= ALWAYS
    assert (alone > ALWAYS) == bool(everything & OWNED[name])


def test_what_is_turned_off_is_not_asked_for(stage: Stage, agent: AgentFactory, proxy: Proxy) -> None:
    only_pools = agent(prefect_url=f"{proxy.url}/api", collectors={"include": ["work_pools", "concurrency_limits"]})
    metrics(only_pools.run())
    asked = {request.path.removeprefix("/api/") for request, _ in proxy.passed}
    # Servers before 3.4.19 list the limits of tags elsewhere.
    asked.discard("concurrency_limits/filter")
    assert asked == {"health", "ready", "admin/version", "work_pools/filter", "v2/concurrency_limits/filter"}


def test_without_any_collector_health_and_readiness_are_left(agent: AgentFactory) -> None:
    result = agent(collectors={"exclude": sorted(NAMES)}).run()
    assert metrics(result) == ALWAYS


def test_events_need_both_options(stage: Stage, agent: AgentFactory) -> None:
    def events(**options: object) -> list[dict[str, object]]:
        watching = agent(**options)
        watching.run()
        stage.seen(stage.run("PENDING", "RUNNING", "COMPLETED"))
        return watching.run().events

    assert events(collect_events=True)
    assert not events(collect_events=True, collectors={"exclude": ["events"]})
    assert not events(collectors={"include": ["events"]})


def test_a_name_that_there_is_not_is_a_configuration_error_that_lists_all(agent: AgentFactory) -> None:
    result = agent(collectors={"exclude": ["work_pool"]}).run()
    assert "`collectors`" in result.error
    assert "'work_pool'" in result.error
    assert all(name in result.error for name in NAMES)
    assert result.series == []


def test_the_example_configuration_names_each() -> None:
    example = Path(datadog_checks.prefect.__file__).with_name("data") / "conf.yaml.example"
    described = example.read_text(encoding="utf-8").partition("## @param collectors")[2].partition("@param")[0]
    assert {name for name in re.findall(r"`(\w+)`", described) if name != "collect_events"} == NAMES


def test_the_readme_lists_each_with_its_metrics() -> None:
    table = README.read_text(encoding="utf-8").partition("| Collector | Data |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == NAMES
