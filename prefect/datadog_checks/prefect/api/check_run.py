"""One check run: made when it begins, and thrown away after it, so that nothing has to be reset."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from .clock import ServerClock
from .errors import ApiError, OutOfTime
from .models import Oddities
from .time_budget import TimeBudget

Value = TypeVar("Value")


class CheckRun:
    """Its time, its view of the server's clock, what it has read, and what of that was odd.

    `before` is the check run before this one. `has_answered` tells whether the server, or what stands in its place, has
    answered a request. `has_news` tells whether events were read that are new, and `had_news` the same of the check run
    before, of which nothing is known at the beginning.
    """

    def __init__(self, time: TimeBudget, clock: ServerClock, before: CheckRun | None = None) -> None:
        self.time = time
        self.clock = clock
        self.oddities: Oddities = Oddities(before=before.oddities if before is not None else None)
        self.has_answered = False
        self.had_news: bool = before.has_news if before is not None else True
        self.has_news: bool = before is None
        self._outcomes: dict[Hashable, Any] = {}

    def once(self, read: Callable[..., Value], *arguments: Any) -> Value:
        """What `read` returns, called once in this check run for all who need it, with the arguments of the first.

        An `ApiError` is theirs alike, unless it is for want of time, of which the next one may have more.
        """
        if read not in self._outcomes:
            try:
                self._outcomes[read] = read(*arguments)
            except OutOfTime:
                raise
            except ApiError as error:
                self._outcomes[read] = error
        outcome = self._outcomes[read]
        if isinstance(outcome, ApiError):
            raise outcome
        value: Value = outcome
        return value
