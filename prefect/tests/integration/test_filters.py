"""Filters: what is excluded takes along all beneath it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from lab.agent import NAMESPACE, Agent, CheckRunResult
from lab.prefect_api import PrefectApi
from lab.task_run import ClientTaskRun
from lab.waiting import wait_until

from ..conftest import AgentFactory
from .stage import Stage

POOL = {"work_pool.is_ready", "work_pool.is_not_ready", "work_pool.is_paused"}
WORKERS = {
    "work_pool.workers.online",
    "work_pool.workers.offline",
    "work_pool.worker.is_online",
    "work_pool.worker.heartbeat_age_seconds",
}
QUEUE = {
    "work_queue.is_ready",
    "work_queue.is_not_ready",
    "work_queue.is_paused",
    "work_queue.last_polled_age_seconds",
    "work_queue.backlog.size",
    "work_queue.backlog.age",
    "work_queue.concurrency.in_use",
}
COUNTS = {"completed.count", "failed.count", "crashed.count", "cancelled.count", "throughput", "late_start.count"}
STATES = {"pending", "running", "paused"}
RUNS = {
    "deployment.is_ready",
    *(f"flow_runs.{name}" for name in COUNTS | STATES | {"scheduled", "execution_duration", "queue_wait_duration"}),
    *(f"task_runs.{name}" for name in COUNTS | STATES | {"execution_duration"}),
}
ALL = POOL | WORKERS | QUEUE | RUNS
POOL_EVENTS = {"prefect.work-pool.not-ready", "prefect.work-pool.ready"}
QUEUE_EVENTS = {"prefect.work-queue.ready"}
RUN_EVENTS = {
    "prefect.deployment.ready",
    *(f"prefect.flow-run.{name}" for name in ("Scheduled", "Pending", "Running", "Completed")),
    *(f"prefect.task-run.{name}" for name in ("Pending", "Running", "Completed")),
}
ALL_EVENTS = POOL_EVENTS | QUEUE_EVENTS | RUN_EVENTS


@dataclass
class Play:
    """A stage on which something of every kind happens; `ids` are those of the pool and of all beneath it."""

    stage: Stage
    ids: set[str] = field(default_factory=set)

    def act(self) -> None:
        stage, api = self.stage, self.stage.api
        self.ids |= {stage.pool["id"], stage.pool["default_queue_id"], stage.queue["id"], stage.deployment["id"]}
        api.heartbeat(stage.pool["name"], "w1")
        self.ids |= {worker["id"] for worker in api.workers(stage.pool["name"])}
        wait_until(self._is_ready, 60, "The deployment's readiness")
        running, completed = stage.run("PENDING", "RUNNING"), stage.run("PENDING", "RUNNING")
        task = ClientTaskRun(api, "load", completed["id"])
        last = [task.enter(state) for state in ("PENDING", "RUNNING", "COMPLETED")]
        task_running = api.create_task_run(running["id"], "load-0a1b2c3d", {"type": "RUNNING"})
        stage.enter(completed, "COMPLETED")
        self.ids |= {running["id"], completed["id"], task.id, task_running["id"]}
        stage.seen(running, completed)
        api.wait_for_events(last)
        for kind, thing in (("work-pool", stage.pool), ("work-queue", stage.queue), ("deployment", stage.deployment)):
            ready = {"name": [f"prefect.{kind}.ready"]}
            api.wait_for_events(event=ready, resource={"id": [f"prefect.{kind}.{thing['id']}"]})

    def _is_ready(self) -> bool:
        """Poll as a worker does; a server whose database is locked at that moment forgets to mark the deployment."""
        self.stage.api.poll_work_pool(self.stage.pool["name"], [self.stage.queue["name"]])
        return bool(self.stage.api.deployment(self.stage.deployment["id"])["status"] == "READY")

    def metrics(self, result: CheckRunResult) -> set[str]:
        """The names of all metrics in whose tags one of the ids is."""
        return {series.name.removeprefix(NAMESPACE) for series in result.series if self._is_in(series.tags)}

    def events(self, result: CheckRunResult) -> set[str]:
        """The same of events."""
        return {event["event_type"] for event in result.events if self._is_in(event["tags"])}

    def _is_in(self, tags: Any) -> bool:
        return any(tag.partition(":")[2].rpartition(".")[2] in self.ids for tag in tags)


@pytest.fixture
def plays(api: PrefectApi) -> tuple[Play, Play]:
    """Two stages, the second of which is to be left out."""
    return Play(Stage(api)), Play(Stage(api))


AgentMaker = Callable[..., Agent]


@pytest.fixture
def filtering(plays: tuple[Play, Play], agent: AgentFactory) -> AgentMaker:
    """Makes Agents that watch both stages as far as further options let them."""
    both = "|".join(f"^{play.stage.name}" for play in plays)

    def make(**options: dict[str, list[str]]) -> Agent:
        names = {"work_pool_names": {"include": [both]}, "deployment_names": {"include": [both]}}
        watching = agent(collect_events=True, **{**names, **options})
        assert watching.run().error == ""
        return watching

    return make


def check(
    agents: dict[str, Agent],
    plays: tuple[Play, Play],
    left_metrics: set[str],
    left_events: set[str],
    leaves_out_flow: bool = False,
) -> None:
    """Let both plays happen: the first must be seen in full, and of the second these metrics and events."""
    kept, left_out = plays
    api = left_out.stage.api
    alone = api.create_flow_run(left_out.stage.flow["id"])
    left_out.stage.enter(alone, "RUNNING")
    for play in plays:
        play.act()
    left_out.stage.seen(alone)
    results = {case: watching.run() for case, watching in agents.items()}
    # No filter of other tests would leave it out.
    api.delete_flow_run(alone["id"])
    for case, result in results.items():
        assert (result.error, result.warnings) == ("", []), case
        assert kept.metrics(result) == ALL, case
        assert kept.events(result) == ALL_EVENTS, case
        assert left_out.metrics(result) == left_metrics, case
        assert left_out.events(result) == left_events, case
        # A run without pool, queue and deployment is only its flow's to leave out.
        running = [series for series in result.matching("flow_runs.running") if series.tags == left_out.stage.flow_tags]
        assert [series.value for series in running] == ([] if leaves_out_flow else [1]), case
        started = [event["event_type"] for event in result.events if alone["name"] in event["msg_title"]]
        events = [] if leaves_out_flow else ["prefect.flow-run.Pending", "prefect.flow-run.Running"]
        assert started == events, case


def test_without_filters_in_their_way_both_stages_are_seen(plays: tuple[Play, Play], filtering: AgentMaker) -> None:
    check({"no filter": filtering()}, plays, ALL, ALL_EVENTS)


def test_a_pool_that_is_left_out_takes_along_workers_queues_deployments_runs_and_events(
    plays: tuple[Play, Play], filtering: AgentMaker
) -> None:
    kept, left_out = (play.stage.name for play in plays)
    agents = {
        "excluded": filtering(work_pool_names={"exclude": [f"^{left_out}"], "include": [kept, left_out]}),
        "not included": filtering(work_pool_names={"include": [f"^{kept}"]}),
    }
    check(agents, plays, set(), set())


def test_a_queue_that_is_left_out_takes_along_deployments_runs_and_events(
    plays: tuple[Play, Play], filtering: AgentMaker
) -> None:
    kept, left_out = (play.stage.name for play in plays)
    agents = {
        "excluded": filtering(work_queue_names={"exclude": [f"^{left_out}-queue$", "^default$"]}),
        "not included": filtering(work_queue_names={"include": [f"^{kept}-queue$"]}),
    }
    check(agents, plays, POOL | WORKERS, POOL_EVENTS)


def test_a_deployment_that_is_left_out_takes_along_its_runs_and_events(
    plays: tuple[Play, Play], filtering: AgentMaker
) -> None:
    kept, left_out = (play.stage.name for play in plays)
    agents = {
        "excluded": filtering(deployment_names={"include": [kept, left_out], "exclude": [left_out]}),
        "not included": filtering(deployment_names={"include": [kept]}),
    }
    check(agents, plays, POOL | WORKERS | QUEUE, POOL_EVENTS | QUEUE_EVENTS)


def test_a_flow_that_is_left_out_takes_along_its_deployments_and_all_its_runs_and_events(
    plays: tuple[Play, Play], filtering: AgentMaker
) -> None:
    kept, left_out = (play.stage.name for play in plays)
    agents = {
        "excluded": filtering(flow_names={"exclude": [f"^{left_out}-flow$"]}),
        "not included": filtering(flow_names={"include": [f"^{kept}-flow$"]}),
    }
    check(agents, plays, POOL | WORKERS | QUEUE, POOL_EVENTS | QUEUE_EVENTS, leaves_out_flow=True)


def test_nothing_of_an_excluded_flow_appears_in_metrics_events_and_warnings(
    api: PrefectApi, agent: AgentFactory
) -> None:
    wanted, other = api.create_flow("wanted"), api.create_flow("not_included_flow")
    stage = Stage(api)
    deployments = [
        api.create_deployment(f"{stage.name}-{flow['name']}", flow["id"], stage.pool["name"], stage.queue["name"])
        for flow in (wanted, other)
    ]
    all_events = {"include": [r"^prefect\."]}
    watching = agent(collect_events=True, event_names=all_events, flow_names={"exclude": ["^not_included"]})
    results = [watching.run()]
    runs = [api.create_deployment_run(deployment["id"], {"type": "PENDING"}) for deployment in deployments]
    runs += [api.create_flow_run(flow["id"], {"type": "PENDING"}) for flow in (wanted, other)]
    for run in runs:
        for state in ("RUNNING", "COMPLETED"):
            stage.enter(run, state)
    stage.seen(*runs)
    results += [watching.run(), watching.run()]
    watching.restart()
    results.append(watching.run())
    told = "\n".join(
        str(found) for result in results for found in (*result.series, *result.events, *result.warnings, result.error)
    )
    assert results[1].count("flow_runs.completed.count", flow_name="wanted") == 2
    assert "not_included_flow" not in told
    assert all(identity not in told for identity in (other["id"], deployments[1]["id"], runs[1]["id"], runs[3]["id"]))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({"include": ["Nightly"]}, {"Nightly-ETL"}),
        ({"include": ["nightly"]}, {"nightly-etl"}),
        ({"include": ["etl"]}, {"nightly-etl", "hourly-etl"}),
        ({"include": ["-etl$", "^{}-N"]}, {"nightly-etl", "hourly-etl", "Nightly-ETL"}),
        ({"include": ["^Nightly"]}, set()),
        ({"include": ["(?i)ETL"]}, {"Nightly-ETL", "nightly-etl", "hourly-etl"}),
        ({"include": ["{}"], "exclude": ["(?i)nightly"]}, {"hourly-etl"}),
        ({"include": ["^{}-hourly-etl$"], "exclude": ["etl"]}, set()),
    ],
)
def test_patterns_are_searched_for_with_their_case_and_exclusion_wins(
    api: PrefectApi, agent: AgentFactory, names: dict[str, list[str]], found: set[str]
) -> None:
    prefix = Stage(api).name
    for name in ("Nightly-ETL", "nightly-etl", "hourly-etl"):
        api.create_work_pool(f"{prefix}-{name}")
    patterns = {side: [pattern.replace("{}", prefix) for pattern in listed] for side, listed in names.items()}
    result = agent(work_pool_names=patterns).run()
    seen = {
        tag.removeprefix(f"work_pool_name:{prefix}-")
        for series in result.matching("work_pool.is_not_ready")
        for tag in series.tags
        if tag.startswith(f"work_pool_name:{prefix}-")
    }
    assert seen == found
