"""What is kept in the Agent's persistent cache: damaged in each of its parts, shared, and of an older version."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from datadog_checks.base.stubs import datadog_agent

from lab.agent import Agent, CheckRunResult
from lab.prefect_api import PrefectApi
from lab.task_run import ClientTaskRun

from ..conftest import AgentFactory
from .stage import Stage

DOCUMENTS = ("flow_runs", "task_runs", "events_", "vanished_tag_sets")
COUNTS = ("flow_runs.completed.count", "flow_runs.throughput", "task_runs.completed.count", "task_runs.throughput")
DURATIONS = ("flow_runs.execution_duration", "flow_runs.queue_wait_duration", "task_runs.execution_duration")

Damage = Callable[[str], str]
DAMAGES: dict[str, Damage] = {
    "cut off": lambda text: text[: len(text) // 2],
    "its first half lost": lambda text: text[len(text) // 2 :],
    "changed in the middle": lambda text: text[: len(text) // 2] + "~" + text[len(text) // 2 + 1 :],
    "no text of ours": lambda _: "\x00\x00\x00",
    "of an older version": lambda text: text.replace(" 1 ", " 0 ", 1),
}


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    return Stage(api)


@pytest.fixture
def watching(stage: Stage, agent: AgentFactory) -> Agent:
    """An Agent that has counted one flow run and one task run, and stored so in both slots of each document."""
    watching = agent(collect_events=True, **stage.only_this)
    run_well(watching)
    complete_a_run(stage)
    assert_counts([run_well(watching)], times=1)
    run_well(watching)
    return watching


def run_well(agent: Agent) -> CheckRunResult:
    result = agent.run()
    assert (result.error, result.warnings) == ("", [])
    return result


def complete_a_run(stage: Stage) -> None:
    run = stage.run("PENDING", "RUNNING")
    task = ClientTaskRun(stage.api, "load", run["id"])
    stage.api.wait_for_events([task.enter(state) for state in ("PENDING", "RUNNING", "COMPLETED")])
    stage.enter(run, "COMPLETED")
    stage.seen(run)


def assert_counts(results: list[CheckRunResult], times: int) -> None:
    counts = {name: sum(result.count(name) for result in results) for name in COUNTS}
    samples = {name: sum(len(result.samples(name)) for result in results) for name in DURATIONS}
    assert counts == dict.fromkeys(COUNTS, times)
    assert samples == dict.fromkeys(DURATIONS, times)
    # Of the flow run: Scheduled, Pending, Running, Completed; of the task run all but the first of these.
    changes = [event for result in results for event in result.events if "state_type" in str(event["tags"])]
    assert len(changes) == 7 * times


def stored_keys(document: str) -> list[str]:
    keys = sorted(key for key in datadog_agent._cache if document in key)
    assert len(keys) == 2, document
    return keys


@pytest.mark.parametrize("document", DOCUMENTS)
def test_whichever_slot_is_damaged_the_other_one_is_used_with_one_warning_and_nothing_is_lost_or_repeated(
    watching: Agent, stage: Stage, document: str
) -> None:
    results = []
    for damage in DAMAGES.values():
        for slot in (0, 1):
            key = stored_keys(document)[slot]
            datadog_agent._cache[key] = damage(datadog_agent._cache[key])
            watching.restart()
            results.append(watching.run())
            assert [document in warning for warning in results[-1].warnings] == [True]
    assert_counts(results, times=0)
    complete_a_run(stage)
    watching.restart()
    assert_counts([run_well(watching), run_well(watching)], times=1)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_where_no_slot_can_be_read_one_warning_says_so_and_only_what_happens_from_then_on_counts(
    stage: Stage, agent: AgentFactory, document: str
) -> None:
    watching = agent(collect_events=True, min_collection_interval=0.001, **stage.only_this)
    run_well(watching)
    # A document that does not change is not written again.
    complete_a_run(stage)
    run_well(watching)
    for key in stored_keys(document):
        datadog_agent._cache[key] = "?"
    watching.restart()
    result = watching.run()
    assert ["cannot be read" in warning for warning in result.warnings] == [True]
    assert_counts([result, run_well(watching)], times=0)
    complete_a_run(stage)
    assert_counts([run_well(watching), run_well(watching)], times=1)


def test_a_second_check_object_on_the_same_cache_takes_nothing_from_the_first(
    watching: Agent, stage: Stage, agent: AgentFactory
) -> None:
    beside = agent(collect_events=True, **stage.only_this)
    complete_a_run(stage)
    assert_counts([beside.run()], times=1)
    results = [run_well(watching)]
    complete_a_run(stage)
    results += [run_well(watching)]
    assert_counts([beside.run()], times=1)
    results += [run_well(watching)]
    watching.restart()
    results += [run_well(watching)]
    assert_counts(results, times=2)
