"""The clock of the host is wrong by an hour, or jumps: every metric is what it is on a host whose clock is right."""

from __future__ import annotations

import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import time_machine

from lab.agent import Agent, CheckRunResult
from lab.prefect_api import PrefectApi
from lab.task_run import ClientTaskRun

from ..conftest import AgentFactory
from .stage import Stage
from .test_task_runs import is_in_state

HOUR = timedelta(hours=1)
RIGHT = timedelta()
# The server's Date header has whole seconds and may be a second old; the other check run was some time before.
TOLERANCE_SECONDS = 5.0

Found = dict[tuple[str, str, frozenset[str]], list[float]]


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    """A stage with something that has an age, of each kind that has one."""
    stage = Stage(api)
    api.heartbeat(stage.pool["name"], "w1", interval_seconds=3600)
    api.update_work_queue(stage.pool["name"], stage.queue["name"], last_polled="2026-01-01T00:00:00Z")
    late, planned = stage.run(), stage.run()
    for run, moment in ((late, -timedelta(minutes=10)), (planned, timedelta(minutes=30))):
        api.set_flow_run_state(run["id"], "SCHEDULED", scheduled_time=datetime.now(UTC) + moment, force=True)
    return stage


def run_at(agent: Agent, host_is_off_by: timedelta) -> CheckRunResult:
    """A check run on a host whose clock is wrong by so much; its monotonic clock is not."""
    with time_machine.travel(host_is_off_by, tick=True) if host_is_off_by else nullcontext():
        result = agent.run()
    assert (result.error, result.warnings) == ("", [])
    return result


def happen(stage: Stage) -> None:
    """Something of every kind that is counted or measured."""
    runs = [
        stage.run("PENDING", "RUNNING", "COMPLETED"),
        stage.run("PENDING", "RUNNING", "FAILED", "SCHEDULED:AwaitingRetry", "PENDING", "RUNNING", "COMPLETED"),
        stage.run("PENDING", "RUNNING"),
    ]
    upstream = ClientTaskRun(stage.api, "extract", runs[2]["id"])
    downstream = ClientTaskRun(stage.api, "load", runs[2]["id"], upstream=[upstream.id])
    last = [upstream.enter(state) for state in ("PENDING", "RUNNING", "COMPLETED")]
    last += [downstream.enter(state) for state in ("PENDING", "RUNNING", "FAILED")]
    stage.seen(*runs)
    stage.api.wait_for_events(last)
    for task, state in ((upstream, "COMPLETED"), (downstream, "FAILED")):
        stage.api.wait_for_task_run(task.id, partial(is_in_state, state))


def found(result: CheckRunResult) -> Found:
    """The values of each metric by its tags, without the tag that tells the Agents apart."""
    values: Found = {}
    for series in result.series:
        tags = frozenset(tag for tag in series.tags if not tag.startswith("clock:"))
        values.setdefault((series.name, series.type, tags), []).append(series.value)
    return {key: sorted(samples) for key, samples in values.items()}


def counted(result: CheckRunResult) -> Found:
    return {key: values for key, values in found(result).items() if key[1] != "gauge"}


def events(results: list[CheckRunResult], since: float) -> list[tuple[object, ...]]:
    told = [event for result in results for event in result.events if event["timestamp"] >= since]
    return sorted((event["aggregation_key"], event["msg_title"], event["timestamp"]) for event in told)


@pytest.mark.parametrize(
    "clock",
    [[HOUR, HOUR, HOUR], [-HOUR, -HOUR, -HOUR], [RIGHT, HOUR, RIGHT], [RIGHT, -HOUR, HOUR]],
    ids=["an hour fast", "an hour slow", "jumps ahead and back", "jumps back and ahead"],
)
def test_a_host_whose_clock_is_wrong_or_jumps_submits_what_any_other_does(
    stage: Stage, agent: AgentFactory, clock: list[timedelta]
) -> None:
    right, wrong = (
        agent(collect_events=True, tags=[f"clock:{state}"], **stage.only_this) for state in ("right", "wrong")
    )
    told: list[tuple[CheckRunResult, CheckRunResult]] = []
    # Both start to count an interval ago, each by the server's clock as it knows it, which is a second or two.
    began = time.time()
    for number, off_by in enumerate(clock):
        expected, result = run_at(right, RIGHT), run_at(wrong, off_by)
        told.append((expected, result))
        # Something to compare: what happened since the check run before.
        assert expected.count("flow_runs.completed.count") == (2 if number else 0)
        assert_same(found(result), found(expected))
        happen(stage)
        if number == 1:
            wrong.restart()
    told.append((run_at(right, RIGHT), run_at(wrong, -clock[-1])))
    assert counted(told[-1][1]) == counted(told[-1][0])
    # One by one they would differ: what happened before some check runs became visible between them.
    assert events([result for _, result in told], began) == events([expected for expected, _ in told], began)


def assert_same(result: Found, expected: Found) -> None:
    """Exactly the same, but for ages, which time adds to."""
    assert result.keys() == expected.keys()
    for (name, kind, tags), values in expected.items():
        grows = kind == "gauge" and "age" in name.rpartition(".")[2]
        tolerance = TOLERANCE_SECONDS if grows else 0
        assert result[name, kind, tags] == pytest.approx(values, abs=tolerance, rel=0), name
