"""Whether anything happened on the server, told by one total for all who read events."""

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
# All that any feed reads, unless the instance names events of its own.
CRITERIA = {
    "event": {
        "prefix": ["prefect.flow-run.", "prefect.task-run.", *sorted(READINESS), DEPLOYMENT_DELETED],
        "exclude_prefix": ["prefect.flow-run.heartbeat"],
    }
}
HOUR = timedelta(hours=1)

# Since when events were counted, and how many there were.
EventTotal = tuple[datetime, int]


@dataclass(frozen=True)
class Reach:
    """How far back to look: for events that become visible late, and after a time in which nobody looked."""

    lookback: timedelta = timedelta(hours=1)
    catch_up: timedelta = timedelta(hours=1)


class EventActivity:
    """A feed that was read to its end need not be read again as long as the total is the same.

    While there is news in each check run, no total is asked for, which saves the request.
    """

    def __init__(self, api: PrefectApi, reach: Reach) -> None:
        self._api = api
        # Further back than any feed looks.
        self._span = reach.lookback + reach.catch_up
        self._lookback = reach.lookback

    def note_news(self) -> None:
        self._api.run.has_news = True

    def total(self) -> EventTotal | None:
        """The total in this check run; None where it is not asked for, or cannot be had."""
        return self._api.run.once(self._read)

    def _read(self) -> EventTotal | None:
        # What the server deletes for its age must not make up for what is new.
        if self._api.run.had_news or self._span + HOUR > EVENTS_KEPT / 2:
            return None
        now = self._api.now()
        since = (now - self._span).replace(minute=0, second=0, microsecond=0)
        try:
            return since, self._api.events(CRITERIA, since, now + self._lookback, 0).total
        except ApiError:
            # Who reads events will find out for itself.
            return None
