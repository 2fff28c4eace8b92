"""Prefect's events as Datadog events: what they say, and each exactly once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from lab.agent import Agent, CheckRunResult
from lab.prefect_api import Json, PrefectApi
from lab.task_run import ClientTaskRun, uuid7

from ..conftest import AgentFactory
from .stage import Stage

DatadogEvent = dict[str, Any]


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    return Stage(api)


@pytest.fixture
def watching(stage: Stage, agent: AgentFactory) -> Agent:
    """An Agent that has begun to collect events of a stage with nothing on it."""
    watching = agent(collect_events=True, **stage.only_this)
    _ = stage.deployment
    assert watching.run().error == ""
    return watching


def about(result: CheckRunResult, kind: str, identity: str) -> list[DatadogEvent]:
    """The events of one resource, in the order in which they were submitted."""
    assert (result.error, result.warnings) == ("", [])
    return [event for event in result.events if event["aggregation_key"] == f"prefect.{kind}.{identity}"]


def types(events: list[DatadogEvent]) -> list[str]:
    return [event["event_type"] for event in events]


def seconds(timestamp: str) -> int:
    """A moment as Datadog's events have it: in whole seconds."""
    return int(datetime.fromisoformat(timestamp).timestamp())


def test_an_event_tells_what_became_of_a_flow_run(stage: Stage, agent: AgentFactory) -> None:
    a = agent(collect_events=True, tags=["team:data"], service="etl", **stage.only_this)
    _ = stage.deployment
    a.run()
    run = stage.run("PENDING", "RUNNING")
    state = stage.api.set_flow_run_state(run["id"], "FAILED", message="The disk is full.", force=True)
    stage.seen(run)
    *_, event = about(a.run(), "flow-run", run["id"])

    text = event.pop("msg_text")
    assert sorted(event.pop("tags")) == sorted(
        stage.run_tags
        | {
            "team:data",
            "service:etl",
            f"resource_id:{run['id']}",
            "resource_kind:flow-run",
            f"resource_name:{run['name']}",
            "state_type:FAILED",
            "initial_state_type:RUNNING",
            "intended_state_type:FAILED",
        }
    )
    assert event == {
        "msg_title": f"[PREFECT] [flow-run] {run['name']} -> Failed",
        "event_type": "prefect.flow-run.Failed",
        "alert_type": "error",
        "timestamp": seconds(state["timestamp"]),
        "source_type_name": "prefect",
        "aggregation_key": f"prefect.flow-run.{run['id']}",
    }
    ui = stage.api.api_url.removesuffix("/api")
    for part in ("from Running to Failed", "The disk is full.", f"{ui}/runs/flow-run/{run['id']}"):
        assert part in text


@pytest.mark.needs("run counts in events")
def test_an_event_tells_how_often_a_flow_run_has_run(stage: Stage, watching: Agent) -> None:
    run = stage.run("PENDING", "RUNNING", "FAILED", "RUNNING", "COMPLETED")
    stage.seen(run)
    told = {event["event_type"]: event["msg_text"] for event in about(watching.run(), "flow-run", run["id"])}
    assert "run count 1" in told["prefect.flow-run.Failed"]
    assert "run count 2" in told["prefect.flow-run.Completed"]


def test_an_event_tells_what_became_of_a_task_run(stage: Stage, watching: Agent) -> None:
    run = stage.run("PENDING", "RUNNING")
    task = ClientTaskRun(stage.api, "load", run["id"])
    begun = datetime.now(UTC)
    states = (("PENDING", ""), ("RUNNING", ""), ("CRASHED", "Out of memory."))
    last = [task.enter(state, message=message, at=begun) for state, message in states]
    stage.api.wait_for_events(last)
    events = about(watching.run(), "task-run", task.id)
    assert Counter(types(events)) == {f"prefect.task-run.{name}": 1 for name in ("Pending", "Running", "Crashed")}
    event = next(event for event in events if event["event_type"] == "prefect.task-run.Crashed")
    text = event.pop("msg_text")
    assert sorted(event.pop("tags")) == sorted(
        stage.run_tags
        | {
            f"task_key:{task.task_key}",
            "task_name:load",
            f"flow_run_id:{run['id']}",
            f"flow_run_name:{run['name']}",
            f"resource_id:{task.id}",
            "resource_kind:task-run",
            f"resource_name:{task.name}",
            "state_type:CRASHED",
            "initial_state_type:RUNNING",
            "intended_state_type:CRASHED",
        }
    )
    assert event == {
        "msg_title": f"[PREFECT] [task-run] {task.name} -> Crashed",
        "event_type": "prefect.task-run.Crashed",
        "alert_type": "error",
        "timestamp": int(begun.timestamp()),
        "source_type_name": "prefect",
        "aggregation_key": f"prefect.task-run.{task.id}",
    }
    ui = stage.api.api_url.removesuffix("/api")
    links = (f"{ui}/runs/task-run/{task.id}", f"{ui}/runs/flow-run/{run['id']}")
    for part in ("from Running to Crashed", "run count 1", "Out of memory.", *links):
        assert part in text


def test_every_state_has_its_alert_type(stage: Stage, watching: Agent) -> None:
    alerts = {
        "SCHEDULED:Scheduled": "info",
        "SCHEDULED:Late": "warning",
        "SCHEDULED:AwaitingRetry": "warning",
        "SCHEDULED:AwaitingConcurrencySlot": "info",
        "PENDING:Pending": "info",
        "RUNNING:Running": "info",
        "RUNNING:Retrying": "info",
        "PAUSED:Paused": "warning",
        "PAUSED:Suspended": "warning",
        "CANCELLING:Cancelling": "info",
        "CANCELLED:Cancelled": "warning",
        "COMPLETED:Completed": "success",
        "COMPLETED:Cached": "success",
        "FAILED:Failed": "error",
        "FAILED:TimedOut": "error",
        "CRASHED:Crashed": "error",
    }
    run = stage.run(*alerts)
    stage.seen(run)
    _, *events = about(watching.run(), "flow-run", run["id"])  # the first is of its creation
    expected = [(state.partition(":")[2], alert) for state, alert in alerts.items()]
    assert [(event["msg_title"].rpartition(" ")[2], event["alert_type"]) for event in events] == expected
    assert types(events) == [f"prefect.flow-run.{name}" for name, _ in expected]


def test_readiness_of_pools_queues_and_deployments_is_told_when_it_comes_and_goes(
    attentive_api: PrefectApi, agent: AgentFactory
) -> None:
    api, stage = attentive_api, Stage(attentive_api)
    a = agent(prefect_url=api.api_url, collect_events=True, **stage.only_this)
    assert a.run().error == ""
    _ = stage.deployment
    api.heartbeat(stage.pool["name"], "w1", interval_seconds=1)
    api.poll_work_pool(stage.pool["name"], [stage.queue["name"]])
    expected = {
        ("work-pool", stage.pool["id"], stage.pool["name"]): ["not-ready", "ready", "not-ready"],
        ("work-queue", stage.queue["id"], stage.queue["name"]): ["ready", "not-ready"],
        ("deployment", stage.deployment["id"], stage.deployment["name"]): ["ready", "not-ready"],
    }
    tags = {
        "work-pool": stage.pool_tags | {"work_pool_type:process"},
        "work-queue": stage.queue_tags,
        "deployment": stage.run_tags | {"is_paused:false"},
    }
    for (kind, identity, _), statuses in expected.items():
        names = {"name": [f"prefect.{kind}.ready", f"prefect.{kind}.not-ready"]}
        api.wait_for_events(count=len(statuses), event=names, resource={"id": [f"prefect.{kind}.{identity}"]})
    result = a.run()
    for (kind, identity, name), statuses in expected.items():
        events = about(result, kind, identity)
        assert [event["msg_title"] for event in events] == [f"[PREFECT] [{kind}] {name} -> {s}" for s in statuses]
        assert types(events) == [f"prefect.{kind}.{status}" for status in statuses]
        assert [event["alert_type"] for event in events] == [
            {"ready": "success", "not-ready": "error"}[status] for status in statuses
        ]
        own = {f"resource_kind:{kind}", f"resource_id:{identity}", f"resource_name:{name}"}
        for event in events:
            assert tags[kind] | own <= set(event["tags"])
            assert event["source_type_name"] == "prefect"
    assert a.run().events == []


def test_each_event_is_submitted_once_over_check_runs_and_a_restart(stage: Stage, watching: Agent) -> None:
    states = ("PENDING", "RUNNING", "COMPLETED")
    run = stage.run(*states)
    stage.seen(run)
    results = [watching.run(), watching.run()]
    watching.restart()
    results.append(watching.run())
    for state in ("SCHEDULED:AwaitingRetry", "PENDING", "RUNNING", "FAILED"):
        stage.enter(run, state)
    stage.seen(run)
    watching.restart()
    results += [watching.run(), watching.run()]
    found = [types(about(result, "flow-run", run["id"])) for result in results]
    first = [f"prefect.flow-run.{name}" for name in ("Scheduled", "Pending", "Running", "Completed")]
    second = [f"prefect.flow-run.{name}" for name in ("AwaitingRetry", "Pending", "Running", "Failed")]
    assert found == [first, [], [], second, []]


def test_heartbeats_and_other_news_of_runs_are_no_changes_of_state(stage: Stage, watching: Agent) -> None:
    run = stage.run("PENDING", "RUNNING")
    names = ("prefect.flow-run.heartbeat", "prefect.flow-run.pull-step.executed")
    stage.api.post_events(news := [news_of(run, name) for name in names])
    stage.api.wait_for_events([event["id"] for event in news])
    stage.seen(run)
    events = about(watching.run(), "flow-run", run["id"])
    assert types(events) == [f"prefect.flow-run.{name}" for name in ("Scheduled", "Pending", "Running")]


def news_of(run: Json, name: str) -> Json:
    return {
        "id": uuid7(),
        "occurred": datetime.now(UTC).isoformat(),
        "event": name,
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run['id']}", "prefect.resource.name": run["name"]},
        "related": [],
        "payload": {},
    }


def test_every_related_resource_is_in_the_tags(stage: Stage, watching: Agent) -> None:
    run = stage.api.create_deployment_run(stage.deployment["id"], tags=["nightly", "etl"])
    stage.seen(run)
    (event,) = about(watching.run(), "flow-run", run["id"])
    assert stage.run_tags | {"tag_id:nightly", "tag_id:etl"} <= set(event["tags"])


def test_no_events_are_submitted_unless_they_are_asked_for(stage: Stage, agent: AgentFactory) -> None:
    a = agent(event_names={"include": ["."]}, **stage.only_this)
    _ = stage.deployment
    a.run()
    run = stage.run("PENDING", "RUNNING", "COMPLETED")
    stage.seen(run)
    result = a.run()
    assert result.events == []
    assert result.count("flow_runs.completed.count") == 1


@pytest.mark.needs("events of deployments")
@pytest.mark.parametrize(
    ("names", "submitted"),
    [
        ({"include": [r"^prefect\.deployment\.(created|deleted)$"]}, {"deployment.created", "deployment.deleted"}),
        ({"include": [r"\.Completed$", r"\.Running$"]}, {"flow-run.Completed", "flow-run.Running"}),
        ({"include": ["completed"]}, set()),
        ({"include": [r"^prefect\.flow-run\."], "exclude": ["ing$"]}, {"flow-run.Scheduled", "flow-run.Completed"}),
        ({"exclude": [r"\.Pending$", "Scheduled", "work-pool"]}, {"flow-run.Running", "flow-run.Completed"}),
    ],
)
def test_event_names_choose_what_is_submitted_and_touch_no_metric(
    stage: Stage, agent: AgentFactory, names: dict[str, list[str]], submitted: set[str]
) -> None:
    a = agent(collect_events=True, event_names=names, **stage.only_this)
    stage.api.wait_for_events(resource={"id": [f"prefect.deployment.{stage.deployment['id']}"]})
    a.run()
    run = stage.run("PENDING", "RUNNING", "COMPLETED")
    stage.seen(run)
    brief = stage.api.create_deployment(f"{stage.name}-brief", stage.flow["id"], stage.pool["name"])["id"]
    stage.api.delete_deployment(brief)
    stage.api.wait_for_events(count=2, resource={"id": [f"prefect.deployment.{brief}"]})
    result = a.run()
    assert (result.error, result.warnings) == ("", [])
    own = [event for event in result.events if any(stage.name in tag or run["name"] in tag for tag in event["tags"])]
    assert sorted(types(own)) == sorted(f"prefect.{name}" for name in submitted)
    counts = {name: result.count(f"flow_runs.{name}") for name in ("completed.count", "throughput")}
    assert counts == {"completed.count": 1, "throughput": 1}
    assert len(result.samples("flow_runs.execution_duration")) == 1
