"""Prefect's events in the form of Datadog events."""

from __future__ import annotations

from typing import Any

import pytest

from datadog_checks.prefect.api.models import Event
from datadog_checks.prefect.output.datadog_events import datadog_event

from .builders import RUN_ID, T0, after, related, state_change

UI = "http://prefect.test:4200"


def readiness(name: str, kind: str = "work-pool") -> Event:
    return Event.model_validate(
        {
            "id": "1",
            "event": name,
            "occurred": T0,
            "resource": {"prefect.resource.id": f"prefect.{kind}.p1", "prefect.resource.name": "etl pool ü"},
            "related": [],
            "payload": {},
        }
    )


def test_a_change_of_state_is_told_in_full() -> None:
    event = state_change(
        "Failed",
        "FAILED",
        after(0.75),
        from_type="RUNNING",
        from_name="Running",
        run_count=2,
        message="Flow run encountered an exception: ValueError: no rows",
        related_to=[related("flow", "f1", "etl"), related("deployment", "d1", "nightly"), related("tag", "eu")],
    )
    assert datadog_event(event, ("deployment_name:nightly", "flow_name:etl"), UI) == {
        "timestamp": T0.timestamp() + 0.75,
        "event_type": "prefect.flow-run.Failed",
        "source_type_name": "prefect",
        "msg_title": "[PREFECT] [flow-run] brave-fox -> Failed",
        "msg_text": (
            "%%% \n"
            "flow-run brave-fox went from Running to Failed (run count 2).\n\n"
            "Flow run encountered an exception: ValueError: no rows\n\n"
            f"[flow-run in Prefect]({UI}/runs/flow-run/{RUN_ID})\n"
            " %%%"
        ),
        "alert_type": "error",
        "aggregation_key": f"prefect.flow-run.{RUN_ID}",
        "tags": [
            "deployment_id:d1",
            "deployment_name:nightly",
            "flow_id:f1",
            "flow_name:etl",
            "initial_state_type:RUNNING",
            "intended_state_type:FAILED",
            f"resource_id:{RUN_ID}",
            "resource_kind:flow-run",
            "resource_name:brave-fox",
            "state_type:FAILED",
            "tag_id:eu",
        ],
    }


def test_an_event_about_readiness_is_told_by_its_name() -> None:
    assert datadog_event(readiness("prefect.work-pool.not-ready"), ("work_pool_type:process",), UI) == {
        "timestamp": T0.timestamp(),
        "event_type": "prefect.work-pool.not-ready",
        "source_type_name": "prefect",
        "msg_title": "[PREFECT] [work-pool] etl pool ü -> not-ready",
        "msg_text": "%%% \nwork-pool etl pool ü: prefect.work-pool.not-ready\n %%%",
        "alert_type": "error",
        "aggregation_key": "prefect.work-pool.p1",
        "tags": ["resource_id:p1", "resource_kind:work-pool", "resource_name:etl pool ü", "work_pool_type:process"],
    }


@pytest.mark.parametrize(
    ("name", "to_type", "alert_type"),
    [
        ("Failed", "FAILED", "error"),
        ("TimedOut", "FAILED", "error"),
        ("Crashed", "CRASHED", "error"),
        ("AwaitingRetry", "SCHEDULED", "warning"),
        ("Late", "SCHEDULED", "warning"),
        ("Cancelled", "CANCELLED", "warning"),
        ("Paused", "PAUSED", "warning"),
        ("Suspended", "PAUSED", "warning"),
        ("Completed", "COMPLETED", "success"),
        ("Cached", "COMPLETED", "success"),
        ("Scheduled", "SCHEDULED", "info"),
        ("AwaitingConcurrencySlot", "SCHEDULED", "info"),
        ("Pending", "PENDING", "info"),
        ("Running", "RUNNING", "info"),
        ("Retrying", "RUNNING", "info"),
        ("Cancelling", "CANCELLING", "info"),
    ],
)
@pytest.mark.parametrize("kind", ["flow-run", "task-run"])
def test_the_alert_type_of_a_state_follows_from_its_type_and_that_of_two_from_their_names(
    kind: str, name: str, to_type: str, alert_type: str
) -> None:
    event = datadog_event(state_change(name, to_type, T0, kind=kind), (), UI)
    assert (event["alert_type"], event["event_type"]) == (alert_type, f"prefect.{kind}.{name}")


@pytest.mark.parametrize(
    ("name", "alert_type"),
    [
        ("prefect.work-pool.ready", "success"),
        ("prefect.work-pool.not-ready", "error"),
        ("prefect.work-queue.ready", "success"),
        ("prefect.work-queue.not-ready", "error"),
        ("prefect.deployment.ready", "success"),
        ("prefect.deployment.not-ready", "error"),
        ("prefect.work-pool.paused", "info"),
        ("prefect.deployment.created", "info"),
        ("prefect.flow-run.heartbeat", "info"),
        ("acme.something", "info"),
    ],
)
def test_the_alert_type_of_readiness_is_success_or_error_and_that_of_others_info(name: str, alert_type: str) -> None:
    assert datadog_event(readiness(name), (), UI)["alert_type"] == alert_type


def text_of(event: Event) -> str:
    text: str = datadog_event(event, (), UI)["msg_text"]
    return text


def test_a_task_runs_text_links_to_it_and_to_its_flow_run() -> None:
    event = state_change(
        "Completed",
        "COMPLETED",
        T0,
        kind="task-run",
        run_id="t1",
        run_name="load-0",
        from_type="RUNNING",
        from_name="Running",
        related_to=[related("flow-run", "f1", "brave-fox")],
    )
    assert text_of(event) == (
        "%%% \n"
        "task-run load-0 went from Running to Completed (run count 1).\n\n"
        f"[task-run in Prefect]({UI}/runs/task-run/t1) | [flow-run in Prefect]({UI}/runs/flow-run/f1)\n"
        " %%%"
    )


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        ("deployment", f"[deployment in Prefect]({UI}/deployments/deployment/p1)"),
        ("work-queue", f"[work-queue in Prefect]({UI}/work-queues/work-queue/p1)"),
    ],
)
def test_deployments_and_queues_are_linked_to(kind: str, link: str) -> None:
    assert link in text_of(readiness(f"prefect.{kind}.ready", kind))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"from_type": None}, "flow-run brave-fox went to Late (run count 0)."),
        ({"from_type": "PENDING", "from_name": None}, "flow-run brave-fox went from PENDING to Late (run count 0)."),
        ({"run_count": None}, "flow-run brave-fox went from PENDING to Late."),
    ],
    ids=["first state", "no name before", "no run count"],
)
def test_what_is_not_known_of_a_change_is_left_out_of_the_text(changes: dict[str, Any], line: str) -> None:
    event = state_change("Late", "SCHEDULED", T0, **{"run_count": 0, **changes})
    assert text_of(event).splitlines()[1] == line


def test_a_state_without_a_name_is_told_by_its_type() -> None:
    event = state_change(None, "FAILED", T0, from_name="Running").model_copy(update={"event": "prefect.flow-run.x"})
    assert "went from Running to FAILED" in text_of(event)


def test_a_long_message_is_cut_so_that_the_links_stay() -> None:
    text = text_of(state_change("Failed", "FAILED", T0, message="x" * 100_000))
    assert len(text) < 4000
    assert f"({UI}/runs/flow-run/{RUN_ID})" in text


def test_a_message_of_percent_signs_neither_ends_the_markdown_nor_outgrows_the_text() -> None:
    text = text_of(state_change("Failed", "FAILED", T0, message="%" * 100_000))
    assert text.count("%%%") == 2
    assert len(text) < 4000


def test_the_name_of_a_state_may_hold_dots() -> None:
    event = datadog_event(state_change("v1.2 done", "COMPLETED", T0), (), UI)
    assert event["msg_title"] == "[PREFECT] [flow-run] brave-fox -> v1.2 done"


def test_a_resource_without_a_name_is_called_by_its_id() -> None:
    event = Event(id="1", event="acme.pump.started", occurred=T0, resource={"prefect.resource.id": "acme.pump.7"})
    told = datadog_event(event, (), UI)
    assert told["msg_title"] == "[PREFECT] [acme.pump.7] acme.pump.7 -> started"
    assert told["tags"] == ["resource_id:acme.pump.7"]


def test_events_of_the_same_run_have_the_same_key_and_those_of_others_another() -> None:
    changes = [state_change("Running", "RUNNING", T0), state_change("Completed", "COMPLETED", after(5))]
    other = state_change("Running", "RUNNING", T0, run_id="other")
    keys = [datadog_event(event, (), UI)["aggregation_key"] for event in (*changes, other)]
    assert keys[0] == keys[1] != keys[2]


def test_a_tag_that_the_metrics_have_too_is_there_once() -> None:
    event = state_change("Running", "RUNNING", T0, related_to=[related("flow", "f1", "etl")])
    tags = datadog_event(event, ("flow_id:f1", "flow_name:etl"), UI)["tags"]
    assert tags.count("flow_name:etl") == 1
    assert tags == sorted(tags)
