"""An exception of any type, in any collector, costs that collector's part of the check run and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from datadog_checks.prefect.collectors import COLLECTORS, Collector, Events, Server
from lab.agent import NAMESPACE, Agent, CheckRunResult, forget_everything
from lab.prefect_api import Json, PrefectApi
from lab.server import FAST_EVENTS, PrefectServer
from lab.task_run import ClientTaskRun

from .stage import Stage

SECRET = "s3cr3t-payload"
ERRORS: tuple[Exception, ...] = (
    ValueError(SECRET),
    KeyError(SECRET),
    TypeError(SECRET),
    ZeroDivisionError(SECRET),
    RecursionError(SECRET),
    MemoryError(SECRET),
    AssertionError(SECRET),
    UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    OSError(5, SECRET),
)
# `Events` runs only where it is asked for, and `Server` apart from the others.
EVERY_COLLECTOR: tuple[type[Collector], ...] = tuple(dict.fromkeys((Server, *COLLECTORS, Events)))
COUNTS_AND_HISTOGRAMS = (".count", ".throughput", "_duration")
# No state or status changes by itself.
QUIET = {
    **FAST_EVENTS,
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
}

every_collector = pytest.mark.parametrize(
    "broken", EVERY_COLLECTOR, ids=[collector.__name__ for collector in EVERY_COLLECTOR]
)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A stage on which every gauge has a value, on a server of its own."""
    with PrefectServer(env=QUIET) as server:
        stage = Stage(api := PrefectApi(server.api_url))
        runs = stage.runs_in_progress()
        api.heartbeat(stage.pool["name"], "w1", interval_seconds=3600)
        api.poll_work_pool(stage.pool["name"], [stage.queue["name"]])
        stage.seen(*runs)
        yield stage


@pytest.fixture
def watching(stage: Stage, clean_agent: None) -> Agent:
    """An Agent that has begun to count."""
    watching = Agent({"prefect_url": stage.api.api_url, "collect_events": True, "skip_proxy": True})
    # The first check run also finds what was before it.
    for _ in range(2):
        assert_well(watching.run())
    return watching


class Work:
    """A flow run and a task run that have ended, and what check runs say about them."""

    def __init__(self, stage: Stage) -> None:
        run = stage.run("PENDING", "RUNNING")
        self._task = ClientTaskRun(stage.api, "load", run["id"])
        events = [self._task.prepare(state) for state in ("PENDING", "RUNNING", "COMPLETED")]
        stage.api.post_events(events)
        stage.enter(run, "COMPLETED")
        stage.seen(run)
        stage.api.wait_for_events([event["id"] for event in events])
        self._run: Json = run
        self._deployment = stage.deployment["id"]

    def told(self, result: CheckRunResult) -> dict[str, int]:
        """What one check run tells of it, by the names of metrics; events by the kind of their resource."""
        tags = {
            "flow_runs": {"deployment_id": self._deployment},
            "task_runs": {"deployment_id": self._deployment, "task_key": self._task.task_key},
        }
        told = {
            f"{family}.{name}": int(result.count(f"{family}.{name}", **tags[family]))
            for family in tags
            for name in ("completed.count", "throughput")
        }
        for family in tags:
            name = f"{family}.execution_duration"
            told[name] = len(result.samples(name, **tags[family]))
        for kind, identity in (("flow-run", self._run["id"]), ("task-run", self._task.id)):
            about_it = f"prefect.{kind}.{identity}"
            told[kind] = sum(event["aggregation_key"] == about_it for event in result.events)
        return told

    def whole(self, result: CheckRunResult) -> dict[str, int]:
        """The same, were it told in full."""
        return dict.fromkeys(self.told(result), 1) | {"flow-run": 4, "task-run": 3}


def told_by(collector: type[Collector]) -> set[str]:
    """What of the work a collector tells."""
    return set(collector.owned) or ({"flow-run", "task-run"} if collector is Events else set())


def assert_well(result: CheckRunResult) -> None:
    assert (result.error, result.warnings) == ("", [])


def assert_one_is_missing(result: CheckRunResult, broken: type[Collector]) -> None:
    """The status names what is missing, and says nothing of what the exception said."""
    assert result.error == ""
    (warning,) = result.warnings
    assert warning.startswith(f"Missing: {broken.subject}")
    assert SECRET not in warning


def gauges(result: CheckRunResult) -> set[tuple[str, frozenset[str]]]:
    return {
        (series.name.removeprefix(NAMESPACE), series.tags)
        for series in result.series
        if not series.name.endswith(COUNTS_AND_HISTOGRAMS)
    }


def without(broken: type[Collector], found: set[tuple[str, frozenset[str]]]) -> set[tuple[str, frozenset[str]]]:
    return {(name, tags) for name, tags in found if name not in broken.owned}


@contextmanager
def raising(error: Exception, broken: type[Collector], method: str, after: bool) -> Iterator[None]:
    """Let a method of a collector raise this error, before or `after` it has done its work."""
    original: Callable[..., Any] = getattr(broken, method)

    def raises(self: Collector, *arguments: Any) -> None:
        if after:
            original(self, *arguments)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broken, method, raises)
        yield


def tracebacks(log: pytest.LogCaptureFixture, error: Exception) -> int:
    """How often this error was logged with where it came from."""
    return sum(1 for record in log.records if record.exc_info and record.exc_info[1] is error)


@every_collector
def test_what_a_collector_raises_costs_its_own_metrics_until_it_raises_no_more(
    stage: Stage, watching: Agent, broken: type[Collector], caplog: pytest.LogCaptureFixture
) -> None:
    before = gauges(watching.run())
    work = Work(stage)
    results = []
    for error in ERRORS:
        caplog.clear()
        for after in (False, True):
            with raising(error, broken, "collect", after):
                result = watching.run()
            assert_one_is_missing(result, broken)
            assert gauges(result) == without(broken, before), error
            assert not result.names() & {NAMESPACE + name for name in broken.owned}, error
            results.append(result)
        assert tracebacks(caplog, error) == 1, error
    assert SECRET not in str([record.getMessage() for record in caplog.records])
    healed, later = watching.run(), watching.run()
    for result in (healed, later):
        assert_well(result)
        assert gauges(result) == before
    # The others have told of it at once, the broken one as soon as it could.
    whole = work.whole(healed)
    own = told_by(broken)
    assert work.told(results[0]) == {name: 0 if name in own else number for name, number in whole.items()}
    assert work.told(healed) == {name: number if name in own else 0 for name, number in whole.items()}
    for result in (*results[1:], later):
        assert work.told(result) == dict.fromkeys(whole, 0)


def run_that_cannot_commit(
    stage: Stage, watching: Agent, broken: type[Collector], has_committed: bool
) -> tuple[set[tuple[str, frozenset[str]]], Work, CheckRunResult]:
    """The gauges of the check run before, what there was to tell, and the check run in which `commit` raises."""
    before = gauges(watching.run())
    work = Work(stage)
    with raising(ValueError(SECRET), broken, "commit", after=has_committed):
        result = watching.run()
    assert_one_is_missing(result, broken)
    return before, work, result


@every_collector
def test_what_is_raised_after_a_collector_has_remembered_costs_nothing(
    stage: Stage, watching: Agent, broken: type[Collector]
) -> None:
    before, work, result = run_that_cannot_commit(stage, watching, broken, has_committed=True)
    assert gauges(result) == before
    assert work.told(result) == work.whole(result)
    watching.restart()
    later = watching.run()
    assert_well(later)
    assert work.told(later) == dict.fromkeys(work.told(later), 0)


@every_collector
def test_what_is_raised_instead_of_remembering_costs_the_other_collectors_nothing(
    stage: Stage, watching: Agent, broken: type[Collector]
) -> None:
    before, work, result = run_that_cannot_commit(stage, watching, broken, has_committed=False)
    assert without(broken, gauges(result)) == without(broken, before)
    own = told_by(broken)
    told, whole = work.told(result), work.whole(result)
    assert {name for name in told if told[name] != whole[name]} <= own
    again = watching.run()
    assert_well(again)
    assert {name for name, number in work.told(again).items() if number} <= own


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("gauge", "work_queue.backlog.size"),
        ("count", "flow_runs.completed.count"),
        ("count", "task_runs.throughput"),
        ("histogram", "flow_runs.execution_duration"),
    ],
)
def test_a_metric_that_the_agent_does_not_take_costs_no_other_and_none_comes_twice(
    stage: Stage, watching: Agent, method: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = gauges(watching.run())
    work = Work(stage)
    submit: Callable[..., None] = getattr(watching.check, method)

    def refuses(metric: str, *arguments: Any, **named: Any) -> None:
        if metric == name:
            raise TypeError(SECRET)
        submit(metric, *arguments, **named)

    caplog.set_level(logging.DEBUG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching.check, method, refuses)
        result = watching.run()
    assert result.error == ""
    assert SECRET not in str(result.warnings)
    assert gauges(result) == {(gauge, tags) for gauge, tags in before if gauge != name}
    assert work.told(result) == work.whole(result) | ({name: 0} if name in work.told(result) else {})
    healed = watching.run()
    assert_well(healed)
    assert gauges(healed) == before
    assert {told for told, number in work.told(healed).items() if number} <= {name}


@pytest.mark.parametrize("error", ERRORS, ids=[type(error).__name__ for error in ERRORS])
def test_where_every_collector_raises_the_check_run_ends_in_an_error_beside_health_and_readiness(
    watching: Agent, error: Exception
) -> None:
    def raises(self: Collector, *arguments: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        for collector in EVERY_COLLECTOR:
            if collector is not Server:
                patch.setattr(collector, "collect", raises)
        result = watching.run()
    assert result.error
    assert (result.gauge("health"), result.gauge("ready")) == (1, 1)
    assert_well(watching.run())


@pytest.fixture(scope="module", autouse=True)
def forgetting() -> Iterator[None]:
    yield
    forget_everything()
