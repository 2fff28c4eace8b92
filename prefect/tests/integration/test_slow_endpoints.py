"""Each endpoint hangs in turn: all that does not need it arrives in the same check run, what does in the next."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lab.agent import NAMESPACE, Agent, CheckRunResult, forget_deployments
from lab.crowds import crowd_of_task_runs
from lab.prefect_api import Json, PrefectApi
from lab.proxy import Answer, Fault, Proxy, trickles
from lab.server import PrefectServer
from lab.task_run import ClientTaskRun, uuid7
from lab.waiting import wait_until

from ..conftest import AgentFactory
from .conftest import AUTH_STRING
from .lively_stage import (
    FLOW_RUN_CHANGES,
    LASTING,
    PLAIN,
    RETRIED,
    TASK_RUN_CHANGES,
    lively_stage,
    running_run,
    timed,
)
from .stage import Stage

# What needs which endpoint is told for servers that lack nothing.
pytestmark = [pytest.mark.needs("a database file"), pytest.mark.needs("ends of task runs")]

RELEASE_SECONDS = 300.0
# More unfinished task runs than a page holds, so that the server is asked how many there are.
STUCK_TASKS = 230
# Two events each, which is more than a page of 50.
TASKS = 30

TASK_RUN_STATES = ("task_runs.pending", "task_runs.running", "task_runs.paused")
COUNTED = (*FLOW_RUN_CHANGES, *TASK_RUN_CHANGES)
# Gauges of what does not change while nothing happens.
STEADY = ("flow_runs.", "task_runs.", "work_queue.backlog.size", "work_queue.concurrency.", "work_pool.workers.")
FLOW_RUN_EVENTS, TASK_RUN_EVENTS = "events of flow runs", "events of task runs"

# What two plain flow runs, one that failed and was retried, and the task runs add, by metric; histograms by samples.
WHAT_HAPPENS = {
    "flow_runs.completed.count": 3,
    "flow_runs.failed.count": 1,
    "flow_runs.throughput": 3,
    "flow_runs.execution_duration": 4,
    "flow_runs.retry_gaps_duration": 1,
    "task_runs.completed.count": TASKS,
    "task_runs.throughput": TASKS,
    "task_runs.execution_duration": TASKS,
    FLOW_RUN_EVENTS: 4,
    TASK_RUN_EVENTS: TASKS,
}
# What the one that was retried adds: all that needs a run's history.
OF_THE_RETRIED = {
    "flow_runs.completed.count": 1,
    "flow_runs.failed.count": 1,
    "flow_runs.throughput": 1,
    "flow_runs.execution_duration": 2,
    "flow_runs.retry_gaps_duration": 1,
}


@dataclass(frozen=True)
class Case:
    """An endpoint, what may be missing while it hangs, by beginnings of names, and what warnings name then.

    `delayed` are parts of what happens that may be missing although the rest of its metric is not. With `restarts` the
    check is a new one that has stored no names, since one that has run before does not need the endpoint.
    """

    path: str
    missing: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    delayed: tuple[tuple[str, int], ...] = ()
    restarts: bool = False

    def spares(self, name: str) -> bool:
        """Whether a metric does not need the endpoint."""
        return not name.startswith(self.missing)


CASES = (
    Case("/health$"),
    Case("/ready$"),
    Case("/admin/version$", (), ("version",), restarts=True),
    Case("/work_pools/filter$", ("work_pool.", "deployment."), ("work pools", "workers", "deployments")),
    Case("/workers/filter$", ("work_pool.worker",), ("workers",)),
    Case("/work_queues/filter$", ("work_queue.",), ("work queues", "backlogs", "concurrency")),
    Case("/concurrency_limits/filter$", ("concurrency_limit.",), ("concurrency limits",)),
    Case(
        "/events/filter$",
        (*COUNTED, "deployment.", "events"),
        ("ends of flow runs", "ends of task runs", "events", "deployments"),
    ),
    # Flow runs have fewer events than a page.
    Case("/events/filter/next", (*TASK_RUN_CHANGES, "events"), ("ends of task runs",)),
    # Whose task runs they are is known of those that were there before.
    Case(
        "/flow_runs/filter$",
        ("flow_runs.", "work_queue.backlog.", "work_queue.concurrency.", "events"),
        ("ends of flow runs", "running and paused flow runs", "backlogs", "concurrency", "scheduled flow runs"),
    ),
    Case("/flow_runs/count$", ("flow_runs.scheduled",), ("scheduled flow runs",)),
    Case("/task_runs/filter$", ("task_runs.",), ("task runs",)),
    Case("/task_runs/count$", TASK_RUN_STATES, ("running and paused task runs",)),
    Case("/deployments/filter$", ("deployment.",), ("deployments",)),
    Case("/deployments/count$", ("deployment.",), ("deployments",)),
    # The names of flows are read once.
    Case(
        "/flows/filter$",
        ("flow_runs.", "task_runs.", "deployment.", "events"),
        ("flow runs", "task runs", "deployments"),
        restarts=True,
    ),
    # What the other flow runs went through is told without it, also of one that ended later.
    Case("/flow_run_states/", (), ("flow runs",), tuple(OF_THE_RETRIED.items())),
)
BY_PATH = {case.path: case for case in CASES}


class Hang:
    """A fault: no answer until `release`, and then a closed connection. `requests` counts those it was dealt to."""

    def __init__(self) -> None:
        self.requests = 0
        self._released = threading.Event()

    def __call__(self, _: Answer) -> None:
        self.requests += 1
        self._released.wait(RELEASE_SECONDS)

    def release(self) -> None:
        self._released.set()


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


@pytest.fixture(scope="module", autouse=True)
def stuck(server: PrefectServer, stage: Stage, running: Json) -> Iterator[None]:
    """Task runs that have been running for hours, so many that they are not read in each check run."""
    task_run = stage.api.create_task_run(running["id"], "stuck-0a1b2c3d", {"type": "RUNNING"})
    two_hours_ago = datetime.now(UTC) - timedelta(hours=2)
    with crowd_of_task_runs(server, [task_run["id"]], STUCK_TASKS, timedelta(hours=2), until=two_hours_ago):
        yield


@pytest.fixture
def hang() -> Iterator[Hang]:
    hang = Hang()
    yield hang
    hang.release()


@pytest.fixture
def behind(proxy: Proxy, agent: AgentFactory, hang: Hang) -> Callable[..., Agent]:
    """Makes Agents that see the server through the proxy, which must not wait for a hanging answer in the end."""
    return lambda **options: agent(prefect_url=f"{proxy.url}/api", collect_events=True, **options)


def run_well(agent: Agent) -> CheckRunResult:
    result = agent.run()
    assert (result.error, result.warnings) == ("", [])
    return result


def happen(stage: Stage, running: Json) -> None:
    """What is to be counted, all of it visible."""
    runs = [stage.run(*PLAIN), stage.run(*RETRIED), stage.run(*PLAIN)]
    events = task_run_events(stage.api, running["id"])
    stage.api.post_events(events)
    stage.api.wait_for_events([event["id"] for event in events])
    ids = [event["resource"]["prefect.resource.id"].rpartition(".")[2] for event in events]
    of_them = {"task_runs": {"id": {"any_": ids}, "state": {"type": {"any_": ["COMPLETED"]}}}}
    wait_until(lambda: stage.api.post("task_runs/count", of_them) == TASKS, 60, "The end of the task runs")
    stage.seen(*runs)


def task_run_events(api: PrefectApi, flow_run_id: str) -> list[Json]:
    """The events of task runs that ran: those of one and copies, since each would be asked for what it belongs to."""
    task = ClientTaskRun(api, "mapped", flow_run_id)
    told = [task.prepare(state) for state in ("RUNNING", "COMPLETED")]
    own = [task.id, told[0]["payload"]["task_run"]["dynamic_key"], *(event["id"] for event in told)]
    events: list[Json] = []
    for _ in range(TASKS):
        text = json.dumps(told)
        for identity in own:
            text = text.replace(identity, uuid7())
        events += json.loads(text)
    return events


def counted(*results: CheckRunResult) -> Counter[str]:
    """What check runs counted together, of that which happens; histograms by their samples."""
    found: Counter[str] = Counter()
    for result in results:
        for series in result.series:
            name = series.name.removeprefix(NAMESPACE)
            if name in WHAT_HAPPENS:
                found[name] += int(series.value) if series.type == "count" else 1
        for event in result.events:
            kind, name = event["event_type"].split(".")[1:3]
            if name in ("Completed", "Failed"):
                found[FLOW_RUN_EVENTS if kind == "flow-run" else TASK_RUN_EVENTS] += 1
    return found


def gauges(result: CheckRunResult) -> dict[tuple[str, frozenset[str]], float]:
    return {
        (series.name.removeprefix(NAMESPACE), series.tags): series.value
        for series in result.series
        if series.type == "gauge"
    }


def shortcomings(case: Case, undisturbed: CheckRunResult, spoilt: CheckRunResult) -> dict[str, Any]:
    """What is not as it should be in a check run in which the endpoint hangs."""
    there, found, delayed = gauges(spoilt), counted(spoilt), dict(case.delayed)
    wanted = {name for name, tags in gauges(undisturbed).keys() - there.keys() if case.spares(name)}
    uncounted = {
        name: (found[name], number)
        for name, number in WHAT_HAPPENS.items()
        if case.spares(name) and not number - delayed.get(name, 0) <= found[name] <= number
    }
    in_status = " ".join(spoilt.warnings)
    unnamed = [words for words in case.named if words not in in_status]
    needless = [] if case.named else spoilt.warnings
    found_out = {"gone": sorted(wanted), "uncounted": uncounted, "unnamed": unnamed, "needless warnings": needless}
    return {what: details for what, details in {**found_out, "error": spoilt.error}.items() if details}


def made_up(spoilt: CheckRunResult, healed: CheckRunResult) -> dict[str, tuple[float, float]]:
    """Values that are not those of a moment later, although nothing has happened."""
    told, truth = gauges(spoilt), gauges(healed)
    return {
        name: (told[name, tags], truth[name, tags])
        for name, tags in told.keys() & truth.keys()
        if name.startswith(STEADY) and told[name, tags] != truth[name, tags]
    }


@pytest.mark.parametrize(
    ("case", "options", "fault"),
    [
        *(pytest.param(case, {}, None, id=case.path) for case in CASES),
        # An answer that waits longer than a check run may take has no end of its own.
        pytest.param(BY_PATH["/events/filter$"], {"timeout": 60}, None, id="/events/filter, patiently"),
        # One that comes, but a byte a second, never keeps anybody waiting for the next byte.
        pytest.param(BY_PATH["/flow_runs/filter$"], {"timeout": 60}, trickles, id="/flow_runs/filter, by the byte"),
    ],
)
def test_while_an_endpoint_hangs_all_that_does_not_need_it_arrives_and_the_rest_is_made_up_for_afterwards(
    proxy: Proxy,
    stage: Stage,
    running: Json,
    behind: Callable[..., Agent],
    hang: Hang,
    case: Case,
    options: dict[str, float],
    fault: Fault | None,
) -> None:
    agent = behind(**options)
    undisturbed = run_well(agent)
    happen(stage, running)
    if case.restarts:
        forget_deployments()
        agent.restart()
    proxy.spoil(case.path, fault or hang)
    spoilt = timed(agent)
    assert fault or hang.requests, "the endpoint was not needed"
    proxy.heal()
    hang.release()
    healed, later = run_well(agent), run_well(agent)
    assert shortcomings(case, undisturbed, spoilt) == {}
    assert made_up(spoilt, healed) == {}
    expected = {name: 0 if case.path == f"/{name}$" else 1 for name in ("health", "ready")}
    assert {name: spoilt.gauge(name) for name in expected} == expected
    # In full, and once.
    assert counted(spoilt, healed) == WHAT_HAPPENS
    assert +counted(later) == Counter()
    assert gauges(healed).keys() == gauges(undisturbed).keys()


@pytest.mark.needs("auth string")
def test_where_no_token_comes_for_the_requests_health_and_readiness_are_told_and_an_error_says_what_hangs(
    secured_server: PrefectServer, agent: AgentFactory, hang: Hang
) -> None:
    pool = PrefectApi(secured_server.api_url, secured_server.auth, csrf=True).create_work_pool(f"pool-{uuid.uuid4()}")
    with Proxy(secured_server.url) as proxy:
        newcomer = agent(prefect_url=f"{proxy.url}/api", auth_string=AUTH_STRING)
        proxy.spoil("/csrf-token", hang)
        spoilt = timed(newcomer)
        proxy.heal()
        hang.release()
        healed = run_well(newcomer)
    assert hang.requests > 0
    assert "/csrf-token" in spoilt.error
    assert spoilt.names() == {"prefect.server.health", "prefect.server.ready"}
    assert [result.gauge(name) for result in (spoilt, healed) for name in ("health", "ready")] == [1] * 4
    assert healed.gauge("work_pool.is_not_ready", work_pool_id=pool["id"]) == 1
