"""The time of a check run: how long a request may take, in which share, and which endpoints are to be left alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import LeftAlone, NoAnswerInTime, OutOfTime

# Less than this is not enough for an answer.
LEAST_TIMEOUT_SECONDS = 0.05
# A server that asks to be left alone for longer is asked again all the same: nobody would look for what it forgot.
MOST_PAUSE_SECONDS = 600.0
# What tells whether the server lives is asked for also while it wants to be left alone with everything else.
SIGNS_OF_LIFE = frozenset({"/health", "/ready"})
NAME_IN_PATH = re.compile(r"^/work_pools/[^/]+/")


class TimeBudget:
    """The seconds that the requests of one check run may take together.

    Endpoints are paths; those that hold a name are one. `share` bounds what is asked for within it, so that nothing
    takes the time of what follows. `paused_until` outlives the check run: when endpoints may be asked again that want
    to be left alone.
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
        # How long endpoints did not answer.
        self._waited: dict[str, float] = {}

    @contextmanager
    def share(self, fraction: float) -> Iterator[None]:
        """Leave no more than this fraction of what is left to the requests that are sent meanwhile."""
        outer = self._deadline
        self._deadline = self.monotonic() + fraction * self.seconds_left()
        try:
            yield
        finally:
            self._deadline = outer

    def seconds_left(self) -> float:
        """What is left of the share."""
        return max(0.0, self._deadline - self.monotonic())

    def pause(self, path: str, seconds: float) -> None:
        """The endpoint asked to be left alone for so long."""
        self._paused_until[_endpoint(path)] = self.monotonic() + min(seconds, MOST_PAUSE_SECONDS)

    def wait(self, path: str, seconds: float) -> bool:
        """Wait until the endpoint may be asked again, for so long at least; False where there is no time for that."""
        until = max(self.monotonic() + seconds, self._allowed_at(path))
        if until >= self._deadline:
            return False
        self._sleep(max(0.0, until - self.monotonic()))
        return True

    def patience(self, request: str, path: str, timeout_seconds: float) -> float:
        """How many seconds an answer may be waited for.

        Raises `OutOfTime` where none are left, or no more than it took without an answer before.
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
        """The endpoint gave no answer for so long: it is not asked again in this check run with less patience."""
        endpoint = _endpoint(path)
        self._waited[endpoint] = max(seconds, self._waited.get(endpoint, 0.0))

    def used_up(self, request: str) -> OutOfTime:
        """What to raise when there is no time left for a request."""
        return OutOfTime(request, self._seconds, of_run=self.monotonic() >= self._end - LEAST_TIMEOUT_SECONDS)

    def _allowed_at(self, path: str) -> float:
        """When the endpoint may be asked; where two others want to be left alone, the server does."""
        now, endpoint = self.monotonic(), _endpoint(path)
        for other in [other for other, until in self._paused_until.items() if until <= now]:
            del self._paused_until[other]
        own = self._paused_until.get(endpoint, now)
        everyones = sorted(self._paused_until.values(), reverse=True)[1:2]
        return own if endpoint in SIGNS_OF_LIFE or not everyones else max(own, *everyones)


def _endpoint(path: str) -> str:
    return NAME_IN_PATH.sub("/work_pools/*/", path)
