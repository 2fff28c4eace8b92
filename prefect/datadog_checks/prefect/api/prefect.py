"""Prefect's REST API, an endpoint a method, as far as the check reads it. All methods raise `ApiError`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from .client import Client
from .errors import NotPrefect, Rejected, RequestFailed, UnexpectedAnswer
from .models import (
    Deployment,
    Event,
    EventPage,
    Flow,
    FlowRun,
    Oddities,
    State,
    TaskRun,
    Worker,
    WorkPool,
    WorkQueue,
    read_event_page,
    read_objects,
    utc_text,
)
from .paging import Pager

EVENTS_PAGE_SIZE = 50  # the most that the server gives
EVENTS_KEPT = timedelta(days=7)


class PrefectApi:
    """The server's objects; `oddities` collects what does not parse until it is taken."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pager = Pager(client, Oddities())

    @property
    def url(self) -> str:
        return self._client.url

    def begin_run(self, budget_seconds: float) -> Oddities:
        """Start a check run's time; returns where its odd fields will be noted."""
        self._client.begin_run(budget_seconds)
        self._pager.oddities = Oddities()
        return self._pager.oddities

    @property
    def has_answered(self) -> bool:
        """Whether there was an answer in this check run."""
        return self._client.has_answered

    def seconds_left(self) -> float:
        """What is left of the check run's time."""
        return self._client.seconds_left()

    def now(self) -> datetime:
        """The server's clock."""
        return self._client.clock.now()

    def is_healthy(self) -> bool:
        return self._client.get("/health", json.loads) is True

    def is_ready(self) -> bool:
        return 200 <= self._client.status_of("/ready").status < 300

    def version(self) -> str:
        """The server's version, such as 3.8.8; raises `NotPrefect` where something else answers."""
        try:
            version: str = self._client.get("/admin/version", _read_text)
        except Rejected as refusal:
            if refusal.status in (404, 405):
                raise NotPrefect(self.url, f"it answers {refusal.status} to GET /admin/version") from None
            raise
        except UnexpectedAnswer:
            raise NotPrefect(self.url, "its answer to GET /admin/version is no version") from None
        return version

    def work_pools(self) -> list[WorkPool]:
        return self._pager.by_offset(WorkPool, "/work_pools/filter", {})

    def workers(self, pool_name: str, alive_since: datetime) -> list[Worker]:
        """The pool's workers whose last heartbeat is not older than `alive_since`."""
        path = f"/work_pools/{quote(pool_name, safe='')}/workers/filter"
        return self._pager.by_offset(Worker, path, _heartbeat_after(alive_since))

    def work_queues(self) -> list[WorkQueue]:
        return self._pager.by_offset(WorkQueue, "/work_queues/filter", {})

    def work_queues_by_id(self, ids: Collection[str]) -> list[WorkQueue]:
        return self._pager.by_ids(WorkQueue, "/work_queues/filter", "work_queues", ids)

    def deployments(self) -> list[Deployment]:
        # The newest first: one that is created during the walk moves the others back, and is not skipped over.
        return self._pager.by_offset(Deployment, "/deployments/filter", {"sort": "CREATED_DESC"})

    def deployments_by_id(self, ids: Collection[str]) -> list[Deployment]:
        return self._pager.by_ids(Deployment, "/deployments/filter", "deployments", ids)

    def flows_by_id(self, ids: Collection[str]) -> list[Flow]:
        return self._pager.by_ids(Flow, "/flows/filter", "flows", ids)

    def flow_runs(self, criteria: Mapping[str, Any]) -> list[FlowRun]:
        """The flow runs that match a filter of `/flow_runs/filter`."""
        pages = self._pager.by_time(
            FlowRun,
            "/flow_runs/filter",
            {"flow_runs": criteria, "sort": "EXPECTED_START_TIME_ASC"},
            kind="flow_runs",
            field="expected_start_time",
            time_of=lambda run: run.expected_start_time,
            excludes_ids=True,
        )
        return [run for page in pages for run in page]

    def flow_runs_by_id(self, ids: Collection[str]) -> list[FlowRun]:
        return self._pager.by_ids(FlowRun, "/flow_runs/filter", "flow_runs", ids)

    def flow_run_history(self, run_id: str) -> list[State]:
        """The run's states in the order of time; empty when the run is gone."""
        return self._history("/flow_run_states/", {"flow_run_id": run_id})

    def task_run_history(self, run_id: str) -> list[State]:
        """The same of a task run."""
        return self._history("/task_run_states/", {"task_run_id": run_id})

    def _history(self, path: str, params: Mapping[str, str]) -> list[State]:
        states, _ = self._client.get(path, lambda body: read_objects(State, body, self._pager.oddities), params=params)
        return sorted(states, key=lambda state: state.timestamp)

    def task_runs(self, criteria: Mapping[str, Any]) -> list[TaskRun]:
        """The task runs that match a filter of `/task_runs/filter`."""
        pages = self._pager.by_time(
            TaskRun,
            "/task_runs/filter",
            {"task_runs": criteria, "sort": "EXPECTED_START_TIME_ASC"},
            kind="task_runs",
            field="expected_start_time",
            time_of=lambda run: run.expected_start_time,
            excludes_ids=False,
        )
        return [run for page in pages for run in page]

    def task_runs_by_id(self, ids: Collection[str]) -> list[TaskRun]:
        return self._pager.by_ids(TaskRun, "/task_runs/filter", "task_runs", ids)

    def events(self, criteria: Mapping[str, Any], since: datetime, until: datetime, limit: int) -> EventPage:
        """The newest `limit` events of a span of time, both ends included, and their total."""
        occurred = {"since": utc_text(since), "until": utc_text(until)}
        body = {"filter": {**criteria, "occurred": occurred, "order": "DESC"}, "limit": limit}
        return self._client.post("/events/filter", self._read_events, body)

    def next_events(self, page: EventPage) -> EventPage | None:
        """The page after this one, or None. Of the server's own link only the token is used: its host is a guess."""
        try:
            token = parse_qs(urlsplit(page.next_page or "").query).get("page-token")
        except ValueError:
            raise RequestFailed("GET /events/filter/next", "the link to it is no URL") from None
        if not token:
            return None
        following = self._client.get("/events/filter/next", self._read_events, params={"page-token": token[0]})
        if following.next_page == page.next_page:
            raise RequestFailed("GET /events/filter/next", "its link leads back to itself")
        return following

    def events_of(self, resource_ids: Collection[str]) -> list[Event]:
        """All events that the server still keeps of these resources, such as `prefect.flow-run.<id>`."""
        page: EventPage | None = self.events(
            {"resource": {"id": sorted(resource_ids)}},
            since=self.now() - EVENTS_KEPT,
            until=self.now() + EVENTS_KEPT,
            limit=EVENTS_PAGE_SIZE,
        )
        events: dict[str, Event] = {}
        while page is not None:
            known = len(events)
            events.update((event.id, event) for event in page.events)
            if page.next_page and len(events) == known:
                raise RequestFailed("GET /events/filter/next", "its pages bring nothing new")
            page = self.next_events(page)
        return list(events.values())

    def _read_events(self, body: bytes) -> EventPage:
        return read_event_page(body, self._pager.oddities)


def _heartbeat_after(moment: datetime) -> dict[str, Any]:
    return {"workers": {"last_heartbeat_time": {"after_": utc_text(moment)}}}


def _read_text(body: bytes) -> str:
    text = json.loads(body)
    if not isinstance(text, str):
        raise ValueError("not a string")
    return text
