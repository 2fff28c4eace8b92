"""Whether anything happened on the server: one total of events, shared by all feeds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.api.prefect import EVENTS_KEPT, PrefectApi

READINESS = frozenset(
    f"prefect.{kind}.{status}"
    for kind in ("work-pool", "work-queue", "deployment")
    for status in ("ready", "not-ready")
)
DEPLOYMENT_DELETED = "prefect.deployment.deleted"
# Everything that a feed reads, unless the instance selects events by name, and changes of deployments.
CRITERIA = {
    "event": {
        "prefix": ["prefect.flow-run.", "prefect.task-run.", "prefect.deployment.", *sorted(READINESS)],
        "exclude_prefix": ["prefect.flow-run.heartbeat"],
    }
}
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Turn:
    """While there are no events, one in `every` check runs asks for something that can change without one."""

    every: int
    place: int


# The scheduler plans runs, and deployments are paused, without events.
PLANNED_RUNS, NEWEST_DEPLOYMENTS = Turn(2, 0), Turn(2, 1)
NUMBER_OF_DEPLOYMENTS, CONCURRENCY_LIMITS, TASK_RUNS = Turn(8, 7), Turn(8, 7), Turn(8, 0)

# The time from which events were counted, and their number.
EventTotal = tuple[datetime, int]


@dataclass(frozen=True)
class Reach:
    """How far back feeds look for events.

    `lookback`, for events that become visible late, is the option `event_lookback_seconds`; `catch_up`, after a pause,
    is `max_catch_up_seconds`.
    """

    lookback: timedelta
    catch_up: timedelta


class EventActivity:
    """The total of events of all kinds. While it stays the same, a feed that was read to its end has nothing new.

    `EventFeed.read` decides whether it reads.

    If the last check run had news, the total is not requested: this one probably has news too. `reach` is that of all
    feeds.
    """

    def __init__(self, api: PrefectApi, reach: Reach) -> None:
        self._api = api
        self.reach = reach
        # Longer than any feed looks back.
        self._span = reach.lookback + reach.catch_up
        # The number of the check run that asks for everything, because of a change without an event.
        self._asks_for_all_in = 0
        # As of this check run and the one before.
        self._total: EventTotal | None = None
        self._total_before: EventTotal | None = None

    def note_news(self) -> None:
        self._api.run.has_news = True

    def total(self) -> EventTotal | None:
        """The total in this check run; None if it was not requested, or the request failed."""
        return self._api.run.once(self._read)

    def is_turn_of(self, turn: Turn) -> bool:
        """Whether it is time to ask for this: always, unless nothing has happened since the last check run."""
        total, number = self.total(), self._api.run.number
        is_quiet = total is not None and total == self._total_before and number != self._asks_for_all_in
        return not is_quiet or number % turn.every == turn.place

    def note_change(self) -> None:
        """Something has changed without an event. In the next check run, it is time to ask for everything."""
        self._asks_for_all_in = self._api.run.number + 1

    def _read(self) -> EventTotal | None:
        self._total_before, self._total = self._total, self._count()
        return self._total

    def _count(self) -> EventTotal | None:
        # Old events that the server deletes must not hide new ones.
        if self._api.run.had_news or self._span + HOUR > EVENTS_KEPT / 2:
            return None
        now = self._api.now()
        since = (now - self._span).replace(minute=0, second=0, microsecond=0)
        try:
            return since, self._api.events(CRITERIA, since, now + self.reach.lookback, 0).total
        except ApiError:
            # The feeds will run into the same error, and report it.
            return None
