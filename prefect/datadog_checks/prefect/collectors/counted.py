"""What collectors share that take each event, or count each transition, once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from datadog_checks.prefect.api.errors import ApiError, OutOfTime
from datadog_checks.prefect.api.models import Event
from datadog_checks.prefect.api.paging import is_uuid
from datadog_checks.prefect.config.settings import Settings
from datadog_checks.prefect.counting.event_activity import Reach
from datadog_checks.prefect.counting.event_feed import MOST_READ_AT_ONCE, EventFeed, Reading, aware_moment
from datadog_checks.prefect.counting.transitions import Transition, transition_of
from datadog_checks.prefect.output.submitter import Sheet
from datadog_checks.prefect.state_store import Document

from .base import Collector, Context


class FeedCollector(Collector):
    """A collector that takes each event of a kind once."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._taken: list[Event] = []
        # The ids of events that are to be given out again.
        self.put_off: set[str] = set()
        # Whether nothing has happened since all events were taken.
        self.is_quiet = False
        # As many events as there is time for, as far as that is known.
        self._at_once = MOST_READ_AT_ONCE
        try:
            self.restore(context.store.load(self.document()))
        except Exception as error:  # whatever is in the file
            reason = error if type(error) is ValueError else "It is damaged, or of another version of this check."
            context.store.report_unreadable(self.document(), reason)
            self.restore(None)

    @classmethod
    @abstractmethod
    def document_of(cls, settings: Settings) -> str:
        """The name of the stored state of an instance with these settings."""

    def document(self) -> str:
        """The name of its stored state."""
        return self.document_of(self.context.settings)

    @abstractmethod
    def criteria(self) -> dict[str, Any]:
        """Filters of `/events/filter`, without the times."""

    @abstractmethod
    def take(self, sheet: Sheet, events: list[Event]) -> int:
        """Put on the sheet what the events mean, but for those that are `put_off`.

        Returns how many of them, from the first on, there was time for.
        """

    def watches(self) -> bool:
        """Whether `EventActivity` counts all events that are read here."""
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
        """What is to be remembered."""
        return self._feed.document()

    def restore(self, saved: Document | None) -> None:
        """Begin where `memory` was saved, or anew; what it raises for one that it did not write means the latter."""
        settings = self.context.settings
        reach = Reach(settings.event_lookback, settings.max_catch_up)
        activity = self.context.event_activity if self.watches() else None
        self._feed = EventFeed(self.context.api, self.criteria(), saved, reach, self.key_of, activity)

    def key_of(self, event: Event) -> str:
        """Names what an event tells."""
        return event.id


class TransitionCollector(FeedCollector):
    """Counts each transition once, by two witnesses: its event, and the run object where the event is late or lost.

    A run object shows a transition at once, but only the last of its kind; events show all, but later, and a server
    under pressure drops some.
    """

    # A server under load may commit an object some time after the end that it tells of.
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
        """Put on the sheet what the objects of runs tell that are not over, or ended after `since`.

        Returns whether all of these were read.
        """

    @abstractmethod
    def identity(self, transition: Transition) -> str:
        """Names the run in its events and in its object alike."""

    def transition_of(self, event: Event) -> Transition | None:
        """What `transitions.transition_of` gives."""
        return self._told_by(event)[0]

    def key_of(self, event: Event) -> str:
        return self._told_by(event)[1]

    def _told_by(self, event: Event) -> tuple[Transition | None, str]:
        """The transition and its key, made out once in a check run."""
        if event.id not in self._told:
            transition = transition_of(event)
            if transition and not is_uuid(transition.run_id):
                self._about_no_run.add(event.id)
                transition = None
            self._told[event.id] = transition, self._key(transition, transition.at) if transition else event.id
        return self._told[event.id]

    def times_of(self, transition: Transition) -> Sequence[datetime]:
        """The times under which it may have been counted."""
        return (transition.at,)

    def is_counted(self, transition: Transition) -> bool:
        """Whether it was counted, or is of a time for which that cannot be told any more, or not yet."""
        return any(self._is_counted_at(transition, at) for at in self.times_of(transition))

    def _is_counted_at(self, transition: Transition, at: datetime) -> bool:
        key = self._key(transition, at)
        return not self._feed.reaches(at) or self._feed.has(key, at)

    def remember(self, transition: Transition) -> None:
        """From now on it is counted, if this check run gets as far as `commit`."""
        self._feed.foretell(self._key(transition, transition.at), transition.at)

    def _key(self, transition: Transition, at: datetime) -> str:
        return f"{self.identity(transition)} {transition.phase} {at.timestamp():.6f}"

    def go_on(self, sheet: Sheet) -> None:
        """Take more events; the objects have been looked at in this check run."""
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
        # Since the server's clock was set back, runs may have ended at times that were looked at before.
        if through is not None and through <= self._objects_read_at:
            since = max(since, through - self.overlap)
        try:
            has_read_all = self.take_objects(sheet, since)
        except ApiError as error:
            has_read_all = False
            self.context.warn(f"{self.subject}, as far as runs tell of them: {error}")
        if not has_read_all:
            # What the events told is complete; the objects are looked at again next time, from where they stood.
            self._objects_read_at = through

    def commit(self) -> None:
        self._objects_through = self._objects_read_at
        super().commit()

    def memory(self) -> Document:
        through = self._objects_through.isoformat() if self._objects_through else None
        return {**super().memory(), "objects_through": through}
