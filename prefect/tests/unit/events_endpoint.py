"""Prefect's `/events/filter` in memory: events become visible when they arrive, whenever they occurred.

As the server does it: the newest first, both ends of the span included, a total that later pages do not renew, pages
that are offsets, so that what arrives while they are read shifts them, and with `limit: 0` the total alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from datadog_checks.prefect.api.errors import OutOfTime
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.counting.event_activity import Reach
from datadog_checks.prefect.counting.event_feed import EventFeed

from .builders import T0, InCheckRuns

CRITERIA: dict[str, Any] = {"event": {"prefix": ["prefect.flow-run."]}}


class EventsEndpoint:
    """Stands in the client's place; `now` is the server's clock, `left` what is left of the check run's time."""

    def __init__(self) -> None:
        self.now = T0
        self.left = 15.0
        self.reach = Reach()
        self.requests: list[tuple[str, int]] = []
        self.before_answer: Callable[[int], None] = lambda number: None
        self._events: dict[str, datetime] = {}

    def feed(self, saved: dict[str, Any] | None = None) -> EventFeed:
        return EventFeed(self.api(), CRITERIA, saved, self.reach)

    def api(self) -> PrefectApi:
        return _Api(self)

    def happen(self, *ids: str, seconds_ago: float = 0.0) -> None:
        """Events become visible that occurred so many seconds ago, by the server's clock; negative for the future."""
        for identity in ids:
            self._events[identity] = self.now - timedelta(seconds=seconds_ago)

    def vanish(self, *ids: str) -> None:
        for identity in ids:
            del self._events[identity]

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def take_a_second(self, _: int) -> None:
        """For `before_answer`: each request takes a second of the check run's time, while there is one."""
        if self.left <= 0:
            raise OutOfTime("POST /events/filter", 15)
        self.left -= 1

    # What `PrefectApi` uses of the client

    def post(self, path: str, parse: Callable[[bytes], Any], body: Mapping[str, Any]) -> Any:
        assert path == "/events/filter"
        assert body["filter"]["order"] == "DESC"
        assert body["filter"]["event"] == CRITERIA["event"]
        assert 0 <= body["limit"] <= 50
        occurred = body["filter"]["occurred"]
        return self._answer("total" if body["limit"] == 0 else "first", parse, occurred, body["limit"], 0, None)

    def get(self, path: str, parse: Callable[[bytes], Any], params: Mapping[str, str]) -> Any:
        assert path == "/events/filter/next"
        token = json.loads(base64.b64decode(params["page-token"]))
        return self._answer("next", parse, token["occurred"], token["limit"], token["offset"], token["total"])

    def _answer(
        self,
        kind: str,
        parse: Callable[[bytes], Any],
        occurred: Mapping[str, str],
        limit: int,
        offset: int,
        total: int | None,
    ) -> Any:
        self.requests.append((kind, offset))
        self.before_answer(len(self.requests))
        since, until = datetime.fromisoformat(occurred["since"]), datetime.fromisoformat(occurred["until"])
        found = [(moment, identity) for identity, moment in self._events.items() if since <= moment <= until]
        found.sort(reverse=True)
        total = len(found) if total is None else total
        events = [
            {"id": identity, "event": "prefect.flow-run.Running", "occurred": moment.isoformat()}
            for moment, identity in found[offset : offset + limit]
        ]
        page: dict[str, Any] = {"events": events, "total": total, "next_page": None}
        if offset + limit < total or limit == 0:
            token = {"occurred": occurred, "limit": limit, "offset": offset + limit, "total": total}
            packed = base64.b64encode(json.dumps(token).encode()).decode()
            page["next_page"] = f"https://elsewhere.test/events/filter/next?page-token={quote(packed, safe='')}"
        return parse(json.dumps(page).encode())


class _Api(InCheckRuns, PrefectApi):
    """Of the endpoint's time."""

    def __init__(self, endpoint: EventsEndpoint) -> None:
        super().__init__(endpoint)  # type: ignore[arg-type]
        self._endpoint = endpoint

    def now(self) -> datetime:
        return self._endpoint.now

    def seconds_left(self) -> float:
        return self._endpoint.left
