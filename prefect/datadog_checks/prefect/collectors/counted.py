"""The bases of collectors that take each event once, or count each transition once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from datadog_checks.prefect.api.errors import ApiError, OutOfTime
from datadog_checks.prefect.api.models import Event
from datadog_checks.prefect.api.paging import is_uuid
from datadog_checks.prefect.config.settings import Settings
from datadog_checks.prefect.counting.event_feed import MOST_READ_AT_ONCE, EventFeed, Reading
from datadog_checks.prefect.counting.transitions import Transition, transition_of
from datadog_checks.prefect.output.submitter import Sheet
from datadog_checks.prefect.state_store import Document, aware_moment, why_unreadable

from .base import Collector, Context


class FeedCollector(Collector):
    """A collector that takes each event of a kind once."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._taken: list[Event] = []
        # Ids of events that the feed should give out again.
        self.put_off: set[str] = set()
        # Whether nothing has happened on the server since all events were taken.
        self.is_quiet = False
        # How many events one turn takes; fewer after a turn that ran out of time.
        self._at_once = MOST_READ_AT_ONCE
        try:
            self.restore(context.store.load(self.document()))
        except Exception as error:  # whatever is in the file
            context.store.report_unreadable(self.document(), why_unreadable(error))
            self.restore(None)

    @classmethod
    @abstractmethod
    def document_of(cls, settings: Settings) -> str:
        """The name of the stored state for these settings."""

    def document(self) -> str:
        """The name of the collector's stored state."""
        return self.document_of(self.context.settings)

    @abstractmethod
    def criteria(self) -> dict[str, Any]:
        """Filters of `/events/filter`, without the times."""

    @abstractmethod
    def take(self, sheet: Sheet, events: list[Event]) -> int:
        """Put samples for these events on the sheet, except for those that it adds to `put_off`.

        Returns for how many of the events, from the first on, there was time.
        """

    def watches(self) -> bool:
        """Whether `EventActivity` covers all events that are read here."""
        return True

    def collect(self, sheet: Sheet) -> None:
        reading = self._feed.read(self.context.settings.interval)
        self.is_quiet = reading.is_quiet
        events = reading.events[: self._at_once]
        self.put_off.clear()
        try:
            taken = self.take(sheet, events)
        except OutOfTime:
            self._at_once = max(1, len(events) // 4)
            raise
        if taken == len(events):
            self._at_once = min(2 * self._at_once, MOST_READ_AT_ONCE)
        self._taken = [event for event in events[:taken] if event.id not in self.put_off]
        self.behind = reading.behind + len(reading.events) - taken
        self._report(reading)

    def _report(self, reading: Reading) -> None:
        if reading.lost:
            since, until = (moment.isoformat(timespec="seconds") for moment in reading.lost)
            self.context.warn(
                f"{self.subject} from {since} to {until} are not counted: they are older than `max_catch_up_seconds`"
            )
        if reading.too_late:
            self.context.warn(
                f"{self.subject}: {reading.too_late} events became visible later than `event_lookback_seconds` after"
                " they occurred, and are not counted"
            )

    def commit(self) -> None:
        self._feed.commit(self._taken, len(self.put_off))
        self.context.store.save(self.document(), self.memory())

    def memory(self) -> Document:
        """The state to store."""
        return self._feed.document()

    def restore(self, saved: Document | None) -> None:
        """Begin where `memory` was saved, or anew. May raise anything if `saved` is damaged."""
        api, activity = self.context.api, self.context.event_activity
        covering = activity if self.watches() else None
        self._feed = EventFeed(api, self.criteria(), saved, activity.reach, self.key_of, covering)

    def key_of(self, event: Event) -> str:
        """The key under which the feed remembers an event."""
        return event.id


class TransitionCollector(FeedCollector):
    """Counts each transition once, from its event or from the run object.

    A run object shows a transition at once, but only the last one of its kind. Events show all, but later, and a server
    under load loses some. If the object comes first, the feed notes the key of the event, so that the event adds
    nothing when it arrives.
    """

    # A server under load may store an end some time after it happened.
    overlap = timedelta(minutes=2)

    def restore(self, saved: Document | None) -> None:
        super().restore(saved)
        through = saved["objects_through"] if saved else None
        self._objects_through = aware_moment(through) if through else None
        self._objects_read_at: datetime | None = None
        self._told: dict[str, tuple[Transition | None, str]] = {}
        self._about_no_run: set[str] = set()

    @abstractmethod
    def take_objects(self, sheet: Sheet, since: datetime) -> bool:
        """Put samples on the sheet for runs that have not ended, and for runs that ended after `since`.

        Returns whether all of these runs were read.
        """

    @abstractmethod
    def identity(self, transition: Transition) -> str:
        """A name for the run that its events and its object share."""

    def transition_of(self, event: Event) -> Transition | None:
        """The transition in the event, as `transitions.transition_of` reads it."""
        return self._told_by(event)[0]

    def key_of(self, event: Event) -> str:
        return self._told_by(event)[1]

    def _told_by(self, event: Event) -> tuple[Transition | None, str]:
        """The transition and its key, cached during a check run."""
        if event.id not in self._told:
            transition = transition_of(event)
            if transition and not is_uuid(transition.run_id):
                self._about_no_run.add(event.id)
                transition = None
            self._told[event.id] = transition, self._key(transition, transition.at) if transition else event.id
        return self._told[event.id]

    def times_of(self, transition: Transition) -> Sequence[datetime]:
        """The times with which it may have been counted."""
        return (transition.at,)

    def is_counted(self, transition: Transition) -> bool:
        """Whether it was counted. Also true outside of the span that the feed covers, where nothing is known."""
        return any(self._is_counted_at(transition, at) for at in self.times_of(transition))

    def _is_counted_at(self, transition: Transition, at: datetime) -> bool:
        key = self._key(transition, at)
        return not self._feed.covers(at) or self._feed.has(key, at)

    def remember(self, transition: Transition) -> None:
        """Note that it is counted. Without `commit`, the note is dropped."""
        self._feed.expect(self._key(transition, transition.at), transition.at)

    def _key(self, transition: Transition, at: datetime) -> str:
        return f"{self.identity(transition)} {transition.phase} {at.timestamp():.6f}"

    def go_on(self, sheet: Sheet) -> None:
        """Take more events. The run objects were read earlier in this check run."""
        self._told.clear()
        self._about_no_run.clear()
        super().collect(sheet)
        for event in self._taken:
            if event.id in self._about_no_run:
                self.context.api.oddities.leave_out(Event, "what it is about has no UUID", event.id)

    def collect(self, sheet: Sheet) -> None:
        self.go_on(sheet)
        since, through = self._feed.window_start, self._objects_through
        self._objects_read_at = self.context.now()
        # If the server's clock was set back, runs may have ended in a span that was read before.
        if through is not None and through <= self._objects_read_at:
            since = max(since, through - self.overlap)
        try:
            has_read_all = self.take_objects(sheet, since)
        except ApiError as error:
            has_read_all = False
            self.context.warn(f"{self.subject}, those that only run objects show: {error}")
        if not has_read_all:
            # The events are complete. The next check run reads the objects from the same time on.
            self._objects_read_at = through

    def commit(self) -> None:
        self._objects_through = self._objects_read_at
        super().commit()

    def memory(self) -> Document:
        through = self._objects_through.isoformat() if self._objects_through else None
        return {**super().memory(), "objects_through": through}
