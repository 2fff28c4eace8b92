"""The time of a check run: how long each request may take, and which endpoints must not be requested for a while."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import LeftAlone, NoAnswerInTime, OutOfTime

# A request with less time than this cannot succeed.
LEAST_TIMEOUT_SECONDS = 0.05
# Longer pauses are cut to this, so that a wrong `Retry-After` does not stop the check unnoticed.
MOST_PAUSE_SECONDS = 600.0
# These endpoints are requested even while the server asks for a pause of everything else.
SIGNS_OF_LIFE = frozenset({"/health", "/ready"})
NAME_IN_PATH = re.compile(r"^/work_pools/[^/]+/")


class TimeBudget:
    """The seconds that the requests of one check run may take in total.

    An endpoint is a path, without the names in it. `share` limits the requests within it, so that they do not use the
    time of those that follow. `paused_until`, which outlives the check run, says when an endpoint may be requested
    again, in seconds of the monotonic clock.
    """

    def __init__(
        self,
        seconds: float,
        paused_until: dict[str, float],
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.monotonic = monotonic
        self._sleep = sleep
        self._seconds = seconds
        self._end = self._deadline = monotonic() + seconds
        self._paused_until = paused_until
        # For how many seconds each endpoint did not answer.
        self._waited: dict[str, float] = {}

    @contextmanager
    def share(self, fraction: float) -> Iterator[None]:
        """Limit the requests within this context to a fraction of the time that is left.

        `check.py` gives each collector its share.
        """
        outer = self._deadline
        self._deadline = self.monotonic() + fraction * self.seconds_left()
        try:
            yield
        finally:
            self._deadline = outer

    def seconds_left(self) -> float:
        """The seconds left of the current share."""
        return max(0.0, self._deadline - self.monotonic())

    def pause(self, path: str, seconds: float) -> None:
        """Do not request this endpoint for this long, as the server asked, but for ten minutes at most."""
        self._paused_until[_endpoint(path)] = self.monotonic() + min(seconds, MOST_PAUSE_SECONDS)

    def wait(self, path: str, seconds: float) -> bool:
        """Wait at least this long, and until the endpoint may be requested. Returns False if time is too short."""
        until = max(self.monotonic() + seconds, self._allowed_at(path))
        if until >= self._deadline:
            return False
        self._sleep(max(0.0, until - self.monotonic()))
        return True

    def patience(self, request: str, path: str, timeout_seconds: float) -> float:
        """How many seconds to wait for a response, after any pause that the server asked for.

        Raises `OutOfTime` if none are left, or if the endpoint failed to answer within as many seconds before.
        """
        pause = self._allowed_at(path) - self.monotonic()
        if pause >= self.seconds_left() > 0:
            raise LeftAlone(request, pause)
        if pause > 0:
            self._sleep(pause)
        left = self.seconds_left()
        if left <= LEAST_TIMEOUT_SECONDS:
            raise self.used_up(request)
        waited = self._waited.get(_endpoint(path), 0.0)
        if min(left, timeout_seconds) <= waited:
            raise NoAnswerInTime(request, waited)
        return left

    def waited_in_vain(self, path: str, seconds: float) -> None:
        """Note that the endpoint did not answer for this long. In this check run, it gets no request with less time."""
        endpoint = _endpoint(path)
        self._waited[endpoint] = max(seconds, self._waited.get(endpoint, 0.0))

    def used_up(self, request: str) -> OutOfTime:
        """The error to raise when there is no time left for a request."""
        return OutOfTime(request, self._seconds, of_run=self.monotonic() >= self._end - LEAST_TIMEOUT_SECONDS)

    def _allowed_at(self, path: str) -> float:
        """When the endpoint may be requested. If two endpoints asked for a pause, all endpoints get it."""
        now, endpoint = self.monotonic(), _endpoint(path)
        for other in [other for other, until in self._paused_until.items() if until <= now]:
            del self._paused_until[other]
        own = self._paused_until.get(endpoint, now)
        everyones = sorted(self._paused_until.values(), reverse=True)[1:2]
        return own if endpoint in SIGNS_OF_LIFE or not everyones else max(own, *everyones)


def _endpoint(path: str) -> str:
    return NAME_IN_PATH.sub("/work_pools/*/", path)
