"""How much of a check run's time goes into reading what is not known yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from datadog_checks.prefect.api.prefect import PrefectApi


class InitialLoadTime:
    """The seconds of each check run for the initial load of deployments and planned runs.

    They are a share of the collection interval. The slower the server responds, whatever the reason, the less is read:
    a server that is busy with other requests is not burdened more.
    """

    def __init__(self, api: PrefectApi, seconds: float) -> None:
        self._api = api
        self._seconds = seconds
        self._is_spending = False

    @property
    def is_set(self) -> bool:
        """Whether there are any seconds; without, each mirror reads a fixed number of objects."""
        return self._seconds > 0

    def seconds_left(self, part: float = 1.0) -> float:
        """What is left of this part of the seconds in this check run."""
        return max(0.0, part * self._seconds - self._api.run.initial_load_seconds)

    def is_left(self, part: float = 1.0) -> bool:
        return self.seconds_left(part) > 0

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Count the time of the requests within this context. Contexts may be nested."""
        if self._is_spending:
            yield
            return
        before, self._is_spending = self._api.seconds_left(), True
        try:
            yield
        finally:
            self._is_spending = False
            self._api.run.initial_load_seconds += max(0.0, before - self._api.seconds_left())


class Progress:
    """How far the initial load is, and how long it will take."""

    def __init__(self) -> None:
        self._began: tuple[datetime, int] | None = None

    def words(self, known: int, total: int, now: datetime) -> str:
        """Such as "640 of 10,000 read, about 12 minutes left": at the average speed since the first call."""
        words = f"{known:,} of {total:,} read"
        if self._began is None or known < self._began[1]:
            self._began = now, known
        began, known_then = self._began
        if known <= known_then or now <= began:
            return words
        minutes = (total - known) * (now - began).total_seconds() / (known - known_then) / 60
        return f"{words}, about {max(1, round(minutes)):,} minutes left"
