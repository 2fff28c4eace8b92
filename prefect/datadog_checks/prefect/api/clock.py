"""The Prefect server's clock, read off its answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from .models import EARLIEST, LATEST

# The header is cut to whole seconds, and servers renew it only about once a second.
DATE_RESOLUTION_SECONDS = 2.0


class ServerClock:
    """Tells the server's time on a host whose own clock may be wrong or may jump.

    Good for one check run: monotonic clocks stand still while a host sleeps.

    Each answer's `Date` header bounds the difference between the server's clock and the host's monotonic one. Where the
    host's clock lies within the bounds it is taken as it is, being the finer one; else the nearest bound is.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._host_offset = self._wall() - self._monotonic()
        self._lowest, self._highest = float("-inf"), float("inf")

    def observe(self, date_header: str | None, sent: float, received: float) -> None:
        """Take in an answer's `Date` header; `sent` and `received` are readings of the monotonic clock."""
        moment = http_date(date_header)
        if moment is None:
            return
        date = moment.timestamp()
        lowest, highest = date - received, date + DATE_RESOLUTION_SECONDS - sent
        if lowest > self._highest or highest < self._lowest:
            # Two clocks answer, as when a cache or a proxy puts in its own date: believe the last.
            self._lowest, self._highest = lowest, highest
        else:
            self._lowest, self._highest = max(lowest, self._lowest), min(highest, self._highest)

    def now(self) -> datetime:
        """The server's current time, to about a second, with time zone UTC."""
        return datetime.fromtimestamp(self._monotonic() + self._offset(), UTC)

    def ahead_of_host(self) -> timedelta:
        """How far the server's clock is ahead of the host's at least; negative where it is behind."""
        return timedelta(seconds=self._offset() - self._host_offset)

    def _offset(self) -> float:
        return min(max(self._host_offset, self._lowest), self._highest)


def http_date(header: str | None) -> datetime | None:
    """The time that a header tells; None for what is no date, or none that can be meant."""
    try:
        date = parsedate_to_datetime(header or "")
    except (TypeError, ValueError, OverflowError):
        return None
    # The zone -0000 is UTC, of which nothing is said about where the sender is.
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return date if EARLIEST <= date <= LATEST else None
