"""Prefect's `/events/filter` in memory: events become visible when they arrive, whenever they occurred."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from datadog_checks.prefect.counting.event_activity import Reach
from datadog_checks.prefect.counting.event_feed import EventFeed

from .fake_server import FakeServer

REACH = Reach(timedelta(hours=1), timedelta(hours=1))
CRITERIA: dict[str, Any] = {"event": {"prefix": ["prefect.flow-run."]}}


class EventsEndpoint(FakeServer):
    """A server that is asked for nothing but events that match `CRITERIA`."""

    def __init__(self) -> None:
        super().__init__()
        self.reach = REACH

    def feed(self, saved: dict[str, Any] | None = None) -> EventFeed:
        return EventFeed(self, CRITERIA, saved, self.reach)

    def happen(self, *ids: str, seconds_ago: float = 0.0) -> None:
        """Events become visible that occurred so many seconds ago, by the server's clock; negative for the future."""
        occurred = self.clock - timedelta(seconds=seconds_ago)
        for identity in ids:
            self.show({"id": identity, "event": "prefect.flow-run.Running", "occurred": occurred.isoformat()})

    def vanish(self, *ids: str) -> None:
        for identity in ids:
            self.hide(identity)

    def pass_time(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    def post(self, path: str, parse: Callable[[bytes], Any], body: Mapping[str, Any]) -> Any:
        assert body["filter"]["event"] == CRITERIA["event"]
        return super().post(path, parse, body)
