"""A Prefect server in memory, with a clock that a test moves: as fast as thousands of check runs need it.

It knows the filters, orders and pages that the check asks for, and refuses everything else.
"""

from __future__ import annotations

import io
import json
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from typing import Any, TypeAlias
from unittest.mock import patch
from urllib.parse import parse_qs, quote, urlsplit

import requests
from datadog_checks.base.utils.http import RequestsWrapper
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPResponse

Json: TypeAlias = dict[str, Any]
Test: TypeAlias = Callable[[Json], bool]

MOST_OBJECTS = 200
MOST_EVENTS = 50
TABLES = (
    "work_pools",
    "work_queues",
    "workers",
    "concurrency_limits",
    "deployments",
    "flows",
    "flow_runs",
    "task_runs",
)
# Fields of a filter that an object has elsewhere.
ELSEWHERE = {("state", "type"): "state_type", ("state", "name"): "state_name"}


class Refusal(Exception):
    """A request that the server does not take, with its status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(eq=False)
class Thing:
    """An object; times in `fields` are datetimes. `change` keeps its text up to date."""

    fields: Json
    text: str = ""

    def __post_init__(self) -> None:
        self.text = json.dumps(self.fields, default=str)

    def change(self, **fields: Any) -> None:
        self.fields.update(fields)
        self.text = json.dumps(self.fields, default=str)


@dataclass(order=True)
class Happening:
    """An event, in the order of time."""

    occurred: datetime
    id: str
    event: str = field(compare=False)
    resource_id: str = field(compare=False)
    text: str = field(compare=False)


class MemoryServer:
    """`tables` hold things by id. `refused` lists requests that were not understood.

    `longest` is the length of the longest list that was sent, by where it was sent and in which field.
    `ends_of_task_runs` tells whether task runs can be asked for by their end, as from Prefect 3.6.22 on.
    """

    def __init__(self, now: datetime, version: str = "3.8.8", ends_of_task_runs: bool = True) -> None:
        self.now = now
        self.version = version
        self.ends_of_task_runs = ends_of_task_runs
        self.tables: dict[str, dict[str, Thing]] = {name: {} for name in TABLES}
        self.histories: dict[str, list[Json]] = {}
        self.refused: list[str] = []
        self.longest: Counter[str] = Counter()
        self._date = (now, format_datetime(now, usegmt=True))
        # What matches which filter, in the order of time: few filters are used, and each again and again.
        self._events: dict[str, list[Happening]] = {"{}": []}
        self._tests: dict[str, Callable[[Happening], bool]] = {"{}": lambda _: True}

    def put(self, table: str, **fields: Any) -> Thing:
        """A new object, or a changed one."""
        thing = self.tables[table][fields["id"]] = Thing(fields)
        return thing

    def happen(self, event: Json) -> None:
        """An event becomes visible; its `occurred` is a datetime."""
        resource_id = event["resource"]["prefect.resource.id"]
        text = json.dumps(event, default=str)
        happening = Happening(event["occurred"], event["id"], event["event"], resource_id, text)
        for key, matching in self._events.items():
            if self._tests[key](happening):
                insort(matching, happening)

    def forget_events(self, before: datetime) -> None:
        for matching in self._events.values():
            del matching[: bisect_left(matching, before, key=lambda event: event.occurred)]

    def date(self) -> str:
        """What the clock says, as a header."""
        if self._date[0] != self.now:
            self._date = self.now, format_datetime(self.now, usegmt=True)
        return self._date[1]

    # Answers

    def answer(self, method: str, url: str, params: Mapping[str, str] | None, body: Any) -> tuple[int, str]:
        """The status and the body of an answer."""
        path = urlsplit(url).path.removeprefix("/api")
        self._measure(path, body)
        try:
            return 200, self._answer(path, {**_query(url), **(params or {})}, body or {})
        except Refusal as refusal:
            if refusal.status != 422:
                self.refused.append(f"{method} {path} {json.dumps(body)[:300]}: {refusal}")
            return refusal.status, json.dumps({"detail": str(refusal)})

    def _measure(self, where: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                self._measure(f"{where} {key}", part)
        elif isinstance(value, (list, tuple)):
            self.longest[where] = max(self.longest[where], len(value))
            for part in value[:1]:
                self._measure(where, part)

    def _answer(self, path: str, params: Mapping[str, str], body: Json) -> str:
        match path.removeprefix("/v2").strip("/").split("/"):
            case ["health"] | ["ready"]:
                return "true"
            case ["admin", "version"]:
                return json.dumps(self.version)
            case ["csrf-token"]:
                raise Refusal(422, "CSRF protection is disabled.")
            case ["events", "filter"]:
                return self._first_events(body)
            case ["events", "filter", "next"]:
                key, since, until, total, offset = json.loads(params["page-token"])
                return self._events_page(key, since, until, MOST_EVENTS, total, offset)
            case ["flow_run_states"] | ["task_run_states"]:
                return json.dumps(self.histories.get(next(iter(params.values())), []), default=str)
            case ["work_pools", pool, "workers", "filter"]:
                return self._filter("workers", body, lambda fields: bool(fields["pool"] == pool))
            case [table, "filter"] if table in self.tables:
                return self._filter(table, body)
            case [table, "count"] if table in self.tables:
                return str(len(self._matching(table, body)))
        raise Refusal(404, "Not Found")

    def _filter(self, table: str, body: Json, belongs: Test = lambda _: True) -> str:
        limit = body.get("limit", MOST_OBJECTS)
        if limit > MOST_OBJECTS:
            raise Refusal(422, f"Invalid limit: must be less than or equal to {MOST_OBJECTS}.")
        found = [thing for thing in self._matching(table, body) if belongs(thing.fields)]
        name, _, direction = body.get("sort", "NAME_ASC").lower().rpartition("_")
        found.sort(key=lambda thing: _sortable(thing.fields.get(name)), reverse=direction == "desc")
        offset = body.get("offset", 0)
        return f"[{','.join(thing.text for thing in found[offset : offset + limit])}]"

    def _matching(self, table: str, body: Json) -> list[Thing]:
        criteria = body.get(table, {})
        if table == "task_runs" and "end_time" in criteria and not self.ends_of_task_runs:
            raise Refusal(422, "Extra inputs are not permitted: end_time")
        there = self.tables[table]
        test = _test_of(criteria)
        asked = criteria.get("id", {}).get("any_", there)
        return [there[identity] for identity in asked if identity in there and test(there[identity].fields)]

    # Events

    def _first_events(self, body: Json) -> str:
        criteria = dict(body["filter"])
        if criteria.pop("order", "DESC") != "DESC":
            raise Refusal(400, "only the newest first")
        occurred = criteria.pop("occurred")
        key = json.dumps(criteria, sort_keys=True)
        test = _event_test_of(criteria)
        if key not in self._events and "resource" not in criteria:
            self._events[key] = [event for event in self._events["{}"] if test(event)]
            self._tests[key] = test
        return self._events_page(key, occurred["since"], occurred["until"], body.get("limit", MOST_EVENTS))

    def _events_page(
        self, key: str, since: str, until: str, limit: int, total: int | None = None, offset: int = 0
    ) -> str:
        matching = self._events.get(key)
        if matching is None:
            test = _event_test_of(json.loads(key))
            matching = [event for event in self._events["{}"] if test(event)]
        first = bisect_left(matching, datetime.fromisoformat(since), key=lambda event: event.occurred)
        end = bisect_right(matching, datetime.fromisoformat(until), key=lambda event: event.occurred)
        total = end - first if total is None else total
        page = ",".join(
            event.text for event in matching[max(first, end - offset - limit) : max(first, end - offset)][::-1]
        )
        following = "null"
        if offset + limit < total or limit == 0:
            token = quote(json.dumps([key, since, until, total, offset + limit]), safe="")
            following = json.dumps(f"http://elsewhere.test/events/filter/next?page-token={token}")
        return f'{{"events": [{page}], "total": {total}, "next_page": {following}}}'


class _Answer(requests.Response):
    """Without what takes longest to make, cookies and a history, of which nobody asks for any."""

    def __init__(self, url: str, status: int, text: str, headers: Mapping[str, str]) -> None:
        self._content = False  # type: ignore[assignment]
        self._content_consumed = False
        self.url, self.status_code, self.history = url, status, []
        self.headers = CaseInsensitiveDict(headers)
        self.raw = HTTPResponse(io.BytesIO(text.encode()), headers, status, preload_content=False)


@contextmanager
def answering(server: MemoryServer) -> Iterator[None]:
    """Let the server take the place of the base class's wrapper, and so of the network, for this process."""

    def respond(method: str, url: str, **options: Any) -> requests.Response:
        status, text = server.answer(method, url, options.get("params"), options.get("json"))
        headers = {"Date": server.date(), "Content-Type": "application/json"}
        return _Answer(url, status, text, headers)

    def get(_: RequestsWrapper, url: str, **options: Any) -> requests.Response:
        return respond("GET", url, **options)

    def post(_: RequestsWrapper, url: str, **options: Any) -> requests.Response:
        return respond("POST", url, **options)

    with patch.object(RequestsWrapper, "get", get), patch.object(RequestsWrapper, "post", post):
        yield


# Filters


def _test_of(criteria: Json) -> Test:
    tests = list(_tests_of(criteria, ""))
    return any_of(tests) if criteria.get("operator") == "or_" else lambda fields: all(test(fields) for test in tests)


def _tests_of(criteria: Json, within: str) -> Iterator[Test]:
    for name, wanted in criteria.items():
        if name in ("operator", "subflow_runs"):
            continue
        if name == "state":
            parts = list(_tests_of(wanted, "state"))
            yield any_of(parts) if wanted.get("operator") == "or_" else all_of(parts)
        else:
            field_name = ELSEWHERE.get((within, name), name)
            yield from (_comparison(field_name, how, value) for how, value in wanted.items())


def any_of(tests: list[Test]) -> Test:
    return lambda fields: any(test(fields) for test in tests)


def all_of(tests: list[Test]) -> Test:
    return lambda fields: all(test(fields) for test in tests)


def _comparison(name: str, how: str, value: Any) -> Test:
    if how in ("any_", "not_any_"):
        wanted = frozenset(value)
        return (
            (lambda fields: fields.get(name) in wanted)
            if how == "any_"
            else lambda fields: fields.get(name) not in wanted
        )
    if how == "is_null_":
        return lambda fields: (fields.get(name) is None) is value
    if how not in ("before_", "after_"):
        raise Refusal(400, f"no filter {how}")
    moment = datetime.fromisoformat(value)
    if how == "before_":
        return lambda fields: fields.get(name) is not None and fields[name] <= moment
    return lambda fields: fields.get(name) is not None and fields[name] >= moment


def _event_test_of(criteria: Json) -> Callable[[Happening], bool]:
    if not criteria.keys() <= {"event", "resource"}:
        raise Refusal(400, f"no filter of events by {sorted(criteria)}")
    names = criteria.get("event", {})
    resources = criteria.get("resource", {}).get("id")
    prefixes, without = tuple(names.get("prefix", ())), tuple(names.get("exclude_prefix", ()))
    wanted, excluded = frozenset(names.get("name", ())), frozenset(names.get("exclude_name", ()))
    return lambda event: (
        (not prefixes or event.event.startswith(prefixes))
        and not (without and event.event.startswith(without))
        and (not wanted or event.event in wanted)
        and event.event not in excluded
        and (resources is None or event.resource_id in resources)
    )


def _sortable(value: Any) -> tuple[bool, Any]:
    return (value is None, value if value is not None else "")


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
