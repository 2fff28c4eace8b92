"""Task runs on a real server, as flow processes report them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from lab.agent import Agent
from lab.prefect_api import Json, PrefectApi
from lab.task_run import ClientTaskRun

from ..conftest import AgentFactory
from .stage import Stage
from .test_flow_runs import counted

TaskRunFactory = Callable[..., ClientTaskRun]
START = timedelta(seconds=1)


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    return Stage(api)


@pytest.fixture
def flow_run(stage: Stage) -> Json:
    return stage.run("PENDING", "RUNNING")


@pytest.fixture
def watching(stage: Stage, flow_run: Json, agent: AgentFactory) -> Agent:
    stage.seen(flow_run)
    watching = agent(**stage.only_this)
    assert watching.run().error == ""
    return watching


@pytest.fixture
def task(stage: Stage, flow_run: Json) -> TaskRunFactory:
    def make(name: str = "load", upstream: tuple[str, ...] = ()) -> ClientTaskRun:
        return ClientTaskRun(stage.api, name, flow_run["id"], upstream)

    return make


class Story:
    """The states of a task run, some time apart by its own clock, and their events."""

    def __init__(self, api: PrefectApi, begun: datetime | None = None) -> None:
        self._api = api
        self._moment = begun or datetime.now(UTC)
        self._ids: list[str] = []

    def tell(self, run: ClientTaskRun, *states: str) -> None:
        """Let the run enter states, given as `TYPE`, `TYPE:Name` or `+SECONDS` for time that passes."""
        for state in states:
            if state.startswith("+"):
                self._moment += timedelta(seconds=float(state))
            else:
                state_type, _, name = state.partition(":")
                self._ids.append(run.enter(state_type, name or None, at=self._moment))
                self._moment += timedelta(milliseconds=1)

    def seen(self) -> None:
        self._api.wait_for_events(self._ids)


def is_in_state(state_type: str, found: Json) -> bool:
    return bool(found["state_type"] == state_type)


def task_tags(stage: Stage, run: ClientTaskRun, name: str) -> frozenset[str]:
    return stage.run_tags | {f"task_key:{run.task_key}", f"task_name:{name}"}


def test_each_state_shows_the_task_runs_that_are_in_it_now(
    stage: Stage, task: TaskRunFactory, agent: AgentFactory
) -> None:
    story = Story(stage.api)
    running = [task(), task()]
    for run in running:
        story.tell(run, "PENDING", "RUNNING")
    pending, paused, over = task("wait"), task("ask"), task()
    story.tell(pending, "PENDING:NotReady")
    story.tell(paused, "PENDING", "RUNNING", "PAUSED")
    story.tell(over, "PENDING", "RUNNING", "COMPLETED")
    in_state = {running[0]: "RUNNING", running[1]: "RUNNING", pending: "PENDING", paused: "PAUSED", over: "COMPLETED"}
    for run, state_type in in_state.items():
        stage.api.wait_for_task_run(run.id, partial(is_in_state, state_type))
    result = agent(**stage.only_this).run()
    states = ("pending", "running", "paused")
    found = {
        (state, series.tags): series.value
        for state in states
        for series in result.matching(f"task_runs.{state}", deployment_id=stage.deployment["id"])
    }
    totals = {
        ("running", task_tags(stage, running[0], "load")): 2,
        ("pending", task_tags(stage, pending, "wait")): 1,
        ("paused", task_tags(stage, paused, "ask")): 1,
    }
    # Where there are runs in one state, there are none in the others.
    assert found == {(state, tags): 0 for _, tags in totals for state in states} | totals


@pytest.mark.parametrize(
    ("last_state", "count"),
    [
        ("COMPLETED", "completed.count"),
        ("FAILED:TimedOut", "failed.count"),
        ("CRASHED", "crashed.count"),
        ("CANCELLED", "cancelled.count"),
    ],
)
def test_a_task_run_that_ends_is_counted_once_by_the_type_of_its_state(
    stage: Stage, watching: Agent, task: TaskRunFactory, last_state: str, count: str
) -> None:
    run, story = task(), Story(stage.api)
    story.tell(run, "PENDING", "+0.5", "RUNNING", "+2", last_state)
    story.seen()
    result = watching.run()
    assert result.count(f"task_runs.{count}") == 1
    assert result.count("task_runs.throughput") == 1
    assert result.count("task_runs.late_start.count") == 0
    duration = result.one("task_runs.execution_duration")
    assert (duration.type, duration.value) == ("histogram", pytest.approx(2.001))
    assert duration.tags == task_tags(stage, run, "load")
    assert result.one(f"task_runs.{count}", task_key=run.task_key).tags == duration.tags
    assert counted(watching, stage, "task_runs") == {}
    watching.restart()
    assert counted(watching, stage, "task_runs") == {}


def test_a_cached_task_run_is_completed_and_has_neither_started_nor_run(
    stage: Stage, watching: Agent, task: TaskRunFactory
) -> None:
    story = Story(stage.api)
    story.tell(task(), "PENDING", "COMPLETED:Cached")
    story.seen()
    result = watching.run()
    assert result.count("task_runs.completed.count") == 1
    assert result.count("task_runs.throughput") == 0
    assert result.samples("task_runs.execution_duration") == []


def test_a_task_run_that_is_rolled_back_does_not_complete_twice(
    stage: Stage, watching: Agent, task: TaskRunFactory
) -> None:
    story = Story(stage.api)
    story.tell(task(), "PENDING", "RUNNING", "COMPLETED", "COMPLETED:RolledBack")
    story.seen()
    assert counted(watching, stage, "task_runs") == {"completed.count": 1, "throughput": 1}


def test_a_task_run_that_retries_starts_once_and_its_waits_are_no_execution(
    stage: Stage, watching: Agent, task: TaskRunFactory
) -> None:
    story = Story(stage.api)
    states = ("PENDING", "RUNNING", "+1", "SCHEDULED:AwaitingRetry", "+10", "RUNNING:Retrying", "+2", "COMPLETED")
    story.tell(task(), *states)
    story.seen()
    result = watching.run()
    assert result.count("task_runs.throughput") == 1
    assert result.count("task_runs.completed.count") == 1
    assert result.samples("task_runs.execution_duration") == [pytest.approx(3.002)]


def test_a_task_run_that_starts_after_the_grace_is_late(stage: Stage, watching: Agent, task: TaskRunFactory) -> None:
    story = Story(stage.api)
    story.tell(task(), "PENDING", "+14", "RUNNING")
    story.tell(task("late"), "PENDING", "+16", "RUNNING")
    story.seen()
    result = watching.run()
    assert result.count("task_runs.throughput") == 2
    assert result.count("task_runs.late_start.count") == 1
    assert result.count("task_runs.late_start.count", task_name="late") == 1


def test_a_task_run_waits_for_the_last_of_its_upstream_task_runs(
    stage: Stage, watching: Agent, task: TaskRunFactory
) -> None:
    story = Story(stage.api)
    first, second = task("extract"), task("transform")
    story.tell(first, "PENDING", "RUNNING", "COMPLETED", "+5")
    story.tell(second, "PENDING", "RUNNING", "COMPLETED", "+3")
    downstream = task("load", upstream=(first.id, second.id))
    story.tell(downstream, "PENDING", "RUNNING")
    story.seen()
    result = watching.run()
    wait = result.one("task_runs.dependency_wait_duration")
    assert wait.value == pytest.approx(3.002)
    assert wait.tags == task_tags(stage, downstream, "load")


def test_an_upstream_end_that_was_counted_before_is_looked_up(
    stage: Stage, watching: Agent, task: TaskRunFactory
) -> None:
    story = Story(stage.api)
    upstream = task("extract")
    story.tell(upstream, "PENDING", "RUNNING", "COMPLETED", "+7")
    story.seen()
    assert watching.run().samples("task_runs.dependency_wait_duration") == []
    story.tell(task("load", upstream=(upstream.id,)), "PENDING", "RUNNING")
    story.seen()
    assert watching.run().samples("task_runs.dependency_wait_duration") == [pytest.approx(7.002)]


def test_a_subflow_that_a_task_run_waits_for_is_upstream_of_it_and_counts_nowhere_itself(
    stage: Stage, flow_run: Json, watching: Agent, task: TaskRunFactory
) -> None:
    stand_in = stage.api.create_task_run(flow_run["id"], "sub-0", {"type": "RUNNING"})
    subflow = stage.api.create_flow_run(stage.flow["id"], parent_task_run_id=stand_in["id"])
    stage.api.set_flow_run_state(subflow["id"], "RUNNING", force=True)
    assert watching.run().matching("task_runs.running", task_key="sub-0") == []
    stage.api.set_flow_run_state(subflow["id"], "COMPLETED", force=True)
    ended = stage.api.task_run(stand_in["id"])["end_time"]
    story = Story(stage.api, begun=datetime.fromisoformat(ended) + 4 * START)
    story.tell(task("load", upstream=(stand_in["id"],)), "PENDING", "RUNNING")
    story.seen()
    result = watching.run()
    assert result.samples("task_runs.dependency_wait_duration") == [pytest.approx(4.001)]
    assert result.count("task_runs.completed.count") == 0


def test_a_task_run_outside_of_any_flow_run_has_only_its_own_tags(stage: Stage, watching: Agent) -> None:
    story = Story(stage.api)
    alone = ClientTaskRun(stage.api, f"{stage.name}-alone")
    story.tell(alone, "PENDING", "RUNNING", "COMPLETED")
    story.seen()
    completed = watching.run().one("task_runs.completed.count", task_key=alone.task_key)
    assert completed.value == 1
    assert completed.tags == {f"task_key:{alone.task_key}", f"task_name:{stage.name}-alone"}


def test_task_runs_of_a_deleted_flow_run_keep_its_tags(
    stage: Stage, flow_run: Json, task: TaskRunFactory, agent: AgentFactory
) -> None:
    # This Agent has never seen the flow run.
    stage.seen(flow_run)
    run, story = task(), Story(stage.api)
    story.tell(run, "PENDING", "RUNNING", "COMPLETED")
    story.seen()
    stage.api.delete_flow_run(flow_run["id"])
    result = agent(**stage.only_this).run()
    completed = result.one("task_runs.completed.count", deployment_id=stage.deployment["id"])
    assert completed.tags == task_tags(stage, run, "load")
