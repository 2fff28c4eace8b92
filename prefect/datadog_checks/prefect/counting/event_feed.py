"""Gives out each event of a kind once, however late it becomes visible, without reading known events again.

The server pages events by the time at which they occurred, and counts them, but cannot list what is new. The feed
therefore remembers the keys of the events that it read, by minute, and compares the server's totals with its own. Equal
totals mean that nothing is new. Where the server's total is larger, an event arrived late.

Run objects tell of some transitions before their events arrive. The feed remembers these keys too, so that no
transition is counted twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from datadog_checks.prefect.api.models import EARLIEST, LATEST, Event, EventPage
from datadog_checks.prefect.api.prefect import EVENTS_PAGE_SIZE, PrefectApi
from datadog_checks.prefect.state_store import Document, aware_moment

from .event_activity import EventActivity, EventTotal, Reach
from .late_arrivals import LateArrivals
from .seen_keys import SeenKeys, bucket_of, start_of

# These bounds keep the stored state below a megabyte. Beyond them the feed stops looking back into the oldest minutes.
MOST_REMEMBERED, MOST_IN_FULL = 240_000, 20_000
# The same for keys whose events have not arrived yet.
MOST_EXPECTED, MOST_EXPECTED_IN_FULL = 40_000, 5_000
# Events in memory at a time. A check run reads more in the next turn if there is time.
MOST_READ_AT_ONCE = 3_000
INSTANT = timedelta(microseconds=1)

KeyOf = Callable[[Event], str]
# Buckets of time, from the first to before the second.
Span = tuple[int, int]


@dataclass(frozen=True)
class Reading:
    """New events in the order in which they occurred.

    - `behind`: how many more events the server has; the next reading returns them.
    - `lost`: the start and the end of a period in which events are no longer searched.
    - `too_late`: how many events became visible after the look-back.
    - `is_quiet`: whether the server has no event that earlier readings did not return.
    """

    events: list[Event]
    behind: int = 0
    lost: tuple[datetime, datetime] | None = None
    too_late: int = 0
    is_quiet: bool = False


class EventFeed:
    """The events that match `criteria`. Each is given out until it is committed.

    `criteria` are filters of `/events/filter`, without the times. `key_of` gives the key of an event. A collector that
    learned of the same transition from a run object passes that key to `has` and `expect`. `saved` is the `document` of
    an earlier feed; raises `ValueError` if it is damaged. With `activity`, the feed is not read while nothing happens.
    """

    def __init__(
        self,
        api: PrefectApi,
        criteria: Mapping[str, Any],
        saved: Document | None,
        reach: Reach,
        key_of: KeyOf = lambda event: event.id,
        activity: EventActivity | None = None,
    ) -> None:
        self._api = api
        self._criteria = criteria
        self._reach = reach
        self._activity = activity
        self._key_of = key_of
        # Events before the start are ignored. A feed without a past does not know its start yet.
        self._start = LATEST
        self._through: datetime | None = None
        self._seen = SeenKeys()
        self._closed = LateArrivals()
        # Keys whose events have not arrived yet: committed ones, and those of this check run.
        self._expected = SeenKeys()
        self._staged: dict[str, datetime] = {}
        # The server's total when the feed was last read to its end, and now.
        self._total: EventTotal | None = None
        self._next_total: EventTotal | None = None
        # When the last reading was, and how far it looked back.
        self._read_at = self.window_start = EARLIEST
        self._given_out = 0
        self._expects_news = True
        self._left_off: Span | None = None
        if saved is not None:
            try:
                self._start, self._through = aware_moment(saved["start"]), aware_moment(saved["through"])
                self._seen = SeenKeys.unpack(saved["seen"])
                self._closed = LateArrivals.unpack(saved["closed"])
                self._expected = SeenKeys.unpack(saved.get("counted", {}))
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"damaged: {error}") from None

    def read(self, first_interval: timedelta) -> Reading:
        """The new events. A feed without a past begins `first_interval` ago. Raises `ApiError`."""
        self._staged.clear()
        self._next_total = self._activity.total() if self._activity else None
        is_quiet = self._next_total is not None and self._next_total == self._total
        now = self._api.now()
        if self._start > now + self._reach.lookback:
            # A first reading, or the server's clock was set back by hours.
            self._start, self._through = now - first_interval, None
            self._seen, self._closed = SeenKeys(), LateArrivals()
        lost = self._give_up_before(now - self._reach.catch_up)
        # Events that became visible during a pause may have occurred one look-back before it.
        looked = min(now, self._through) if self._through else now
        since = max(self._start, start_of(bucket_of(looked - self._reach.lookback)))
        search = _Search(self._api, self._criteria, self._seen, self._key_of, since, now + self._reach.lookback)
        behind = 0 if is_quiet else search.run(self._expects_news, self._left_off)
        self._left_off = search.left_off
        too_late = 0 if is_quiet or search.must_stop() else self._closed.count_arrivals(self._total_of)
        self._expects_news = bool(search.found or behind)
        self._read_at, self.window_start, self._given_out = now, since, len(search.found) + behind
        if self._activity and self._expects_news:
            self._activity.note_news()
        events = sorted(search.found, key=lambda event: event.occurred)
        return Reading(events, behind, lost, too_late, is_quiet)

    def _give_up_before(self, moment: datetime) -> tuple[datetime, datetime] | None:
        """Give up events between the last reading and this moment; returns that span, or None."""
        if self._through is None or self._through >= moment:
            return None
        self._start, self._closed = max(self._start, moment), LateArrivals()
        return self._through, moment

    def _total_of(self, first: int, end: int) -> int:
        return self._api.events(self._criteria, start_of(first), start_of(end) - INSTANT, 0).total

    def commit(self, events: list[Event], put_off: int = 0) -> None:
        """Do not give these events of the last reading out again.

        `put_off` is the number of other events that come again although there was time for them.
        """
        for key, at in self._staged.items():
            self._expected.add(key, at)
        self._staged.clear()
        for event in events:
            self._seen.add(self._key_of(event), event.occurred)
            self._expected.discard(self._key_of(event), event.occurred)
        self._total = self._next_total if len(events) == self._given_out else None
        if len(events) + put_off == self._given_out:
            self._through = self._read_at
        else:
            self._through = self._through or self.window_start
        # Forgotten events must not be read again, even if the server's clock is set back.
        self._look_back_to(max(self._start, self.window_start))
        for keys, most, most_in_full in (
            (self._expected, MOST_EXPECTED, MOST_EXPECTED_IN_FULL),
            (self._seen, MOST_REMEMBERED, MOST_IN_FULL),
        ):
            first_kept = keys.first_of_newest(most)
            if first_kept is not None:
                self._look_back_to(start_of(first_kept))
            keys.coarsen_but_newest(most_in_full)

    def _look_back_to(self, moment: datetime) -> None:
        """Ignore events before this moment from now on."""
        first, self._start = bucket_of(self._start - INSTANT) + 1, max(self._start, moment)
        end = bucket_of(self._start)
        # Only whole minutes are compared later; the one that the old start lies in is not whole.
        self._closed.close(first, self._seen.counts(first, end))
        self._seen.forget_before(end)
        self._expected.forget_before(end)

    def has(self, key: str, at: datetime) -> bool:
        """Whether an event with this key and time was committed, or is expected."""
        return key in self._staged or self._seen.has(key, at) or self._expected.has(key, at)

    def expect(self, key: str, at: datetime) -> None:
        """Note that the transition of this key is counted already. Its event may arrive later, or never.

        The next `read` drops the note unless `commit` came before it.
        """
        self._staged[key] = at

    def covers(self, moment: datetime) -> bool:
        """Whether the last reading covered this time."""
        return self.window_start <= moment <= self._read_at + self._reach.lookback

    def document(self) -> Document:
        """The state after a `commit`, for a later feed."""
        return {
            "start": self._start.isoformat(),
            "through": (self._through or self._start).isoformat(),
            "seen": self._seen.pack(),
            "closed": self._closed.pack(),
            "counted": self._expected.pack(),
        }


class _Search:
    """One search for new events between two times."""

    def __init__(
        self,
        api: PrefectApi,
        criteria: Mapping[str, Any],
        seen: SeenKeys,
        key_of: KeyOf,
        since: datetime,
        until: datetime,
    ) -> None:
        self._api = api
        self._criteria = criteria
        self._seen = seen
        self._key_of = key_of
        self._since = since
        self._until = until
        self._stop_at = api.seconds_left() / 2
        self.found: list[Event] = []
        self._found = SeenKeys()
        # A span with new events that there was no time to find.
        self.left_off: Span | None = None

    def run(self, expects_news: bool, left_off: Span | None = None) -> int:
        """Collect new events in `found`; returns how many are left for the next search.

        Unless news is expected, only the total is requested at first. `left_off` of the previous search is searched
        before the rest.
        """
        first, end = bucket_of(self._since), bucket_of(self._until) + 1
        if not expects_news:
            total = self._first_page(self._since, self._until, 0).total
            if total == self._seen.count(first, end):
                return 0
        page = self._first_page(self._since, self._until, EVENTS_PAGE_SIZE)
        if page.total < self._seen.count(first, end):
            # Known events are gone, for example after a restored backup: count again what is there.
            self._recount(page)
            return 0
        oldest = self._read_while_new(page, first, end)
        if oldest is not None:
            if left_off is not None:
                self._find_late(max(left_off[0], first), left_off[1])
            end_of_rest = min(end, bucket_of(oldest) + 1)
            # If the last reading ran out of time, new events begin at the oldest known one.
            edge = min(self._seen.oldest_bucket(first), end_of_rest)
            after_edge = min(edge + 1, end_of_rest)
            self._find_late(first, edge)
            self._find_late(edge, after_edge)
            self._find_late(after_edge, end_of_rest)
        return max(0, page.total - self._known(first, end)) if self.must_stop() else 0

    def _read_while_new(self, page: EventPage, first: int, end: int) -> datetime | None:
        """Follow pages until all is known, or a page has nothing new; then returns the time of its oldest event."""
        total = page.total
        while True:
            is_new = [self._take(event) for event in page.events]
            if self._known(first, end) >= total or self.must_stop():
                return None
            if not any(is_new):
                return min((event.occurred for event in page.events), default=None)
            following = self._api.next_events(page)
            if following is None:
                return None
            page = following

    def _find_late(self, first: int, end: int, total: int | None = None) -> None:
        """Find late events in the buckets from `first` to before `end`: halve the span where the totals differ."""
        if first >= end:
            return
        if self.must_stop():
            self.left_off = self.left_off or (first, end)
            return
        since, until = max(self._since, start_of(first)), min(self._until, start_of(end) - INSTANT)
        known = self._known(first, end)
        if total is None:
            total = self._first_page(since, until, 0).total
        if total <= known:
            return
        if known == 0:
            self._read_while_new(self._first_page(since, until, EVENTS_PAGE_SIZE), first, end)
        elif end - first > 1:
            middle = (first + end) // 2
            newer = self._first_page(start_of(middle), until, 0).total
            # The older half comes first: it is the next to leave the look-back.
            self._find_late(first, middle, total - newer)
            self._find_late(middle, end, newer)
        else:
            for event in self._all(since, until):
                self._take(event)
                if self.must_stop():
                    return

    def _recount(self, page: EventPage) -> None:
        present: Counter[int] = Counter()
        for event in self._pages_from(page):
            if not self._take(event):
                present[bucket_of(event.occurred)] += 1
            if self.must_stop():
                return
        self._seen.recount(present)

    def _all(self, since: datetime, until: datetime) -> Iterator[Event]:
        return self._pages_from(self._first_page(since, until, EVENTS_PAGE_SIZE))

    def _pages_from(self, page: EventPage | None) -> Iterator[Event]:
        while page is not None and page.events:
            yield from page.events
            page = self._api.next_events(page)

    def _first_page(self, since: datetime, until: datetime, limit: int) -> EventPage:
        return self._api.events(self._criteria, since, until, limit)

    def _take(self, event: Event) -> bool:
        key = self._key_of(event)
        if self._seen.has(key, event.occurred) or self._found.has(key, event.occurred):
            return False
        self.found.append(event)
        self._found.add(key, event.occurred)
        return True

    def _known(self, first: int, end: int) -> int:
        return self._seen.count(first, end) + self._found.count(first, end)

    def must_stop(self) -> bool:
        """Keep half of the time for the runs, names and histories that the events refer to."""
        return len(self.found) >= MOST_READ_AT_ONCE or self._api.seconds_left() < self._stop_at
