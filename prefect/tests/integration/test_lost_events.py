"""Events that the server drops, or shows late: run objects tell of the same transitions, each counted once."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from lab.agent import Agent, CheckRunResult
from lab.prefect_api import PrefectApi
from lab.proxy import Proxy, without_event
from lab.task_run import ClientTaskRun

from ..conftest import AgentFactory
from .stage import Stage
from .test_partial_failures import run_well
from .test_task_runs import is_in_state

SECOND = timedelta(seconds=1)


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    return Stage(api)


@pytest.fixture
def behind(proxy: Proxy, stage: Stage, agent: AgentFactory) -> Agent:
    """An Agent that sees the stage through the proxy."""
    return agent(prefect_url=f"{proxy.url}/api", **stage.only_this)


def hide(proxy: Proxy, event_ids: Iterable[str]) -> None:
    """The Agent sees none of these events until the proxy is healed."""
    for event_id in event_ids:
        proxy.spoil("/events/filter", without_event(event_id))


def told(family: str, results: list[CheckRunResult]) -> dict[str, list[float]]:
    """What each check run tells of starts and ends."""
    return {
        "starts": [result.count(f"{family}.throughput") for result in results],
        "ends": [result.count(f"{family}.completed.count") for result in results],
        "durations": [len(result.samples(f"{family}.execution_duration")) for result in results],
    }


ONCE: dict[str, list[float]] = {name: [1, 0, 0, 0] for name in ("starts", "ends", "durations")}


@pytest.mark.needs("ends of task runs")
def test_a_task_run_whose_events_are_lost_is_counted_once_also_if_they_arrive_later(
    proxy: Proxy, stage: Stage, behind: Agent
) -> None:
    run_well(behind)
    task = ClientTaskRun(stage.api, "load", stage.run("PENDING", "RUNNING")["id"])
    events = [task.enter(state) for state in ("PENDING", "RUNNING", "COMPLETED")]
    stage.api.wait_for_events(events)
    stage.api.wait_for_task_run(task.id, partial(is_in_state, "COMPLETED"))
    hide(proxy, events)
    lost = [run_well(behind), run_well(behind)]
    proxy.heal()
    arrived = [run_well(behind), run_well(behind)]
    assert told("task_runs", lost + arrived) == ONCE


def test_a_flow_run_whose_events_are_lost_is_counted_once_also_if_they_arrive_later(
    proxy: Proxy, stage: Stage, behind: Agent
) -> None:
    run_well(behind)
    run = stage.run("PENDING", "RUNNING", "COMPLETED")
    stage.seen(run)
    hide(proxy, (state["id"] for state in stage.api.flow_run_states(run["id"])))
    lost = [run_well(behind), run_well(behind)]
    proxy.heal()
    arrived = [run_well(behind), run_well(behind)]
    assert told("flow_runs", lost + arrived) == ONCE


@pytest.mark.needs("ends of task runs")
def test_the_end_of_an_upstream_task_run_that_never_ran_is_known_before_its_event_arrives(
    proxy: Proxy, stage: Stage, behind: Agent
) -> None:
    run_well(behind)
    flow_run = stage.run("PENDING", "RUNNING")
    upstream = ClientTaskRun(stage.api, "extract", flow_run["id"])
    downstream = ClientTaskRun(stage.api, "load", flow_run["id"], upstream=[upstream.id])
    moment = datetime.now(UTC)
    pending, cached = upstream.enter("PENDING", at=moment), upstream.enter("COMPLETED", "Cached", at=moment + SECOND)
    events = [downstream.enter(state, at=moment + 4 * SECOND) for state in ("PENDING", "RUNNING")]
    stage.api.wait_for_events([pending, cached, *events])
    stage.api.wait_for_task_run(upstream.id, partial(is_in_state, "COMPLETED"))
    hide(proxy, [cached])
    assert run_well(behind).samples("task_runs.dependency_wait_duration") == [pytest.approx(3.0)]
    proxy.heal()
    assert run_well(behind).samples("task_runs.dependency_wait_duration") == []


@pytest.mark.needs("ends of task runs")
def test_starts_retries_and_ends_that_no_event_tells_are_counted_once_from_the_objects_of_their_runs(
    proxy: Proxy, stage: Stage, behind: Agent
) -> None:
    api = stage.api
    run_well(behind)
    flow_run = stage.run("PENDING", "RUNNING")
    retrying = stage.run("PENDING", "RUNNING", "SCHEDULED:AwaitingRetry", "RUNNING:Retrying")
    hidden = [state["id"] for run in (flow_run, retrying) for state in api.flow_run_states(run["id"])]
    stories = {
        "starts": (("PENDING", None), ("RUNNING", None)),
        "retries": (("PENDING", None), ("RUNNING", None), ("RUNNING", "Retrying")),
        "cached": (("PENDING", None), ("COMPLETED", "Cached")),
    }
    for name, states in stories.items():
        task = ClientTaskRun(api, name, flow_run["id"])
        hidden += [task.enter(*state) for state in states]
        api.wait_for_task_run(task.id, partial(is_in_state, states[-1][0]))
    api.wait_for_events(hidden)
    hide(proxy, hidden)
    results = [run_well(behind), run_well(behind)]
    proxy.heal()
    results += [run_well(behind), run_well(behind)]
    assert {
        name: [result.count(name) for result in results]
        for name in ("flow_runs.throughput", "task_runs.throughput", "task_runs.completed.count")
    } == {
        "flow_runs.throughput": [2, 0, 0, 0],
        "task_runs.throughput": [2, 0, 0, 0],
        "task_runs.completed.count": [1, 0, 0, 0],
    }
    gaps = [len(result.samples("flow_runs.retry_gaps_duration")) for result in results]
    assert gaps == [1, 0, 0, 0]
