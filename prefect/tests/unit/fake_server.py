"""A Prefect server in memory, in the place of `PrefectApi`.

It filters, sorts and pages as the server does. Objects are given as models. Events are given as JSON, to `PrefectApi`'s
own methods: the server takes the place of their client, too.
"""

from __future__ import annotations

import base64
import json
import operator
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from datadog_checks.prefect.api.check_run import CheckRun
from datadog_checks.prefect.api.clock import ServerClock
from datadog_checks.prefect.api.errors import OutOfTime
from datadog_checks.prefect.api.models import (
    EARLIEST,
    LATEST,
    Deployment,
    Flow,
    FlowRun,
    State,
    TaskRun,
    WorkPool,
    WorkQueue,
)
from datadog_checks.prefect.api.paging import Page
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.api.time_budget import TimeBudget

from .builders import T0

BUDGET_SECONDS = 15.0
INSTANT = timedelta(microseconds=1)
Item = TypeVar("Item")


class InCheckRuns:
    """What stands in for `PrefectApi`, or for its client, in one check run after the other."""

    _run: CheckRun | None = None

    @property
    def run(self) -> CheckRun:
        """The check run that is under way; the first begins by itself."""
        if self._run is None:
            self.next_run()
        assert self._run is not None
        return self._run

    def next_run(self) -> None:
        """The next one begins."""
        self._run = CheckRun(TimeBudget(BUDGET_SECONDS, {}), ServerClock(), before=self._run)


class VisibleEvent(NamedTuple):
    """An event and its JSON; they are sorted by time."""

    occurred: datetime
    id: str
    name: str
    resource_id: str
    text: str


class FakeServer(InCheckRuns, PrefectApi):
    """What a test does not make is not there. Methods that are not here need a network, and fail.

    `clock` is the server's, and `left` what is left of the check run's time. `requests` tells what was asked for in
    this check run, and from which offset on. `before_answer` is called with the number of each request, and may change
    the server or raise an error.
    """

    events_in_a_page = 50
    flow_runs_in_a_page = 200
    task_runs_in_a_page = 200
    # What a request takes of the check run's time, and by how much the clock has moved when it is answered.
    seconds_a_request = 0.0
    clock_a_request = timedelta()

    def __init__(self) -> None:
        super().__init__(self)  # type: ignore[arg-type]
        self.clock = T0
        self.requests: list[tuple[str, int]] = []
        self.flow_runs: dict[str, FlowRun] = {}
        self.task_runs: dict[str, TaskRun] = {}
        self.histories: dict[str, list[State]] = {}
        self.flows: dict[str, Flow] = {}
        # The last created last.
        self.deployments_made: dict[str, Deployment] = {}
        self.queue_names: dict[str, str] = {}
        self._events: list[VisibleEvent] = []
        self._events_by_id: dict[str, VisibleEvent] = {}
        self.next_run()

    # Time and requests

    def next_run(self) -> None:
        super().next_run()
        self.left = BUDGET_SECONDS
        self.requests.clear()
        self.before_answer: Callable[[int], None] = lambda number: None

    def now(self) -> datetime:
        return self.clock

    def seconds_left(self) -> float:
        return self.left

    def asked_for(self, kind: str) -> int:
        """How many requests were of this kind."""
        return sum(asked == kind for asked, _ in self.requests)

    def request(self, kind: str, offset: int = 0) -> None:
        """Each method that would ask a real server begins with it."""
        self.clock += self.clock_a_request
        self.requests.append((kind, offset))
        self.before_answer(len(self.requests))
        if self.left <= 0:
            raise OutOfTime("POST /somewhere", BUDGET_SECONDS)
        self.left -= self.seconds_a_request

    def _where(self, kind: str, table: Mapping[str, Item], matches: Callable[[Item], bool]) -> list[Item]:
        self.request(kind)
        return [item for item in table.values() if matches(item)]

    def _by_id(self, kind: str, table: Mapping[str, Item], ids: Collection[str]) -> Iterator[Item]:
        if ids:
            self.request(kind)
        return iter([table[identity] for identity in ids if identity in table])

    def _paged(
        self, kind: str, size: int, found: Callable[[], list[Item]], place: Callable[[Item], Any], descending: bool
    ) -> Iterator[list[Item]]:
        """Each page is what is `found` when it is asked for, from the place on where the last one ended."""
        last, follows = None, operator.lt if descending else operator.gt
        while True:
            self.request(kind)
            rest = [item for item in found() if last is None or follows(place(item), last)]
            page = sorted(rest, key=place, reverse=descending)[:size]
            yield page
            if len(page) < size:
                return
            last = place(page[-1])

    # Events

    def show(self, event: Mapping[str, Any]) -> None:
        """The event becomes visible, or changes; `occurred` is a datetime or its text."""
        text = json.dumps(event, default=str)
        occurred, resource_id = str(event["occurred"]), event.get("resource", {}).get("prefect.resource.id") or ""
        visible = VisibleEvent(datetime.fromisoformat(occurred), event["id"], event["event"], resource_id, text)
        self.hide(visible.id)
        self._events_by_id[visible.id] = visible
        insort(self._events, visible)

    def hide(self, identity: str) -> None:
        if identity in self._events_by_id:
            self._events.remove(self._events_by_id.pop(identity))

    def shows(self, identity: str) -> bool:
        return identity in self._events_by_id

    def post(self, path: str, parse: Callable[[bytes], Any], body: Mapping[str, Any]) -> Any:
        """What `PrefectApi` uses of its client to read the first page."""
        assert path == "/events/filter"
        assert body["filter"]["order"] == "DESC"
        assert 0 <= body["limit"] <= 50
        return self._event_page("total" if body["limit"] == 0 else "first", parse, body["filter"], body["limit"])

    def get(self, path: str, parse: Callable[[bytes], Any], params: Mapping[str, str]) -> Any:
        """What it uses to read the next one."""
        assert path == "/events/filter/next"
        return self._event_page("next", parse, **json.loads(base64.b64decode(params["page-token"])))

    def _event_page(
        self,
        kind: str,
        parse: Callable[[bytes], Any],
        criteria: Mapping[str, Any],
        limit: int,
        offset: int = 0,
        total: int | None = None,
    ) -> Any:
        """The newest come first.

        As on the server: the total is that of the first page, which has `limit: 0` for the total alone, and pages are
        offsets, which new events shift.
        """
        self.request(kind, offset)
        limit = min(limit, self.events_in_a_page)
        found = self._matching(criteria)
        total = len(found) if total is None else total
        link = None
        if offset + limit < total or limit == 0:
            token = {"criteria": criteria, "limit": limit, "offset": offset + limit, "total": total}
            packed = quote(base64.b64encode(json.dumps(token).encode()).decode(), safe="")
            link = f"https://elsewhere.test/events/filter/next?page-token={packed}"
        texts = ",".join(event.text for event in found[::-1][offset : offset + limit])
        return parse(f'{{"events": [{texts}], "total": {total}, "next_page": {json.dumps(link)}}}'.encode())

    def _matching(self, criteria: Mapping[str, Any]) -> list[VisibleEvent]:
        """Also what `exclude_prefix` leaves out, which the check has to count nowhere all the same."""
        since, until = (datetime.fromisoformat(criteria["occurred"][end]) for end in ("since", "until"))
        names, resources = criteria.get("event", {}), criteria.get("resource", {}).get("id")
        prefixes, wanted, excluded = tuple(names.get("prefix", ("",))), names.get("name"), names.get("exclude_name", ())
        return [
            event
            for event in self._events[
                bisect_left(self._events, (since,)) : bisect_left(self._events, (until + INSTANT,))
            ]
            if event.name.startswith(prefixes)
            and (wanted is None or event.name in wanted)
            and event.name not in excluded
            and (resources is None or event.resource_id in resources)
        ]

    # Flow runs

    def flow_runs_in_sight(
        self, types: Collection[str], names: Collection[str], due_by: datetime, ended_since: datetime | None
    ) -> list[FlowRun] | None:
        found = self._where(
            "flow runs",
            self.flow_runs,
            lambda run: (
                run.state_type in types
                or run.state_name in names
                or _is_due(run, due_by)
                or (ended_since is not None and _has_ended(run, ended_since))
            ),
        )
        return found if len(found) < self.flow_runs_in_a_page else None

    def due_flow_runs(self, by: datetime) -> list[FlowRun]:
        return self._where("flow runs", self.flow_runs, lambda run: _is_due(run, by))

    def flow_runs_named(self, names: Collection[str]) -> list[FlowRun]:
        return self._where("flow runs", self.flow_runs, lambda run: run.state_name in names)

    def active_flow_runs(self, types: Collection[str]) -> list[FlowRun]:
        return self._where("flow runs", self.flow_runs, lambda run: run.state_type in types)

    def ended_flow_runs(self, since: datetime) -> list[FlowRun]:
        return self._where("flow runs", self.flow_runs, lambda run: _has_ended(run, since))

    def planned_flow_runs(self, deployment_ids: Collection[str] | None, after: datetime) -> Iterator[list[FlowRun]]:
        found = partial(self._planned_of, deployment_ids, after)
        return self._paged("flow runs", self.flow_runs_in_a_page, found, _start, descending=False)

    def count_planned(self, after: datetime) -> int:
        self.request("total")
        return sum(_is_planned(run, after) for run in self.flow_runs.values())

    def count_planned_of(self, deployment_ids: Collection[str] | None, after: datetime) -> int:
        self.request("total")
        return len(self._planned_of(deployment_ids, after))

    def _planned_of(self, deployment_ids: Collection[str] | None, after: datetime) -> list[FlowRun]:
        wanted = {None} if deployment_ids is None else set(deployment_ids)
        return [run for run in self.flow_runs.values() if run.deployment_id in wanted and _is_planned(run, after)]

    def flow_runs_by_id(self, ids: Collection[str]) -> Iterator[FlowRun]:
        return self._by_id("flow runs", self.flow_runs, ids)

    def flow_run_history(self, run_id: str) -> list[State]:
        self.request("history")
        return self.histories[run_id]

    # Task runs

    def unfinished_task_runs(
        self, types: Collection[str], since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[list[TaskRun]]:
        found = partial(self._unfinished_runs, types, since, until)
        return self._paged("task runs", self.task_runs_in_a_page, found, _created, descending=True)

    def count_unfinished(self, types: Collection[str], since: datetime | None, until: datetime) -> int:
        self.request("total")
        return len(self._unfinished_runs(types, since, until))

    def _unfinished_runs(self, types: Collection[str], since: datetime | None, until: datetime | None) -> list[TaskRun]:
        first, last = since or EARLIEST, until or LATEST
        return [
            run
            for run in self.task_runs.values()
            if run.state_type in types and run.expected_start_time and first <= run.expected_start_time <= last
        ]

    def ended_task_runs(self, since: datetime) -> list[TaskRun]:
        return self._where("task runs", self.task_runs, lambda run: _has_ended(run, since))

    def count_ended_task_runs(self, since: datetime, until: datetime) -> int:
        self.request("total")
        return sum(_has_ended(run, since) and not _has_ended(run, until + INSTANT) for run in self.task_runs.values())

    def task_runs_that_never_ran(self, types: Collection[str], created_since: datetime) -> list[TaskRun]:
        return self._where(
            "task runs",
            self.task_runs,
            lambda run: run.state_type in types and run.end_time is None and _created(run)[0] >= created_since,
        )

    def task_runs_by_id(self, ids: Collection[str]) -> Iterator[TaskRun]:
        return self._by_id("task runs", self.task_runs, ids)

    def task_run_history(self, run_id: str) -> list[State]:
        return self.flow_run_history(run_id)

    # What runs belong to

    def flows_by_id(self, ids: Collection[str]) -> Iterator[Flow]:
        return self._by_id("flows", self.flows, ids)

    def deployments(self, sort: str, offset: int, at_most: int) -> Page[Deployment]:
        self.request("deployments", offset)
        found = list(self.deployments_made.values())[::-1]
        if sort == "UPDATED_DESC":
            found.sort(key=lambda deployment: deployment.updated or T0, reverse=True)
        page = found[offset : offset + at_most]
        return Page(page, len(page), at_most)

    def count_deployments(self, ids: Collection[str] | None = None) -> int:
        self.request("total")
        return len(self.deployments_made if ids is None else self.deployments_made.keys() & set(ids))

    def deployments_by_id(self, ids: Collection[str]) -> Iterator[Deployment]:
        return self._by_id("deployments", self.deployments_made, ids)

    def work_pools(self) -> list[WorkPool]:
        self.request("work pools")
        return []

    def work_queues(self) -> list[WorkQueue]:
        self.request("work queues")
        return [WorkQueue(id=identity, name=name) for identity, name in self.queue_names.items()]

    def work_queues_by_id(self, ids: Collection[str]) -> list[WorkQueue]:
        self.request("work queues by id")
        return [WorkQueue(id=identity, name=self.queue_names[identity]) for identity in self.queue_names.keys() & ids]


def _is_due(run: FlowRun, by: datetime) -> bool:
    return run.next_scheduled_start_time is not None and run.next_scheduled_start_time <= by


def _is_planned(run: FlowRun, after: datetime) -> bool:
    return run.next_scheduled_start_time is not None and run.next_scheduled_start_time >= after


def _has_ended(run: FlowRun | TaskRun, since: datetime) -> bool:
    return run.end_time is not None and run.end_time >= since


def _start(run: FlowRun) -> tuple[datetime | None, str]:
    return run.next_scheduled_start_time, run.id


def _created(run: TaskRun) -> tuple[datetime, str]:
    return run.expected_start_time, run.id  # type: ignore[return-value]
