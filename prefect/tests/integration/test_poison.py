"""One bad event or object after the other on a real server: beside each a good run is counted, at once and once."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from lab.agent import Agent, CheckRunResult, datadog_agent, forget_everything
from lab.poison import MARKER, POISON_EVENTS, Posted, Refused, post
from lab.poison_objects import POISON_OBJECTS, UNREADABLE_OBJECTS, make
from lab.prefect_api import Json, PrefectApi
from lab.server import FAST_EVENTS, PrefectServer
from lab.task_run import ClientTaskRun
from lab.waiting import wait_until
from lab.workload import RememberingApi

from .conftest import skip_where_lacking
from .stage import Stage

# So that no status changes by itself.
SERVER_SETTINGS = {**FAST_EVENTS, "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false"}
# A check run may take as long, which those with the largest poison need on a busy machine.
INTERVAL_SECONDS = 60
# As long as an event of the next minute is found anew.
BEGIN_SECONDS = 75.0
MOST_CHARACTERS = 1000
# A field that is missing or odd is named with its kind of object instead.
ABOUT_FIELDS = "unexpected or missing fields"
# For a minute the check reads these again in each check run, which takes long: they are the last.
LARGE_EVENTS = ["task inputs of 20,000 ids", "400,000 lists", "400,000 objects"]
LARGE_OBJECTS = ["a task run of 20,000 inputs"]
# As many check runs as an Agent may need for all that came while it was stopped.
MOST_CATCHING_UP = 10


class Bystanders:
    """What is good on the poisoned server, and two Agents: one counts all the time, the other sleeps until the end.

    The one that sleeps submits no events, and has filters, which everything passes.
    """

    def __init__(self, api: PrefectApi) -> None:
        self.api = api
        self.stage = Stage(RememberingApi(api.api_url))
        self.good_runs = 0
        self._prepare()
        options = {"prefect_url": api.api_url, "skip_proxy": True, "min_collection_interval": INTERVAL_SECONDS}
        passing = {"exclude": ["^nothing is called so$"]}
        self.sleeper = Agent({**options, "deployment_names": passing, "work_pool_names": passing})
        self._watching = options | {"collect_events": True}
        forget_everything()
        assert_well(self.sleeper.run())
        self._asleep = dict(datadog_agent._cache)
        self.begin()

    def _prepare(self) -> None:
        """One of everything that has a gauge: of these nothing may be missing, whatever is beside it."""
        stage, api = self.stage, self.api
        stage.run()
        running = stage.run("PENDING", "RUNNING")
        self.task = ClientTaskRun(api, "endless", running["id"])
        ids = [self.task.enter(state) for state in ("PENDING", "RUNNING")]
        api.heartbeat(stage.pool["name"], "good", interval_seconds=3600)
        api.poll_work_pool(stage.pool["name"], [stage.queue["name"]])
        api.wait_for_events(ids)
        api.wait_for_task_run(self.task.id, lambda found: bool(found["state_type"] == "RUNNING"))
        stage.seen(running)

    def begin(self) -> None:
        """Watch with an Agent that knows of nothing that was before, so that what failed once fails only once."""
        wait_until(self._begins_well, BEGIN_SECONDS, "A check run that finds nothing bad")

    def _begins_well(self) -> bool:
        forget_everything()
        datadog_agent._cache.update(self._asleep)
        self.watching = Agent(self._watching)
        # What stays bad, the first two tell of.
        for _ in range(3):
            result = self.watching.run()
            if result.error:
                return False
        return not result.warnings and bool(
            result.matching("flow_runs.scheduled", deployment_id=self.stage.deployment["id"])
        )

    def good_run(self, beside: Posted) -> tuple[Json, ClientTaskRun]:
        """A flow run with a task run, both over. Their events are visible, and those of the poison beside them."""
        run = self.stage.run("PENDING", "RUNNING")
        task = ClientTaskRun(self.stage.api, f"good-{self.good_runs}", run["id"])
        events = [task.prepare(state) for state in ("PENDING", "RUNNING", "COMPLETED")]
        self.api.post_events(events)
        self.stage.enter(run, "COMPLETED")
        self.good_runs += 1
        states = self.api.flow_run_states(run["id"])
        self.api.wait_for_events([*(shown["id"] for shown in (*events, *states)), *beside.event_ids])
        return run, task


@pytest.fixture(scope="module")
def bystanders() -> Iterator[Bystanders]:
    """On a server of their own: what is made here would stand in other tests' way."""
    with PrefectServer(env=SERVER_SETTINGS) as server:
        yield Bystanders(PrefectApi(server.api_url))
    forget_everything()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def assert_well(result: CheckRunResult) -> None:
    assert (result.error, result.warnings) == ("", [])


def serve(
    bystanders: Bystanders, name: str, log: pytest.LogCaptureFixture, pour: Callable[[], Posted], may_stay: bool = True
) -> None:
    """Post poison and let a good run go through beside it: both of the next check runs are as they should be."""
    if "NUL" in name:
        skip_where_lacking("NUL in texts")
    try:
        posted = pour()
    except Refused:
        skip_where_lacking("all bad events and objects")
        raise
    try:
        look(bystanders, posted, log)
    except BaseException:
        posted.take_back()
        bystanders.begin()
        raise
    if not may_stay:
        posted.take_back()


def look(bystanders: Bystanders, posted: Posted, log: pytest.LogCaptureFixture) -> None:
    """Let a good run go through, and look at both of the check runs after it."""
    run, task = bystanders.good_run(beside=posted)
    log.clear()
    first = bystanders.watching.run()
    said = log.text
    log.clear()
    second = bystanders.watching.run()
    try:
        assert (first.error, second.error) == ("", "")
        assert [record for record in log.records if record.levelno >= logging.ERROR] == []
        assert_counted_once(bystanders.stage, first, second, run, task)
        for result in (first, second):
            assert_all_else_is_there(bystanders, result)
            assert_clean(result)
        assert_left_out(posted, first, second)
        assert_one_warning(posted, first, second)
        assert MARKER not in "\n".join([said, log.text, *first.warnings])
    except AssertionError as error:
        error.add_note(f"The first check run warned of {first.warnings}, the second of {second.warnings}.")
        raise


def assert_counted_once(
    stage: Stage, first: CheckRunResult, second: CheckRunResult, run: Json, task: ClientTaskRun
) -> None:
    deployment = {"deployment_id": stage.deployment["id"]}
    about_task = {"task_key": task.task_key, **deployment}
    counts = [("flow_runs", deployment), ("task_runs", about_task)]
    for family, tags in counts:
        for name in ("completed.count", "throughput"):
            found = [result.count(f"{family}.{name}", **tags) for result in (first, second)]
            assert found == [1, 0], f"{family}.{name}"
        samples = [len(result.samples(f"{family}.execution_duration", **tags)) for result in (first, second)]
        assert samples == [1, 0], family
    for identity, number in ((f"prefect.flow-run.{run['id']}", 4), (f"prefect.task-run.{task.id}", 3)):
        handed_on = [sum(event["aggregation_key"] == identity for event in result.events) for result in (first, second)]
        assert handed_on == [number, 0], identity


def assert_all_else_is_there(bystanders: Bystanders, result: CheckRunResult) -> None:
    stage = bystanders.stage
    pool, queue = {"work_pool_id": stage.pool["id"]}, {"work_queue_id": stage.queue["id"]}
    deployment = {"deployment_id": stage.deployment["id"]}
    found = {
        "health": result.gauge("health"),
        "ready": result.gauge("ready"),
        "pool": sum(result.gauge(f"work_pool.{name}", **pool) for name in ("is_ready", "is_not_ready", "is_paused")),
        "worker": result.gauge("work_pool.worker.is_online", **pool),
        "workers": result.gauge("work_pool.workers.online", **pool),
        "queue": sum(result.gauge(f"work_queue.{name}", **queue) for name in ("is_ready", "is_not_ready", "is_paused")),
        "backlog": result.gauge("work_queue.backlog.size", **queue),
        "in use": result.gauge("work_queue.concurrency.in_use", **queue),
        "deployment": len(result.matching("deployment.is_ready", **deployment)),
        "running": result.gauge("flow_runs.running", **deployment),
        "scheduled": result.gauge("flow_runs.scheduled", **deployment),
        "tasks": result.gauge("task_runs.running", task_key=bystanders.task.task_key),
    }
    assert found == dict.fromkeys(found, 1) | {"in use": 25}


def assert_clean(result: CheckRunResult) -> None:
    """What leaves can be sent: texts of Unicode, and no tag or title with a control character."""
    texts = {tag for series in result.series for tag in series.tags}
    for event in result.events:
        texts.update(event["tags"], (event["msg_title"], event["aggregation_key"], event["event_type"]))
        assert "\0" not in event["msg_text"]
    assert [text for text in texts if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)] == []


def assert_left_out(posted: Posted, first: CheckRunResult, second: CheckRunResult) -> None:
    """What has no identity is not counted: only the good run ran and ended. It may be handed on, if only once."""
    if posted.resource_ids:
        ended = ("completed.count", "throughput")
        totals = [first.count(f"{family}.{name}") for family in ("flow_runs", "task_runs") for name in ended]
        assert totals == [1, 1, 1, 1]
    events = [event["aggregation_key"] for event in (*first.events, *second.events)]
    handed_on = {identity: events.count(identity) for identity in posted.resource_ids}
    assert all(number <= posted.resource_ids.count(identity) for identity, number in handed_on.items()), handed_on


def assert_one_warning(posted: Posted, first: CheckRunResult, second: CheckRunResult) -> None:
    """At most one, never again, that says what it is about and no more."""
    assert len(first.warnings) <= 1, first.warnings
    assert second.warnings == []
    for warning in first.warnings:
        assert len(warning) <= MOST_CHARACTERS
        assert posted.is_named_by(warning) or warning.lower().startswith(ABOUT_FIELDS), warning


@pytest.mark.parametrize("name", [name for name in POISON_EVENTS if name not in LARGE_EVENTS])
def test_a_good_run_beside_a_bad_event_is_counted_at_once_and_once(
    bystanders: Bystanders, log: pytest.LogCaptureFixture, name: str
) -> None:
    serve(bystanders, name, log, partial(post, bystanders.api, name))


@pytest.mark.parametrize("name", UNREADABLE_OBJECTS)
def test_a_good_run_beside_an_object_that_the_server_itself_cannot_show_is_counted_at_once_and_once(
    bystanders: Bystanders, log: pytest.LogCaptureFixture, name: str
) -> None:
    serve(bystanders, name, log, partial(make, bystanders.api, UNREADABLE_OBJECTS[name]), may_stay=False)


@pytest.mark.parametrize("name", [name for name in POISON_OBJECTS if name not in LARGE_OBJECTS])
def test_a_good_run_beside_a_bad_object_is_counted_at_once_and_once(
    bystanders: Bystanders, log: pytest.LogCaptureFixture, name: str
) -> None:
    serve(bystanders, name, log, partial(make, bystanders.api, POISON_OBJECTS[name]))


@pytest.mark.parametrize("name", [*LARGE_EVENTS, *LARGE_OBJECTS])
def test_a_good_run_beside_something_large_is_counted_at_once_and_once(
    bystanders: Bystanders, log: pytest.LogCaptureFixture, name: str
) -> None:
    api = bystanders.api
    pour = partial(post, api, name) if name in LARGE_EVENTS else partial(make, api, POISON_OBJECTS[name])
    serve(bystanders, name, log, pour)


def test_after_a_restart_nothing_comes_twice_and_what_stays_is_said_once_more(bystanders: Bystanders) -> None:
    bystanders.watching.restart()
    result = bystanders.watching.run()
    assert result.error == ""
    assert_well(bystanders.watching.run())
    deployment = {"deployment_id": bystanders.stage.deployment["id"]}
    assert [result.count(f"flow_runs.{name}", **deployment) for name in ("completed.count", "throughput")] == [0, 0]
    assert [result.count(f"task_runs.{name}") for name in ("completed.count", "throughput")] == [0, 0]
    assert result.events == []
    assert_all_else_is_there(bystanders, result)


def test_an_agent_that_was_stopped_all_the_while_counts_every_good_run_once(bystanders: Bystanders) -> None:
    bystanders.good_run(beside=Posted([]))
    bystanders.sleeper.restart()
    deployment = {"deployment_id": bystanders.stage.deployment["id"]}
    ended, left = 0.0, True
    for _ in range(MOST_CATCHING_UP):
        result = bystanders.sleeper.run()
        assert result.error == ""
        assert_clean(result)
        assert MARKER not in "\n".join(result.warnings)
        ended += result.count("flow_runs.completed.count", **deployment)
        left = any("are left for the next check runs" in warning for warning in result.warnings)
        if not left:
            break
    assert not left
    assert ended == bystanders.good_runs
