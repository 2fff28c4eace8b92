"""The state of one check run, created anew for each, so that nothing has to be reset."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from .clock import ServerClock
from .errors import ApiError, OutOfTime
from .models import Oddities
from .time_budget import TimeBudget

Value = TypeVar("Value")


class CheckRun:
    """The time budget, the server's clock, what was read already, and what was odd in it.

    `before` is the previous check run. `has_answered`: whether the server, or whatever listens in its place, has
    responded. `has_news`: whether new events were read. `had_news`: the same for the previous check run.
    `number` counts the check runs.
    """

    def __init__(self, time: TimeBudget, clock: ServerClock, before: CheckRun | None = None) -> None:
        self.time = time
        self.clock = clock
        self.oddities: Oddities = Oddities(before=before.oddities if before is not None else None)
        self.number: int = before.number + 1 if before is not None else 0
        self.has_answered = False
        self.had_news: bool = before is not None and before.has_news
        self.has_news: bool = False
        # Spent on reading what is not known yet.
        self.initial_load_seconds = 0.0
        self._outcomes: dict[Hashable, Any] = {}

    def once(self, read: Callable[..., Value], *arguments: Any) -> Value:
        """The result of `read`, which is called once in this check run, with the arguments of the first caller.

        An `ApiError` is remembered and raised for all callers, but not `OutOfTime`: the next one may have more time.
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
