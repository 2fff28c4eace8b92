"""Task runs as flow processes report them: by events alone, from which the server writes the task run."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from .prefect_api import TERMINAL_TYPES, Json, PrefectApi, iso
from .version import reason_to_skip


class ClientTaskRun:
    """A task run of Prefect's task engine, reported but not executed.

    Each `enter` sends the event that the engine's `emit_task_run_state_change_event` sends for that state, with the
    same bookkeeping: run count, start, end and total run time. `upstream` are ids of the task runs that it waits for.
    """

    def __init__(
        self,
        api: PrefectApi,
        task: str,
        flow_run_id: str | None = None,
        upstream: Sequence[str] = (),
        task_inputs: Json | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        self._api = api
        self._related = _related_resources(api, flow_run_id)
        self._flow_run_id = flow_run_id
        self._tags = sorted(tags)
        self._state: Json | None = None
        self._entered: datetime | None = None
        self._last_event_id: str | None = None
        self._total_run_time = timedelta()
        dynamic_key = str(uuid.uuid4())
        self.id = uuid7()
        self.name = f"{task}-{dynamic_key[:3]}"
        self.task_key = f"{task}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"
        inputs = {"upstream": [{"input_type": "task_run", "id": upstream_id} for upstream_id in upstream]}
        self._task_run: Json = {
            "name": self.name,
            "task_key": self.task_key,
            "dynamic_key": dynamic_key,
            "empirical_policy": {"max_retries": 0, "retry_delay_seconds": 0.0, "retries": 0, "retry_delay": 0},
            "tags": self._tags,
            "labels": {},
            "task_inputs": (inputs if upstream else {}) | (task_inputs or {}),
            "run_count": 0,
            "flow_run_run_count": 0,
        }

    def enter(
        self, state_type: str, name: str | None = None, message: str = "", at: datetime | None = None, **details: Any
    ) -> str:
        """Enter a state at a moment of the task's own clock (now) and send the event; returns the event's id."""
        event = self.prepare(state_type, name, message, at, **details)
        self._api.post_events([event])
        return str(event["id"])

    def prepare(
        self, state_type: str, name: str | None = None, message: str = "", at: datetime | None = None, **details: Any
    ) -> Json:
        """Enter a state as `enter` does, but leave sending the event, e.g. late or twice, to the caller."""
        moment = at or datetime.now(UTC)
        self._book(state_type, moment)
        details = {key: iso(value) if isinstance(value, datetime) else value for key, value in details.items()}
        state = {
            "type": state_type,
            "name": name or state_type.capitalize(),
            "message": message,
            "state_details": details,
        }
        event = self._event(state, moment)
        self._state, self._entered, self._last_event_id = state, moment, event["id"]
        return event

    def _book(self, state_type: str, moment: datetime) -> None:
        task_run = self._task_run
        task_run.setdefault("expected_start_time", iso(moment))
        if self._state is not None and self._state["type"] == "RUNNING" and self._entered is not None:
            self._total_run_time += moment - self._entered
        if state_type == "RUNNING":
            task_run["run_count"] += 1
            task_run.setdefault("start_time", iso(moment))
            if self._flow_run_id:
                task_run["flow_run_run_count"] = self._api.flow_run(self._flow_run_id)["run_count"]
        if state_type in TERMINAL_TYPES and "start_time" in task_run:
            task_run.setdefault("end_time", iso(moment))
        task_run["total_run_time"] = self._total_run_time.total_seconds()

    def _event(self, state: Json, moment: datetime) -> Json:
        initial = self._state
        # As clients of the server's version do.
        tells_count = reason_to_skip("run counts in events") is None
        return {
            "id": uuid7(),
            "occurred": iso(moment),
            "event": f"prefect.task-run.{state['name']}",
            "resource": {
                "prefect.resource.id": f"prefect.task-run.{self.id}",
                "prefect.resource.name": self.name,
                **({"prefect.run-count": str(self._task_run["run_count"])} if tells_count else {}),
                "prefect.state-message": state["message"],
                "prefect.state-name": state["name"],
                "prefect.state-timestamp": moment.astimezone(UTC).isoformat(),
                "prefect.state-type": state["type"],
                "prefect.orchestration": "client",
            },
            "related": [_tag(tag) for tag in self._tags] + self._related,
            "payload": {
                "intended": {"from": initial["type"] if initial else None, "to": state["type"]},
                "initial_state": initial,
                "validated_state": {**state, "data": None},
                "task_run": dict(self._task_run),
            },
            "follows": self._last_event_id,
        }


def _related_resources(api: PrefectApi, flow_run_id: str | None) -> list[Json]:
    """What the client attaches: the flow run, its flow, and as far as it has them deployment, queue and pool."""
    if flow_run_id is None:
        return []
    run = api.flow_run(flow_run_id)
    related = [_related("flow-run", run), _related("flow", api.get(f"flows/{run['flow_id']}"))]
    if run["deployment_id"]:
        related.append(_related("deployment", api.deployment(run["deployment_id"])))
    if run["work_queue_id"]:
        related.append(_related("work-queue", api.get(f"work_queues/{run['work_queue_id']}")))
    if run["work_pool_name"]:
        pool = api.work_pool(run["work_pool_name"])
        related.append(_related("work-pool", pool) | {"prefect.work-pool.type": pool["type"]})
    return related + [_tag(tag) for tag in sorted(run["tags"])]


def _related(kind: str, thing: Json) -> Json:
    return {
        "prefect.resource.id": f"prefect.{kind}.{thing['id']}",
        "prefect.resource.role": kind,
        "prefect.resource.name": thing["name"],
    }


def _tag(tag: str) -> Json:
    return {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}


def uuid7() -> str:
    """A UUID that sorts by the time of its making, as Prefect gives to task runs, states and events."""
    random = int.from_bytes(os.urandom(10), "big")
    number = (time.time_ns() // 1_000_000) << 80 | random
    number = number & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=number & ~(0x3 << 62) | 0x2 << 62))
