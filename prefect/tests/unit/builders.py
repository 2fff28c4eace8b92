"""Prefect's objects as its API answers with them, each with no more than a test says of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from datadog_checks.prefect.api.models import Event, FlowRun, State
from datadog_checks.prefect.counting.transitions import Transition, transition_of

T0 = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)
Json = dict[str, Any]
RUN_ID = "6f4d5f3e-1f0e-4d0c-9d59-3a1f6a0f4c11"


def after(seconds: float) -> datetime:
    """A moment so many seconds after `T0`."""
    return T0 + timedelta(seconds=seconds)


def related(role: str, identity: str, name: str | None = None) -> dict[str, str | None]:
    resource: dict[str, str | None] = {
        "prefect.resource.id": f"prefect.{role}.{identity}",
        "prefect.resource.role": role,
    }
    return resource if name is None else {**resource, "prefect.resource.name": name}


def state_change_json(
    name: str | None,
    to_type: str,
    at: datetime,
    *,
    from_type: str | None = "PENDING",
    from_name: str | None = None,
    run_count: int | None = 1,
    kind: str = "flow-run",
    run_id: str = RUN_ID,
    run_name: str = "brave-fox",
    message: str | None = None,
    task_run: Mapping[str, Any] | None = None,
    related_to: list[dict[str, str | None]] | None = None,
    event_id: str | None = None,
) -> Json:
    """The event that Prefect sends when a run changes its state."""
    resource = {
        "prefect.resource.id": f"prefect.{kind}.{run_id}",
        "prefect.resource.name": run_name,
        "prefect.state-name": name,
        "prefect.state-type": to_type,
        "prefect.state-message": message,
        "prefect.run-count": None if run_count is None else str(run_count),
    }
    return {
        "id": event_id or f"{run_id} {at.isoformat()}",
        "event": f"prefect.{kind}.{name}",
        "occurred": at,
        "resource": resource,
        "related": related_to or [],
        "payload": {
            "intended": {"from": from_type, "to": to_type},
            "initial_state": {"type": from_type, "name": from_name} if from_type else None,
            "validated_state": {"type": to_type, "name": name},
            "task_run": task_run,
        },
    }


def state_change(name: str | None, to_type: str, at: datetime, **more: Any) -> Event:
    """The same as the check reads it."""
    return Event.model_validate(state_change_json(name, to_type, at, **more))


def transition(name: str | None, to_type: str, at: datetime, **more: Any) -> Transition:
    """What `transition_of` makes of that event."""
    change = transition_of(state_change(name, to_type, at, **more))
    assert change is not None
    return change


def flow_run(**fields: Any) -> FlowRun:
    return FlowRun.model_validate({"id": RUN_ID, **fields})


def states(*entries: tuple[float, str] | tuple[float, str, str]) -> list[State]:
    """A history: for each state the seconds since `T0`, its type, and its name where that is not the usual one."""
    return [
        State(id=f"state {number}", type=entry[1], name=entry[-1], timestamp=after(entry[0]))
        for number, entry in enumerate(entries)
    ]
