"""Flow runs and task runs that go on, and a server in memory that has them.

The books on them are kept as Prefect does it: by the server those of flow runs (`prefect.server.orchestration`), by the
flow's own process those of task runs (`prefect.task_engine`). A run shows each change at once, its event when it is
told to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from datadog_checks.prefect.api.models import TERMINAL, Deployment, Flow, FlowRun, State, TaskRun

from .builders import Json, related, state_change_json
from .fake_server import INSTANT, FakeServer, Item

DEPLOYMENT = Deployment(id="d1", name="nightly")


@dataclass(eq=False)
class Run:
    """What flow runs and task runs have in common; `states` are in the order in which they were entered."""

    id: str
    expected_start: datetime
    states: list[State] = field(default_factory=list)
    run_count: int = 0
    start_time: datetime | None = None
    end_time: datetime | None = None
    total_run_time: float = 0.0

    @property
    def state(self) -> State:
        return self.states[-1]

    @property
    def has_ended(self) -> bool:
        return self.state.type in TERMINAL

    def add(self, state: State) -> State | None:
        """Add a state and the time that was spent in the last one, which is returned."""
        last = self.states[-1] if self.states else None
        if last is not None and last.type == "RUNNING":
            self.total_run_time += (state.timestamp - last.timestamp).total_seconds()
        self.states.append(state)
        return last

    def event(self, **about_it: Any) -> Json:
        """The event of the state that was entered last."""
        last = self.states[-2] if len(self.states) > 1 else None
        return state_change_json(
            self.state.name or "",
            self.state.type,
            self.state.timestamp,
            from_type=last.type if last else None,
            from_name=last.name if last else None,
            run_count=self.run_count,
            run_id=self.id,
            event_id=self.state.id,
            **about_it,
        )


@dataclass(eq=False)
class LiveFlowRun(Run):
    deployment: Deployment | None = None
    is_resuming: bool = False

    @cached_property
    def flow(self) -> Flow:
        """A flow of its own, so that the tags say which run was counted."""
        return Flow(id=f"flow-of-{self.id}", name=f"Flow of {self.id}")

    def enter(self, kind: str, name: str, at: datetime, event_id: str) -> Json:
        last = self.add(State(id=event_id, type=kind, name=name, timestamp=at))
        if last is not None and last.type == "PAUSED" and kind in ("RUNNING", "SCHEDULED"):
            self.is_resuming = True
        if kind == "RUNNING":
            self.start_time = self.start_time or at
            self.run_count += not self.is_resuming
        if kind in TERMINAL:
            self.start_time = self.start_time or at
            self.end_time = self.end_time or at
        else:
            self.end_time = None
        if kind == "RUNNING" or kind in TERMINAL:
            self.is_resuming = False
        roles = [related("flow", self.flow.id, self.flow.name)]
        if self.deployment is not None:
            roles.append(related("deployment", self.deployment.id, self.deployment.name))
        return self.event(related_to=roles)

    def as_object(self) -> FlowRun:
        return FlowRun.model_validate(
            {
                "id": self.id,
                "flow_id": self.flow.id,
                "deployment_id": self.deployment.id if self.deployment else None,
                "state_type": self.state.type,
                "state_name": self.state.name,
                "state": {"timestamp": self.state.timestamp},
                "run_count": self.run_count,
                "expected_start_time": self.expected_start,
                "next_scheduled_start_time": self.expected_start if self.state.type == "SCHEDULED" else None,
                "start_time": self.start_time,
                "end_time": self.end_time,
                "total_run_time": self.total_run_time,
            }
        )


@dataclass(eq=False)
class LiveTaskRun(Run):
    """`ahead` is how far the clock of its worker is ahead of the true time.

    Where that clock ticks coarsely, as on Windows, a run may start in the same tick in which it was created. Then the
    state RUNNING is put a microsecond after the start time, so that no two states share a time.
    """

    flow_run: LiveFlowRun = field(kw_only=True)
    ahead: timedelta = field(kw_only=True)
    upstream: tuple[LiveTaskRun, ...] = ()

    @property
    def key(self) -> str:
        return f"key_of_{self.id}-8c2f0a1b"

    def enter(self, kind: str, name: str, at: datetime, event_id: str) -> Json:
        last = self.add(State(id=event_id, type=kind, name=name, timestamp=at))
        if kind == "RUNNING":
            in_same_tick = last is not None and at - last.timestamp == INSTANT
            self.start_time = self.start_time or (at - INSTANT if in_same_tick else at)
            self.run_count += 1
        if kind in TERMINAL and self.start_time is not None:
            self.end_time = self.end_time or at
        return self.event(kind="task-run", task_run=self._payload(), related_to=[related("flow-run", self.flow_run.id)])

    def _payload(self) -> dict[str, Any]:
        return {
            "task_key": self.key,
            "dynamic_key": f"dynamic key of {self.id}",
            "run_count": self.run_count,
            "expected_start_time": self.expected_start,
            "total_run_time": self.total_run_time,
            "task_inputs": {"data": [{"input_type": "task_run", "id": task.id} for task in self.upstream]},
        }

    def as_object(self) -> TaskRun:
        return TaskRun.model_validate(
            {
                **self._payload(),
                "id": self.id,
                "flow_run_id": self.flow_run.id,
                "state_type": self.state.type,
                "state_name": self.state.name,
                "state": {"timestamp": self.state.timestamp},
                "start_time": self.start_time,
                "end_time": self.end_time,
            }
        )


class RunsServer(FakeServer):
    """A server with such runs. Its pages are small, so that a few fill several."""

    events_in_a_page = 4
    flow_runs_in_a_page = 3
    # So that no two requests see the server at the same moment.
    clock_a_request = timedelta(milliseconds=20)

    def __init__(self) -> None:
        super().__init__()
        self.deployments_made[DEPLOYMENT.id] = DEPLOYMENT

    def write_down(self, run: LiveFlowRun | LiveTaskRun) -> None:
        """Keep what the run has become."""
        self.histories[run.id] = sorted(run.states, key=lambda state: state.timestamp)
        if isinstance(run, LiveTaskRun):
            self.task_runs[run.id] = run.as_object()
        else:
            self.flow_runs[run.id] = run.as_object()
            self.flows[run.flow.id] = run.flow

    def _by_id(self, kind: str, table: Mapping[str, Item], ids: Collection[str]) -> Iterator[Item]:
        assert table.keys() >= set(ids), "nothing that is here is ever deleted"
        return super()._by_id(kind, table, ids)
