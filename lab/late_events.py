"""The server's events as somebody sees them to whom each becomes visible some check runs late, and some never do.

Answers `POST /events/filter` and `GET /events/filter/next` as Prefect does, from what it has read on the server.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from .errors import LabError
from .prefect_api import Json, PrefectApi, iso

PAGE_SIZE = 50
# An event that is late becomes visible in the middle of a check run, before one of its first requests for events.
LATEST_REQUEST = 5
# A real server behind a proxy guesses its own address wrongly, and knows nothing of the proxy's path.
WRONG_URL = "http://prefect.internal:4200/events/filter/next"

# Names an event independently of its random id, so that a seed deals it the same delay each time.
KeyOf = Callable[[Json], str]
Moment = tuple[int, int]


class LateEvents:
    """Events of the server behind `api`, late by 0 to `longest_delay` check runs by the seed and the event's key.

    An event's delay begins when it is first seen here. `drop_rate` is the share of events that never become visible.
    `total` tells at little cost how many events the server has.
    """

    def __init__(
        self,
        api: PrefectApi,
        seed: int,
        key_of: KeyOf,
        total: Callable[[], int],
        longest_delay: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        self._api = api
        self._total = total
        self._seed = seed
        self._key_of = key_of
        self._longest_delay = longest_delay
        self._drop_rate = drop_rate
        self._events: dict[str, tuple[datetime, Json]] = {}
        self._visible_from: dict[str, Moment] = {}
        self._now: Moment = (0, 0)
        self.dropped: set[str] = set()

    def begin_run(self) -> None:
        """A check run begins."""
        self._now = (self._now[0] + 1, 0)

    def hidden(self) -> int:
        """How many events are still to become visible, of those that the server has now."""
        self._refresh()
        return sum(moment > self._now for moment in self._visible_from.values())

    def first_page(self, body: Mapping[str, Any]) -> Json:
        """The answer to `POST /events/filter`. Raises `LabError` for a filter that this does not know."""
        self._begin_request()
        criteria = body.get("filter") or {}
        return self._page(criteria, None, int(body.get("limit", PAGE_SIZE)), 0)

    def next_page(self, path: str) -> Json:
        """The answer to a GET of `path`, which holds a page token."""
        self._begin_request()
        token = parse_qs(urlsplit(path).query)["page-token"][0]
        asked = json.loads(base64.b64decode(base64.b64decode(token)))
        return self._page(asked["filter"], asked["count"], asked["page_size"], asked["offset"])

    def _begin_request(self) -> None:
        self._now = (self._now[0], self._now[1] + 1)
        self._refresh()

    def _page(self, criteria: Mapping[str, Any], total: int | None, size: int, offset: int) -> Json:
        found = [event for event in self._visible() if _matches(criteria, *event)]
        found.sort(key=lambda event: (event[0], event[1]["id"]), reverse=criteria.get("order", "DESC") == "DESC")
        # The total of the first page is kept in the token, and tokens count offsets, as on the server.
        total = len(found) if total is None else total
        following = None
        if offset + size < total:
            asked = {"filter": criteria, "count": total, "page_size": size, "offset": offset + size}
            token = base64.b64encode(base64.b64encode(json.dumps(asked).encode())).decode()
            following = f"{WRONG_URL}?page-token={quote(token)}"
        events = [event for _, event in found[offset : offset + size]]
        return {"events": events, "total": total, "next_page": following}

    def _visible(self) -> list[tuple[datetime, Json]]:
        return [event for identity, event in self._events.items() if self._is_visible(identity)]

    def _is_visible(self, identity: str) -> bool:
        return identity not in self.dropped and self._visible_from[identity] <= self._now

    def _refresh(self) -> None:
        """Take in what is new on the server, reading from the newest until all are known."""
        if self._total() == len(self._events):
            return
        now = datetime.now(UTC)
        occurred = {"since": iso(now - timedelta(days=7)), "until": iso(now + timedelta(days=1))}
        page = self._api.post("events/filter", {"filter": {"occurred": occurred, "order": "DESC"}, "limit": PAGE_SIZE})
        while True:
            for event in page["events"]:
                self._meet(event)
            if len(self._events) >= page["total"] or not page["next_page"]:
                return
            token = parse_qs(urlsplit(page["next_page"]).query)["page-token"][0]
            page = self._api.get(f"events/filter/next?page-token={quote(token)}")

    def _meet(self, event: Json) -> None:
        identity = event["id"]
        if identity in self._events:
            return
        self._events[identity] = (datetime.fromisoformat(event["occurred"]), event)
        dice = Random(f"{self._seed}/{self._key_of(event)}")
        delay = dice.randint(0, self._longest_delay)
        request = dice.randint(0, LATEST_REQUEST)
        self._visible_from[identity] = (self._now[0] + delay, request) if delay else self._now
        if dice.random() < self._drop_rate:
            self.dropped.add(identity)


def _matches(criteria: Mapping[str, Any], occurred: datetime, event: Json) -> bool:
    tests: dict[str, Callable[[Any], bool]] = {
        "order": lambda _: True,
        "occurred": lambda span: _within(span, occurred),
        "event": lambda names: _name_matches(names, event["event"]),
        "id": lambda ids: not ids.get("id") or event["id"] in ids["id"],
        "resource": lambda resource: _resource_matches(resource, event["resource"]["prefect.resource.id"]),
    }
    if unknown := criteria.keys() - tests.keys():
        raise LabError(f"The laboratory's events cannot be filtered by {', '.join(sorted(unknown))}.")
    return all(tests[key](wanted) for key, wanted in criteria.items() if wanted is not None)


def _within(span: Mapping[str, str], occurred: datetime) -> bool:
    since, until = (datetime.fromisoformat(span[end]) for end in ("since", "until"))
    return since <= occurred <= until


def _name_matches(names: Mapping[str, list[str] | None], name: str) -> bool:
    if unknown := names.keys() - {"prefix", "exclude_prefix", "name", "exclude_name"}:
        raise LabError(f"The laboratory's events cannot be filtered by {', '.join(sorted(unknown))} of their names.")
    if (prefixes := names.get("prefix")) and not name.startswith(tuple(prefixes)):
        return False
    if (exact := names.get("name")) and name not in exact:
        return False
    return not name.startswith(tuple(names.get("exclude_prefix") or ())) and name not in (
        names.get("exclude_name") or ()
    )


def _resource_matches(resource: Mapping[str, list[str] | None], identity: str) -> bool:
    if unknown := resource.keys() - {"id", "id_prefix"}:
        raise LabError(f"The laboratory's events cannot be filtered by {', '.join(sorted(unknown))} of a resource.")
    if (ids := resource.get("id")) and identity not in ids:
        return False
    prefixes = resource.get("id_prefix")
    return not prefixes or identity.startswith(tuple(prefixes))
