"""The part of Prefect's REST API that the check reads, one method per endpoint. All methods raise `ApiError`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

from .answers import read_event_page, read_objects
from .check_run import CheckRun
from .client import Client
from .errors import NotPrefect, Rejected, RequestFailed, UnexpectedAnswer, UnreadableAnswer
from .models import (
    ConcurrencyLimit,
    Deployment,
    Event,
    EventPage,
    EventQuery,
    Flow,
    FlowRun,
    Oddities,
    State,
    TagConcurrencyLimit,
    TaskRun,
    Worker,
    WorkPool,
    WorkQueue,
    utc_text,
)
from .paging import MOST_OBJECTS, Order, Page, Pager, is_uuid
from .versions import lists_tag_limits_as_global

EVENTS_PAGE_SIZE = 50  # the server's limit
EVENTS_KEPT = timedelta(days=7)
# The most resources in one query for events.
MOST_RESOURCES = 100
# The server takes some 10 ms for each deployment.
DEPLOYMENTS_PAGE_SIZE = 50
INSTANT = timedelta(microseconds=1)
# A response that is a number or a short text is cut to this length: anything longer is neither, and fails to parse.
MOST_SCALAR_BYTES = 1000

# Each filter and order is chosen so that the server's database can use one index, however many runs it has: SQLite
# scans all runs of a state if a query filters by state and by time.
CREATED: Order[FlowRun] = Order("EXPECTED_START_TIME_ASC", "expected_start_time", lambda run: run.expected_start_time)
DUE: Order[FlowRun] = Order(
    "NEXT_SCHEDULED_START_TIME_ASC", "next_scheduled_start_time", lambda run: run.next_scheduled_start_time
)
ENDED: Order[FlowRun] = Order("END_TIME_DESC", "end_time", lambda run: run.end_time, descending=True)
NEWEST_TASK: Order[TaskRun] = Order(
    "EXPECTED_START_TIME_DESC", "expected_start_time", lambda run: run.expected_start_time, descending=True
)
ENDED_TASK: Order[TaskRun] = Order("END_TIME_DESC", "end_time", lambda run: run.end_time, descending=True)
Item = TypeVar("Item")

NO_SUBFLOWS = {"subflow_runs": {"exists_": False}}


class PrefectApi:
    """The server's objects. `run` is the current check run."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pager = Pager(client)
        self._events_at_once = EVENTS_PAGE_SIZE
        # The version as last read; None if it was never read.
        self.known_version: str | None = None

    @property
    def url(self) -> str:
        return self._client.url

    def start_run(self, budget_seconds: float) -> CheckRun:
        """Start a check run, whose requests may take `budget_seconds` in total."""
        return self._client.start_run(budget_seconds)

    @property
    def run(self) -> CheckRun:
        return self._client.run

    @property
    def oddities(self) -> Oddities:
        """What was dropped from the responses of this check run."""
        return self.run.oddities

    def seconds_left(self) -> float:
        """The seconds left of the check run's time, or of the current share of it."""
        return self.run.time.seconds_left()

    def now(self) -> datetime:
        """The current time by the server's clock."""
        return self.run.clock.now()

    def is_healthy(self) -> bool:
        return self._client.get("/health", _read_scalar) is True

    def is_ready(self) -> bool:
        return 200 <= self._client.status_of("/ready").status < 300

    def version(self) -> str:
        """The server's version, such as 3.8.8. Raises `NotPrefect` if something else answers."""
        try:
            version: str = self._client.get("/admin/version", _read_text)
        except Rejected as refusal:
            if refusal.status in (404, 405):
                raise NotPrefect(self.url, f"GET /admin/version returns status {refusal.status}") from None
            raise
        except UnexpectedAnswer:
            raise NotPrefect(self.url, "GET /admin/version returns no version") from None
        self.known_version = version
        return version

    def work_pools(self) -> list[WorkPool]:
        return self._pager.by_offset(WorkPool, "/work_pools/filter", {})

    def workers(self, pool_name: str, alive_since: datetime) -> list[Worker]:
        """The pool's workers with a heartbeat since `alive_since`."""
        path = f"/work_pools/{quote(pool_name, safe='')}/workers/filter"
        criteria = {"last_heartbeat_time": {"after_": utc_text(alive_since)}}
        return self._pager.by_offset(Worker, path, {"workers": criteria})

    def work_queues(self) -> list[WorkQueue]:
        return self._pager.by_offset(WorkQueue, "/work_queues/filter", {})

    def work_queues_by_id(self, ids: Collection[str]) -> list[WorkQueue]:
        return list(self._pager.by_ids(WorkQueue, "/work_queues/filter", "work_queues", ids))

    def concurrency_limits(self) -> list[ConcurrencyLimit]:
        """The global concurrency limits, including those of tags (`tag:…`) and deployments (`deployment:…`)."""
        return self._pager.by_offset(ConcurrencyLimit, "/v2/concurrency_limits/filter", {})

    def tag_concurrency_limits(self) -> list[TagConcurrencyLimit]:
        """The concurrency limits of tags; none if the server lists them among the global ones."""
        if lists_tag_limits_as_global(self.known_version):
            return []
        return self._pager.by_offset(TagConcurrencyLimit, "/concurrency_limits/filter", {})

    def deployments(self, sort: str, offset: int, at_most: int) -> Page[Deployment]:
        """A page of deployments. They are the slowest objects: the server takes some 10 ms for each."""
        return self._pager.page(Deployment, "/deployments/filter", {"sort": sort, "offset": offset}, at_most)

    def count_deployments(self, ids: Collection[str] | None = None) -> int:
        """How many deployments exist, of these ids or in total."""
        criteria = {} if ids is None else {"deployments": {"id": {"any_": sorted(ids)}}}
        return self._count("/deployments/count", criteria)

    def deployments_by_id(self, ids: Collection[str]) -> Iterator[Deployment]:
        """The existing deployments with these ids, read page by page, as in all methods `…_by_id`."""
        return self._pager.by_ids(Deployment, "/deployments/filter", "deployments", ids, DEPLOYMENTS_PAGE_SIZE)

    def flows_by_id(self, ids: Collection[str]) -> Iterator[Flow]:
        return self._pager.by_ids(Flow, "/flows/filter", "flows", ids)

    def active_flow_runs(self, types: Collection[str]) -> list[FlowRun]:
        """The runs in states of these types."""
        return self._flow_runs({"state": {"type": {"any_": sorted(types)}}}, CREATED)

    def flow_runs_named(self, names: Collection[str]) -> list[FlowRun]:
        """The runs in states of these names."""
        return self._flow_runs({"state": {"name": {"any_": sorted(names)}}}, CREATED)

    def due_flow_runs(self, by: datetime) -> list[FlowRun]:
        """The SCHEDULED runs whose next scheduled start is not after `by`. Other runs have no next start."""
        return self._flow_runs({"next_scheduled_start_time": {"before_": utc_text(by)}}, DUE)

    def ended_flow_runs(self, since: datetime) -> list[FlowRun]:
        return self._flow_runs({"end_time": {"after_": utc_text(since)}}, ENDED)

    def flow_runs_in_sight(
        self, types: Collection[str], names: Collection[str], due_by: datetime, ended_since: datetime | None
    ) -> list[FlowRun] | None:
        """What the four methods above return, in one request; None if one page cannot hold it."""
        state = {"operator": "or_", "type": {"any_": sorted(types)}, "name": {"any_": sorted(names)}}
        criteria = {"state": state, "next_scheduled_start_time": {"before_": utc_text(due_by)}}
        if ended_since is not None:
            criteria["end_time"] = {"after_": utc_text(ended_since)}
        # No index has this order, so that SQLite uses an index for each of the alternatives instead.
        body = {"flow_runs": {"operator": "or_", **criteria}, "sort": "START_TIME_ASC"}
        page = self._pager.page(FlowRun, "/flow_runs/filter", body)
        return page.objects if page.is_last else None

    def planned_flow_runs(self, deployment_ids: Collection[str] | None, after: datetime) -> Iterator[list[FlowRun]]:
        """Pages of the SCHEDULED runs that start at `after` or later, of these deployments or, if None, of none."""
        return self._pages(self._planned(deployment_ids, after), DUE)

    def count_planned(self, after: datetime) -> int:
        """How many SCHEDULED runs start at `after` or later."""
        criteria = {"next_scheduled_start_time": {"after_": utc_text(after)}}
        return self._count("/flow_runs/count", {"flow_runs": criteria})

    def count_planned_of(self, deployment_ids: Collection[str] | None, after: datetime) -> int:
        """How many of them belong to these deployments or, if None, to no deployment."""
        return self._count("/flow_runs/count", {"flow_runs": self._planned(deployment_ids, after)})

    @staticmethod
    def _planned(deployment_ids: Collection[str] | None, after: datetime) -> dict[str, Any]:
        of = {"is_null_": True} if deployment_ids is None else {"any_": sorted(deployment_ids)}
        return {"deployment_id": of, "next_scheduled_start_time": {"after_": utc_text(after)}}

    def _flow_runs(self, criteria: Mapping[str, Any], order: Order[FlowRun]) -> list[FlowRun]:
        return _all(self._pages(criteria, order))

    def _pages(self, criteria: Mapping[str, Any], order: Order[FlowRun]) -> Iterator[list[FlowRun]]:
        return self._pager.by_time(FlowRun, "/flow_runs/filter", "flow_runs", criteria, order, excludes_ids=True)

    def _count(self, path: str, body: Mapping[str, Any]) -> int:
        return self._client.post(path, _read_count, body)

    def flow_runs_by_id(self, ids: Collection[str]) -> Iterator[FlowRun]:
        return self._pager.by_ids(FlowRun, "/flow_runs/filter", "flow_runs", ids)

    def flow_run_history(self, run_id: str) -> list[State]:
        """The run's states in chronological order; empty if the run was deleted."""
        return self._history("/flow_run_states/", {"flow_run_id": run_id})

    def task_run_history(self, run_id: str) -> list[State]:
        """The same for a task run."""
        return self._history("/task_run_states/", {"task_run_id": run_id})

    def _history(self, path: str, params: Mapping[str, str]) -> list[State]:
        if not all(is_uuid(identity) for identity in params.values()):
            return []
        states, _ = self._client.get(path, lambda body: read_objects(State, body, self.oddities), params=params)
        return sorted(states, key=lambda state: state.timestamp)

    def unfinished_task_runs(
        self, types: Collection[str], since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[list[TaskRun]]:
        """Pages of the task runs in states of these types, created between these times, newest first.

        No method returns task runs that stand for subflows.
        """
        return self._task_pages(self._unfinished(types, since, until), NEWEST_TASK)

    def count_unfinished(self, types: Collection[str], since: datetime | None, until: datetime) -> int:
        """How many task runs `unfinished_task_runs` would return."""
        criteria = {**self._unfinished(types, since, until), **NO_SUBFLOWS}
        return self._count("/task_runs/count", {"task_runs": criteria})

    def ended_task_runs(self, since: datetime) -> list[TaskRun]:
        """Task runs that ended since then. Raises `Rejected` with status 422 on servers before 3.6.22."""
        return _all(self._task_pages({"end_time": {"after_": utc_text(since)}}, ENDED_TASK))

    def count_ended_task_runs(self, since: datetime, until: datetime) -> int:
        """How many task runs ended between these times. Raises `Rejected` as `ended_task_runs` does."""
        criteria = {"end_time": {"after_": utc_text(since), "before_": utc_text(until)}}
        return self._count("/task_runs/count", {"task_runs": {**criteria, **NO_SUBFLOWS}})

    def task_runs_that_never_ran(self, types: Collection[str], created_since: datetime) -> list[TaskRun]:
        """Task runs in states of these types without an end time. Raises `Rejected` as `ended_task_runs` does."""
        criteria = {
            "state": {"type": {"any_": sorted(types)}},
            "end_time": {"is_null_": True},
            "expected_start_time": {"after_": utc_text(created_since)},
        }
        return _all(self._task_pages(criteria, NEWEST_TASK))

    def _task_pages(self, criteria: Mapping[str, Any], order: Order[TaskRun]) -> Iterator[list[TaskRun]]:
        return self._pager.by_time(
            TaskRun, "/task_runs/filter", "task_runs", {**criteria, **NO_SUBFLOWS}, order, excludes_ids=False
        )

    @staticmethod
    def _unfinished(types: Collection[str], since: datetime | None, until: datetime | None) -> dict[str, Any]:
        criteria: dict[str, Any] = {"state": {"type": {"any_": sorted(types)}}}
        bounds = {"after_": since, "before_": until}
        created = {name: utc_text(moment) for name, moment in bounds.items() if moment is not None}
        return {**criteria, "expected_start_time": created} if created else criteria

    def task_runs_by_id(self, ids: Collection[str]) -> Iterator[TaskRun]:
        return self._pager.by_ids(TaskRun, "/task_runs/filter", "task_runs", ids)

    def events(self, criteria: Mapping[str, Any], since: datetime, until: datetime, limit: int) -> EventPage:
        """The newest `limit` events of a time span, both ends included, and the total number of events in it.

        Returns fewer events if a page of `limit` is too large. An event that is too large by itself has no content.
        """
        # Remembered, because a page with events of a megabyte each takes the server seconds.
        limit = min(limit, self._events_at_once)
        while True:
            occurred = {"since": utc_text(since), "until": utc_text(until)}
            body = {"filter": {**criteria, "occurred": occurred, "order": "DESC"}, "limit": limit}
            try:
                page = self._client.post("/events/filter", self._read_events, body)
                if limit == self._events_at_once:
                    self._events_at_once = min(limit + 1, EVENTS_PAGE_SIZE)
                return replace(page, query=EventQuery(criteria, since, until, limit))
            except UnreadableAnswer as error:
                if limit == 0:
                    raise
                cause = str(error)
            if limit == 1:
                return self._without_newest(criteria, since, until, cause)
            limit = self._events_at_once = limit // 2

    def next_events(self, page: EventPage) -> EventPage | None:
        """The next page, or None. Only the token of the server's link is used: its host may be wrong.

        If the page is too large, a smaller page is read instead, which repeats the last event.
        """
        query = page.query
        if query is not None and page.rest is not None:
            return (
                self.events(query.criteria, query.since, page.rest, EVENTS_PAGE_SIZE)
                if page.rest >= query.since
                else None
            )
        try:
            token = parse_qs(urlsplit(page.next_page or "").query).get("page-token")
        except ValueError:
            raise RequestFailed("GET /events/filter/next", "the link to the next page is not a URL") from None
        if not token:
            return None
        try:
            following = self._client.get("/events/filter/next", self._read_events, params={"page-token": token[0]})
        except UnreadableAnswer:
            if query is None or not page.events:
                raise
            until = min(event.occurred for event in page.events)
            self._events_at_once = max(1, query.limit // 2)
            return self.events(query.criteria, query.since, until, self._events_at_once)
        if following.next_page == page.next_page:
            raise RequestFailed("GET /events/filter/next", "the page links back to itself")
        return replace(following, query=query)

    def _without_newest(self, criteria: Mapping[str, Any], since: datetime, until: datetime, cause: str) -> EventPage:
        """A page with a placeholder for the newest event, which cannot be read: only its time is found, by totals."""

        def total(first: datetime) -> int:
            return self.events(criteria, first, until, 0).total

        count = total(since)
        earliest, latest = since, until
        while earliest < latest:
            middle = latest - (latest - earliest) // 2
            if total(middle):
                earliest = middle
            else:
                latest = middle - INSTANT
        self.oddities.leave_out(Event, cause)
        event = Event(id=f"unreadable at {utc_text(earliest)}", event="", occurred=earliest)
        query = EventQuery(criteria, since, until, 1)
        return EventPage([event] if count else [], count, None, query, rest=earliest - INSTANT)

    def events_of(self, resource_ids: Collection[str]) -> list[Event]:
        """All events that the server still has of these resources, such as `prefect.flow-run.<id>`."""
        events: dict[str, Event] = {}
        wanted = sorted(resource_ids)
        for position in range(0, len(wanted), MOST_RESOURCES):
            page: EventPage | None = self.events(
                {"resource": {"id": wanted[position : position + MOST_RESOURCES]}},
                since=self.now() - EVENTS_KEPT,
                until=self.now() + EVENTS_KEPT,
                limit=EVENTS_PAGE_SIZE,
            )
            while page is not None:
                known = len(events)
                events.update((event.id, event) for event in page.events)
                if page.next_page and len(events) == known:
                    raise RequestFailed("GET /events/filter/next", "the page has nothing new")
                if len(events) > MOST_OBJECTS:
                    raise RequestFailed("POST /events/filter", f"there are more than {MOST_OBJECTS} events")
                page = self.next_events(page)
        return list(events.values())

    def _read_events(self, body: bytes) -> EventPage:
        return read_event_page(body, self.oddities)


def _all(pages: Iterator[list[Item]]) -> list[Item]:
    """All objects of these pages. Raises `RequestFailed` if there are more than `MOST_OBJECTS`."""
    found: list[Item] = []
    for page in pages:
        found += page
        if len(found) > MOST_OBJECTS:
            raise RequestFailed("reading page by page", f"there are more than {MOST_OBJECTS} objects")
    return found


def _read_scalar(body: bytes) -> Any:
    return json.loads(body[:MOST_SCALAR_BYTES])


def _read_count(body: bytes) -> int:
    number = _read_scalar(body)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError("not a number of objects")
    return number


def _read_text(body: bytes) -> str:
    text = _read_scalar(body)
    if not isinstance(text, str):
        raise ValueError("not a string")
    return text
