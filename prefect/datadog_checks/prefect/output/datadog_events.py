"""Converts a Prefect event into a Datadog event. Pure functions."""

from __future__ import annotations

import re
from typing import Any, Literal

from datadog_checks.prefect.api.models import Event, EventPayload
from datadog_checks.prefect.counting.transitions import Transition, transition_of
from datadog_checks.prefect.tags import Tags, one_line, related_by_role, resource_kind_and_id, tag_set

AlertType = Literal["error", "warning", "success", "info"]

SOURCE_TYPE = "prefect"
# Datadog cuts long texts. Messages are cut here, so that the links after them stay.
MOST_MESSAGE_CHARACTERS = 3000
UI_PATHS = {
    "flow-run": "runs/flow-run",
    "task-run": "runs/task-run",
    "deployment": "deployments/deployment",
    "work-queue": "work-queues/work-queue",
}
# Roles become tag keys, and anybody may invent roles.
NOT_IN_KEYS = re.compile(r"[^\w./]", re.ASCII)
MOST_KEY_CHARACTERS = 100
ALERTS_BY_NAME: dict[str, AlertType] = {"AwaitingRetry": "warning", "Late": "warning"}
ALERTS_BY_TYPE: dict[str, AlertType] = {
    "FAILED": "error",
    "CRASHED": "error",
    "CANCELLED": "warning",
    "PAUSED": "warning",
    "COMPLETED": "success",
}
ALERTS_BY_READINESS: dict[str, AlertType] = {"not-ready": "error", "ready": "success"}


def datadog_event(event: Event, tags: Tags, ui_url: str) -> dict[str, Any]:
    """The event in the form that `AgentCheck.event` expects. `tags` are the tags of the resource's metrics."""
    resource_id = event.resource.get("prefect.resource.id") or ""
    kind, _ = resource_kind_and_id(resource_id) or (resource_id, "")
    name = event.resource.get("prefect.resource.name") or resource_id
    transition = transition_of(event)
    return {
        "timestamp": event.occurred.timestamp(),
        "event_type": one_line(event.event),
        "source_type_name": SOURCE_TYPE,
        "msg_title": one_line(f"[PREFECT] [{kind}] {name} -> {_last_part(event, transition)}"),
        "msg_text": _text(event, transition, kind, name, ui_url),
        "alert_type": alert_type(event, transition),
        "aggregation_key": one_line(resource_id),
        "tags": sorted({*tags, *_event_tags(event, transition)}),
    }


def alert_type(event: Event, transition: Transition | None) -> AlertType:
    if transition is not None:
        return ALERTS_BY_NAME.get(transition.name or "") or ALERTS_BY_TYPE.get(transition.to_type, "info")
    return ALERTS_BY_READINESS.get(event.event.rpartition(".")[2], "info")


def _last_part(event: Event, transition: Transition | None) -> str:
    # The name of a state may contain dots.
    return (transition.name if transition else None) or event.event.rpartition(".")[2]


def _text(event: Event, transition: Transition | None, kind: str, name: str, ui_url: str) -> str:
    lines = [f"{kind} {name}: {event.event}"]
    if transition is not None:
        payload = event.payload or EventPayload()
        before = (payload.initial_state.name if payload.initial_state else None) or transition.from_type
        after = transition.name or transition.to_type
        change = f"from {before} to {after}" if before else f"to {after}"
        count = f" (run count {transition.run_count})" if transition.run_count is not None else ""
        lines = [f"{kind} {name} went {change}{count}."]
    message = event.resource.get("prefect.state-message")
    if message:
        lines.append(message.replace("%%%", "% % %")[:MOST_MESSAGE_CHARACTERS])
    links = _links(event, ui_url)
    if links:
        lines.append(" | ".join(links))
    # `one_line` would replace the line breaks of a message.
    text = "\n".join(one_line(line.replace("\t", " ")) for line in "\n\n".join(lines).split("\n"))
    return f"%%% \n{text}\n %%%"


def _links(event: Event, ui_url: str) -> list[str]:
    """Links to the event's own resource and to its flow run, in Markdown."""
    resources = [resource_kind_and_id(event.resource.get("prefect.resource.id"))]
    if "flow-run" in (roles := related_by_role(event.related)):
        resources.append(("flow-run", roles["flow-run"][0]))
    return [
        f"[{found[0]} in Prefect]({ui_url}/{UI_PATHS[found[0]]}/{found[1]})"
        for found in resources
        if found and found[0] in UI_PATHS
    ]


def _event_tags(event: Event, transition: Transition | None) -> Tags:
    resource = event.resource
    resource_id = resource.get("prefect.resource.id")
    kind, identity = resource_kind_and_id(resource_id) or (None, resource_id)
    tags = tag_set(resource_kind=kind, resource_id=identity, resource_name=resource.get("prefect.resource.name"))
    if transition is not None:
        intended = (event.payload.intended if event.payload else None) or {}
        tags += tag_set(
            state_type=transition.to_type,
            initial_state_type=transition.from_type,
            intended_state_type=intended.get("to"),
        )
    for related in event.related:
        for role, (identity, name) in related_by_role([related]).items():
            key = NOT_IN_KEYS.sub("_", role)[:MOST_KEY_CHARACTERS]
            tags += tag_set(**{f"{key}_id": identity, f"{key}_name": name})
    return tags
