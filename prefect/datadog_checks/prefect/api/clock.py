"""The Prefect server's clock, read from its responses."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from .models import EARLIEST, LATEST

# The header has whole seconds, and servers update it only about once a second.
DATE_RESOLUTION_SECONDS = 2.0


class ServerClock:
    """Tells the server's time on a host whose own clock may be wrong or may jump.

    Valid for one check run: monotonic clocks stop while a host sleeps.

    The `Date` header of each response bounds the difference between the server's clock and the host's monotonic clock.
    Within the bounds, the host's clock is used, because it is more precise; otherwise the nearest bound is.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._host_offset = self._wall() - self._monotonic()
        self._lowest, self._highest = float("-inf"), float("inf")

    def observe(self, date_header: str | None, sent: float, received: float) -> None:
        """Narrow the bounds by a response's `Date` header; `sent` and `received` are monotonic times in seconds."""
        moment = http_date(date_header)
        if moment is None:
            return
        date = moment.timestamp()
        lowest, highest = date - received, date + DATE_RESOLUTION_SECONDS - sent
        if lowest > self._highest or highest < self._lowest:
            # There are two clocks, for example because a cache or a proxy sets its own date: trust the latest.
            self._lowest, self._highest = lowest, highest
        else:
            self._lowest, self._highest = max(lowest, self._lowest), min(highest, self._highest)

    def now(self) -> datetime:
        """The server's current time in UTC, accurate to about a second."""
        return datetime.fromtimestamp(self._monotonic() + self._offset(), UTC)

    def ahead_of_host(self) -> timedelta:
        """At least how far the server's clock is ahead of the host's; negative if it is behind."""
        return timedelta(seconds=self._offset() - self._host_offset)

    def _offset(self) -> float:
        return min(max(self._host_offset, self._lowest), self._highest)


def http_date(header: str | None) -> datetime | None:
    """The time in a header; None if it is not a date, or not a plausible one."""
    try:
        date = parsedate_to_datetime(header or "")
    except (TypeError, ValueError, OverflowError):
        return None
    # The zone -0000, which is parsed as no zone, means UTC.
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return date if EARLIEST <= date <= LATEST else None
