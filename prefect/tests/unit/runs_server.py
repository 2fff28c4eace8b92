"""A Prefect server in memory that has flow runs, task runs and their events, in the place of `PrefectApi`.

It keeps the books on its runs as Prefect does: the server those of flow runs (`prefect.server.orchestration`), the
flow's own process those of task runs (`prefect.task_engine`). A run shows each change at once, its event when it is
told to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from datadog_checks.prefect.api.errors import OutOfTime
from datadog_checks.prefect.api.models import TERMINAL, Deployment, Event, EventPage, Flow, FlowRun, State, TaskRun
from datadog_checks.prefect.api.prefect import PrefectApi

from .builders import T0, InCheckRuns, related, state_change

BUDGET_SECONDS = 15.0
# What a request takes, so that no two of them see the server at the same moment.
REQUEST_TAKES = timedelta(milliseconds=20)
INSTANT = timedelta(microseconds=1)
# Fewer than the real server gives, so that a few events fill several pages.
EVENTS_IN_A_PAGE = 4
RUNS_IN_A_PAGE = 3
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

    def event(self, **about_it: Any) -> Event:
        """The event of the state that was entered last."""
        last = self.states[-2] if len(self.states) > 1 else None
        return state_change(
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


def _ended(run: Run, since: datetime) -> bool:
    return run.end_time is not None and run.end_time >= since


def _is_due(run: Run, by: datetime) -> bool:
    return run.state.type == "SCHEDULED" and run.expected_start <= by


@dataclass(eq=False)
class LiveFlowRun(Run):
    deployment: Deployment | None = None
    is_resuming: bool = False

    @property
    def flow(self) -> Flow:
        """A flow of its own, so that the tags say which run was counted."""
        return Flow(id=f"flow-of-{self.id}", name=f"Flow of {self.id}")

    def enter(self, kind: str, name: str, at: datetime, event_id: str) -> Event:
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

    def enter(self, kind: str, name: str, at: datetime, event_id: str) -> Event:
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


class RunsServer(InCheckRuns, PrefectApi):
    """The methods that the counting calls; the others of `PrefectApi` have no client here, and fail.

    `clock` is the server's, `left` what is left of the check run's time. `before_answer` is called with the number of
    the request in its check run.
    """

    def __init__(self) -> None:
        self.clock = T0
        self.left = BUDGET_SECONDS
        self.before_answer: Callable[[int], None] = lambda number: None
        self.flow_runs_made: dict[str, LiveFlowRun] = {}
        self.task_runs_made: dict[str, LiveTaskRun] = {}
        self._requests = 0
        self._visible: dict[str, Event] = {}
        self._queries: list[tuple[Mapping[str, Any], datetime, datetime]] = []

    def show(self, event: Event) -> None:
        """The event becomes visible."""
        self._visible[event.id] = event

    def shows(self, event: Event) -> bool:
        return event.id in self._visible

    def begin_check_run(self) -> None:
        self.next_run()
        self.left = BUDGET_SECONDS
        self.before_answer = lambda number: None
        self._requests = 0
        self._queries.clear()

    def _request(self) -> None:
        self.clock += REQUEST_TAKES
        self._requests += 1
        self.before_answer(self._requests)
        if self.left <= 0:
            raise OutOfTime("POST /somewhere", BUDGET_SECONDS)

    # What collectors call

    def now(self) -> datetime:
        return self.clock

    def seconds_left(self) -> float:
        return self.left

    def events(self, criteria: Mapping[str, Any], since: datetime, until: datetime, limit: int) -> EventPage:
        self._request()
        self._queries.append((criteria, since, until))
        total = len(self._matching(*self._queries[-1]))
        return self._event_page(len(self._queries) - 1, total, 0, min(limit, EVENTS_IN_A_PAGE))

    def next_events(self, page: EventPage) -> EventPage | None:
        if page.next_page is None:
            return None
        self._request()
        query, total, offset = map(int, page.next_page.split())
        return self._event_page(query, total, offset, EVENTS_IN_A_PAGE)

    def _event_page(self, query: int, total: int, offset: int, limit: int) -> EventPage:
        """As on the server: the total is that of the first page, and pages are offsets, which new events shift."""
        found = self._matching(*self._queries[query])[offset : offset + limit]
        following = f"{query} {total} {offset + limit}" if offset + limit < total else None
        return EventPage(events=found, total=total, next_page=following)

    def _matching(self, criteria: Mapping[str, Any], since: datetime, until: datetime) -> list[Event]:
        """The newest first."""
        names = criteria.get("event", {})
        prefixes, excluded = tuple(names.get("prefix", ("",))), names.get("exclude_name", ())
        resources = criteria.get("resource", {}).get("id")
        found = [
            event
            for event in self._visible.values()
            if since <= event.occurred <= until
            and event.event.startswith(prefixes)
            and event.event not in excluded
            and (resources is None or event.resource["prefect.resource.id"] in resources)
        ]
        return sorted(found, key=lambda event: (event.occurred, event.id), reverse=True)

    def flow_runs_in_sight(
        self, types: Collection[str], names: Collection[str], due_by: datetime, ended_since: datetime | None
    ) -> list[FlowRun] | None:
        found = self._those(
            lambda run: (
                run.state.type in types
                or run.state.name in names
                or _is_due(run, due_by)
                or (ended_since is not None and _ended(run, ended_since))
            )
        )
        return found if len(found) < RUNS_IN_A_PAGE else None

    def due_flow_runs(self, by: datetime) -> list[FlowRun]:
        return self._those(lambda run: _is_due(run, by))

    def flow_runs_named(self, names: Collection[str]) -> list[FlowRun]:
        return self._those(lambda run: run.state.name in names)

    def active_flow_runs(self, types: Collection[str]) -> list[FlowRun]:
        return self._those(lambda run: run.state.type in types)

    def ended_flow_runs(self, since: datetime) -> list[FlowRun]:
        return self._those(lambda run: _ended(run, since))

    def _those(self, matches: Callable[[LiveFlowRun], bool]) -> list[FlowRun]:
        self._request()
        return [run.as_object() for run in self.flow_runs_made.values() if matches(run)]

    def flow_runs_by_id(self, ids: Collection[str]) -> Iterator[FlowRun]:
        if ids:
            self._request()
        return iter([self.flow_runs_made[identity].as_object() for identity in ids])

    def flow_run_history(self, run_id: str) -> list[State]:
        self._request()
        return sorted(self.flow_runs_made[run_id].states, key=lambda state: state.timestamp)

    def unfinished_task_runs(
        self, types: Collection[str], since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[list[TaskRun]]:
        assert since is until is None, "there are never more than a page"
        yield self._task_runs(lambda run: run.state.type in types)

    def ended_task_runs(self, since: datetime) -> list[TaskRun]:
        return self._task_runs(lambda run: _ended(run, since))

    def count_ended_task_runs(self, since: datetime, until: datetime) -> int:
        return len(self._task_runs(lambda run: _ended(run, since) and not _ended(run, until + INSTANT)))

    def task_runs_that_never_ran(self, types: Collection[str], created_since: datetime) -> list[TaskRun]:
        return self._task_runs(
            lambda run: run.state.type in types and run.end_time is None and run.expected_start >= created_since
        )

    def _task_runs(self, matches: Callable[[LiveTaskRun], bool]) -> list[TaskRun]:
        self._request()
        return [run.as_object() for run in self.task_runs_made.values() if matches(run)]

    def task_run_history(self, run_id: str) -> list[State]:
        self._request()
        return sorted(self.task_runs_made[run_id].states, key=lambda state: state.timestamp)

    def task_runs_by_id(self, ids: Collection[str]) -> Iterator[TaskRun]:
        if ids:
            self._request()
        return iter([self.task_runs_made[identity].as_object() for identity in ids])

    def flows_by_id(self, ids: Collection[str]) -> Iterator[Flow]:
        self._request()
        flows = {run.flow.id: run.flow for run in self.flow_runs_made.values()}
        return iter([flows[identity] for identity in ids])

    def deployments_by_id(self, ids: Collection[str]) -> Iterator[Deployment]:
        self._request()
        assert set(ids) == {DEPLOYMENT.id}
        return iter([DEPLOYMENT])
