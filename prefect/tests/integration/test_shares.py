"""What has a lot to do leaves the others their time, goes on in the next check run, and keeps what it has read."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partialmethod
from typing import Any

import pytest

from datadog_checks.prefect.api.client import Client
from datadog_checks.prefect.api.clock import ServerClock
from lab.agent import Agent, CheckRunResult
from lab.crowds import (
    crowd_of_deployments,
    crowd_of_histories,
    crowd_of_task_runs,
    running_flow_runs,
    unfinished_task_runs,
)
from lab.prefect_api import Json, PrefectApi
from lab.proxy import Answer, Proxy, fails_with
from lab.server import PrefectServer

from ..conftest import AgentFactory
from .lively_stage import (
    FLOW_RUN_CHANGES,
    LASTING,
    PLAIN,
    RETRIED,
    TASK_RUN_CHANGES,
    TOLERANCE_SECONDS,
    lively_stage,
    names,
    run_a_task,
    running_run,
    timed,
)
from .stage import Stage

# Older servers are asked for more, and in other ways.
pytestmark = [pytest.mark.needs("a database file"), pytest.mark.needs("ends of task runs")]

DEPLOYMENTS = 3_000
# A deployment with a schedule takes the server 10 ms, one of the crowd next to nothing.
SECONDS_A_DEPLOYMENT = 0.005
TASK_RUNS = 30_000
HISTORIES = 150
SECONDS_A_HISTORY = 0.1
# Check runs until all is known, on a machine that has other things to do as well.
MOST_RUNS = 40
RETRY_AFTER_SECONDS = 40

# What a check run tells of the stage, whatever else there is.
POOLS_AND_QUEUES = frozenset(
    {
        "health",
        "ready",
        "work_pool.is_ready",
        "work_pool.workers.online",
        "work_pool.worker.is_online",
        "work_queue.is_ready",
        "work_queue.last_polled_age_seconds",
        "work_queue.backlog.size",
        "work_queue.backlog.age",
        "work_queue.concurrency.in_use",
    }
)
FLOW_RUNS = frozenset({"flow_runs.pending", "flow_runs.running", "flow_runs.scheduled", "deployment.is_ready"})
TASK_RUN_STATES = frozenset({"task_runs.running"})


@pytest.fixture(scope="module")
def server() -> Iterator[PrefectServer]:
    with PrefectServer(env=LASTING) as server:
        yield server


@pytest.fixture(scope="module")
def stage(server: PrefectServer) -> Stage:
    return lively_stage(PrefectApi(server.api_url))


@pytest.fixture(scope="module")
def running(stage: Stage) -> Json:
    return running_run(stage)


class SlowAnswers:
    """A fault: the answer is the right one, but takes so many seconds, or so many an object in it."""

    def __init__(self, seconds: float = 0.0, seconds_an_object: float = 0.0) -> None:
        self._seconds, self._seconds_an_object = seconds, seconds_an_object

    def __call__(self, answer: Answer) -> Answer:
        objects = len(json.loads(answer.body)) if self._seconds_an_object else 0
        time.sleep(self._seconds + objects * self._seconds_an_object)
        return answer


def run_without_error(agent: Agent) -> CheckRunResult:
    result = timed(agent)
    assert result.error == ""
    return result


def running_by_deployment(result: CheckRunResult) -> dict[str, float]:
    """Those above 0: what ran within the hour has zeros."""
    return {
        series.tag("deployment_id"): series.value for series in result.matching("flow_runs.running") if series.value
    }


def unfinished_by_task(result: CheckRunResult) -> dict[tuple[str, str], float]:
    return {
        (state, series.tag("task_key")): series.value
        for state in ("pending", "running", "paused")
        for series in result.matching(f"task_runs.{state}")
        if series.value
    }


def ended_runs_of(stage: Stage, result: CheckRunResult) -> float:
    return result.count("flow_runs.completed.count", deployment_id=stage.deployment["id"])


def test_three_thousand_unknown_deployments_that_run_are_learned_in_parts_beside_everything_else(
    server: PrefectServer, stage: Stage, running: Json, proxy: Proxy, agent: AgentFactory
) -> None:
    newcomer, ending = agent(prefect_url=f"{proxy.url}/api"), Stage(stage.api)
    proxy.spoil("/deployments/filter$", SlowAnswers(seconds_an_object=SECONDS_A_DEPLOYMENT))
    with crowd_of_deployments(server, running["id"], DEPLOYMENTS):
        truth, known, ended = running_flow_runs(server), [0], []
        assert len(truth) == DEPLOYMENTS + 1
        results: list[CheckRunResult] = []
        while known[-1] < len(truth):
            assert len(results) < MOST_RUNS, known
            results.append(run_without_error(newcomer))
            assert names(results[-1]) >= POOLS_AND_QUEUES | TASK_RUN_STATES, results[-1].warnings
            told = running_by_deployment(results[-1])
            # What is told is true, and what was known stays known.
            assert told.items() <= truth.items()
            assert len(told) >= known[-1], known
            known.append(len(told))
            ended.append(ending.run(*PLAIN))
        assert any(results[0].warnings), "what is missing is not named"
        ending.seen(*ended)
        results += [run_without_error(newcomer), run_without_error(newcomer)]
    completed = [ended_runs_of(ending, result) for result in results]
    assert (sum(completed), completed[-1]) == (len(ended), 0)


def test_thirty_thousand_young_task_runs_are_learned_in_parts_beside_everything_else(
    server: PrefectServer, stage: Stage, running: Json, agent: AgentFactory
) -> None:
    newcomer, ending = agent(), Stage(stage.api)
    kinds = [
        stage.api.create_task_run(running["id"], key, {"type": state})["id"]
        for key in ("extract-0a1b2c3d", "load-0a1b2c3d")
        for state in ("PENDING", "RUNNING")
    ]
    with crowd_of_task_runs(server, kinds, TASK_RUNS // len(kinds), within=timedelta(minutes=50)) as crowd:
        truth = unfinished_task_runs(server)
        results: list[CheckRunResult] = []
        while not results or unfinished_by_task(results[-1]) != truth:
            assert len(results) < MOST_RUNS, (truth, unfinished_by_task(results[-1]), results[-1].warnings)
            ending.run(*PLAIN)
            results.append(run_without_error(newcomer))
            assert names(results[-1]) >= POOLS_AND_QUEUES | FLOW_RUNS, results[-1].warnings
            # Absent until it is known, never too small.
            assert unfinished_by_task(results[-1]).items() <= truth.items()
            assert ended_runs_of(ending, results[-1]) == 1
        # What is known stays true without reading it all again.
        for identity in crowd[:: TASK_RUNS // 3]:
            stage.api.delete_task_run(identity)
        run_a_task(stage, running)
        later = [run_without_error(newcomer) for _ in range(3)]
        assert unfinished_by_task(later[-1]) == unfinished_task_runs(server)
        assert [result.count("task_runs.completed.count") for result in later] == [1, 0, 0]


def test_histories_that_are_read_one_by_one_are_counted_once_over_several_check_runs_beside_everything_else(
    server: PrefectServer, stage: Stage, running: Json, proxy: Proxy, agent: AgentFactory
) -> None:
    watching = agent(prefect_url=f"{proxy.url}/api")
    assert run_without_error(watching).warnings == []
    rerun = stage.run(*RETRIED)
    stage.seen(rerun)
    crowd_of_histories(server, stage.api, rerun["id"], HISTORIES - 1)
    proxy.spoil("/flow_run_states/", SlowAnswers(SECONDS_A_HISTORY))
    counted = [0.0]
    results: list[CheckRunResult] = []
    while counted[-1] < HISTORIES:
        assert len(results) < MOST_RUNS, counted
        run_a_task(stage, running)
        results.append(run_without_error(watching))
        assert names(results[-1]) >= POOLS_AND_QUEUES | FLOW_RUNS | TASK_RUN_STATES, results[-1].warnings
        assert results[-1].count("task_runs.completed.count") == 1
        counted.append(counted[-1] + results[-1].count("flow_runs.completed.count"))
        assert counted[-1] > counted[-2], (counted, results[-1].warnings)
    results += [run_without_error(watching), run_without_error(watching)]
    totals = {
        name: sum(result.count(f"flow_runs.{name}") for result in results)
        for name in ("completed.count", "failed.count", "throughput")
    }
    assert totals == dict.fromkeys(totals, HISTORIES)
    samples = {
        name: sum(len(result.samples(f"flow_runs.{name}_duration")) for result in results)
        for name in ("execution", "retry_gaps", "queue_wait")
    }
    assert samples == {"execution": 2 * HISTORIES, "retry_gaps": HISTORIES, "queue_wait": HISTORIES}


@dataclass
class HostClock:
    """The host's monotonic clock, which a test may put ahead."""

    ahead: float = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def host_clock(monkeypatch: pytest.MonkeyPatch) -> HostClock:
    """The clock of all clients that are made afterwards."""
    clock = HostClock()
    for of_it in (Client, ServerClock):
        made: Any = partialmethod(of_it.__init__, monotonic=clock.monotonic)
        monkeypatch.setattr(of_it, "__init__", made)
    return clock


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("/work_queues/filter$", ("work_queue.",)),
        ("/events/filter$", ("deployment.", *FLOW_RUN_CHANGES, *TASK_RUN_CHANGES)),
    ],
)
def test_an_endpoint_that_wants_to_be_left_alone_for_longer_than_a_check_run_is_left_alone_for_so_long(
    stage: Stage,
    running: Json,
    proxy: Proxy,
    agent: AgentFactory,
    host_clock: HostClock,
    path: str,
    missing: tuple[str, ...],
) -> None:
    watching = agent(prefect_url=f"{proxy.url}/api")
    # What ended within the interval before it is gone in the next.
    everything = names(run_without_error(watching)) - {*FLOW_RUN_CHANGES, *TASK_RUN_CHANGES}
    ended = stage.run(*PLAIN)
    run_a_task(stage, running)
    stage.seen(ended)
    proxy.spoil(path, fails_with(429, Retry_After=str(RETRY_AFTER_SECONDS)), times=1)
    proxy.passed.clear()
    results = []
    for _ in range(4):
        begun = time.monotonic()
        results.append(run_without_error(watching))
        # The endpoint asks for more time than a check run has: nothing waits for it.
        assert time.monotonic() - begun < TOLERANCE_SECONDS
        gone = everything - names(results[-1])
        assert {name for name in gone if not name.startswith(missing)} == set()
        assert results[-1].warnings
        host_clock.ahead += 5
    asked = [request for request, _ in proxy.passed if re.search(path, request.path)]
    assert len(asked) == 1
    host_clock.ahead += RETRY_AFTER_SECONDS - 20
    results += [run_without_error(watching), run_without_error(watching)]
    assert [result.warnings for result in results[-2:]] == [[], []]
    assert everything <= names(results[-1])
    totals = [sum(result.count(f"{kind}_runs.completed.count") for result in results) for kind in ("flow", "task")]
    assert totals == [1, 1]
