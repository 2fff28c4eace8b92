"""Reads each event of a kind once, however late it becomes visible, without reading those again that it has read.

The server can page events by the time they occurred and tell their total, but not what is new. So the feed keeps the
ids it has read by the minute in which they occurred, and compares totals with how many it knows: equal totals say that
nothing is new, and a span whose total is larger holds what arrived late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from .api.models import Event, EventPage
from .api.prefect import EVENTS_PAGE_SIZE, PrefectApi
from .marks import Marks, bucket_of, start_of
from .state_store import Document

LOOKBACK = timedelta(hours=1)
# Bounds the stored state to about a megabyte; beyond it the oldest minutes are no longer looked back into.
MOST_REMEMBERED = 100_000
MOST_READ_AT_ONCE = 10_000
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Reading:
    """New events in the order they occurred; `behind` counts those left for next time, `lost` is a span given up."""

    events: list[Event]
    behind: int = 0
    lost: tuple[datetime, datetime] | None = None


class EventFeed:
    """The events that match `criteria`, from `start` on, each given out until it is committed.

    `criteria` are filters of `/events/filter`, without the times. `saved` is what `document` gave in an earlier life;
    raises `ValueError` where it is damaged.
    """

    def __init__(self, api: PrefectApi, criteria: Mapping[str, Any], saved: Document | None) -> None:
        self._api = api
        self._criteria = criteria
        self._start: datetime | None = None
        self._through: datetime | None = None
        self._seen = Marks()
        self._read_at: datetime | None = None
        self._window_start: datetime | None = None
        if saved is not None:
            try:
                self._start = aware_moment(saved["start"])
                self._through = aware_moment(saved["through"])
                self._seen = Marks.unpack(saved["seen"])
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"damaged: {error}") from None

    def read(self, first_interval: timedelta) -> Reading:
        """What is new; `first_interval` is how far back a feed without a past begins. Raises `ApiError`."""
        now = self._api.now()
        if self._start is None or self._start > now + LOOKBACK:
            # A server whose clock was set back by hours is a new beginning.
            self._start, self._seen = now - first_interval, Marks()
        oldest = start_of(bucket_of(now - LOOKBACK))
        since = max(self._start, oldest)
        lost = (self._through, oldest) if self._through and self._through < oldest else None
        search = _Search(self._api, self._criteria, self._seen, since, now + LOOKBACK)
        behind = search.run()
        self._seen = search.seen
        self._read_at, self._window_start = now, since
        return Reading(sorted(search.found.values(), key=lambda event: event.occurred), behind, lost)

    def commit(self, events: Iterable[Event]) -> None:
        """Never give these events of the last reading out again."""
        assert self._window_start is not None, "commit() before the first read()"
        assert self._start is not None, "commit() before the first read()"
        for event in events:
            self._seen.add(event.id, event.occurred)
        self._through = self._read_at
        # What is forgotten must not be looked at again, even if the server's clock is set back.
        self._start = max(self._start, self._window_start)
        self._seen.forget_before(bucket_of(self._start))
        first_kept = self._seen.forget_down_to(MOST_REMEMBERED)
        if first_kept is not None:
            self._start = max(self._start, start_of(first_kept))

    def look_back_to(self, moment: datetime) -> None:
        """From now on leave out what occurred before this moment."""
        self._start = moment if self._start is None else max(self._start, moment)

    @property
    def window_start(self) -> datetime:
        """The time before which the last reading looked at nothing."""
        assert self._window_start is not None, "window_start before the first read()"
        return self._window_start

    def document(self) -> Document:
        """The feed's memory, to be given to a later one."""
        assert self._start is not None, "document() before the first read()"
        assert self._through is not None, "document() before the first commit()"
        return {
            "start": self._start.isoformat(),
            "through": self._through.isoformat(),
            "seen": self._seen.pack(),
        }


class _Search:
    """One look for new events between two times."""

    def __init__(
        self, api: PrefectApi, criteria: Mapping[str, Any], seen: Marks, since: datetime, until: datetime
    ) -> None:
        self._api = api
        self._criteria = criteria
        self._since = since
        self._until = until
        self._stop_at = api.seconds_left() / 2
        self.seen = seen
        self.found: dict[str, Event] = {}
        self._found = Marks()

    def run(self) -> int:
        """Collect new events in `found`; returns how many the server has that were left for next time."""
        first, end = bucket_of(self._since), bucket_of(self._until) + 1
        page = self._first_page(self._since, self._until, EVENTS_PAGE_SIZE)
        if page.total < self.seen.count(first, end):
            # Events that were read are gone, as after a restored backup: totals can only be compared afresh.
            self._forget_vanished(page)
            return 0
        oldest = self._read_while_new(page, first, end)
        if oldest is not None:
            end_of_rest = min(end, bucket_of(oldest) + 1)
            # Where the last reading stopped for lack of time, what is new begins at the oldest known event.
            edge = min(self.seen.oldest_bucket(first), end_of_rest)
            after_edge = min(edge + 1, end_of_rest)
            self._look_into(first, edge)
            self._look_into(edge, after_edge)
            self._look_into(after_edge, end_of_rest)
        return max(0, page.total - self._known(first, end)) if self._must_stop() else 0

    def _read_while_new(self, page: EventPage, first: int, end: int) -> datetime | None:
        """Follow pages until all is known, or until one brings nothing new: then returns how far back it went."""
        total = page.total
        while True:
            is_new = [self._take(event) for event in page.events]
            if self._known(first, end) >= total or self._must_stop():
                return None
            if page.events and not any(is_new):
                return min(event.occurred for event in page.events)
            following = self._api.next_events(page)
            if following is None:
                return None
            page = following

    def _look_into(self, first: int, end: int) -> None:
        """Find what arrived late in the buckets from `first` to before `end`, halving the span by totals."""
        if first >= end or self._must_stop():
            return
        since, until = max(self._since, start_of(first)), min(self._until, start_of(end) - INSTANT)
        known = self._known(first, end)
        if self._first_page(since, until, 0).total <= known:
            return
        if known == 0:
            self._read_while_new(self._first_page(since, until, EVENTS_PAGE_SIZE), first, end)
        elif end - first > 1:
            middle = (first + end) // 2
            self._look_into(middle, end)
            self._look_into(first, middle)
        else:
            for event in self._all(since, until):
                self._take(event)
                if self._must_stop():
                    return

    def _forget_vanished(self, page: EventPage) -> None:
        present = Marks()
        for event in self._pages_from(page):
            if not self._take(event):
                present.add(event.id, event.occurred)
            if self._must_stop():
                return
        self.seen = present

    def _all(self, since: datetime, until: datetime) -> Iterator[Event]:
        return self._pages_from(self._first_page(since, until, EVENTS_PAGE_SIZE))

    def _pages_from(self, page: EventPage | None) -> Iterator[Event]:
        while page is not None:
            yield from page.events
            page = self._api.next_events(page)

    def _first_page(self, since: datetime, until: datetime, limit: int) -> EventPage:
        return self._api.events(self._criteria, since, until, limit)

    def _take(self, event: Event) -> bool:
        if self.seen.has(event.id, event.occurred) or event.id in self.found:
            return False
        self.found[event.id] = event
        self._found.add(event.id, event.occurred)
        return True

    def _known(self, first: int, end: int) -> int:
        return self.seen.count(first, end) + self._found.count(first, end)

    def _must_stop(self) -> bool:
        """Half of the time left is for what the events lead to: runs, names and histories to be looked up."""
        return len(self.found) >= MOST_READ_AT_ONCE or self._api.seconds_left() < self._stop_at


def aware_moment(text: Any) -> datetime:
    """The time that a text of ISO 8601 tells; raises `ValueError` for one without a zone."""
    if not isinstance(text, str):
        raise ValueError("not a time")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment
