"""The one shape of all collectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from datadog_checks.prefect.api.models import Event
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.event_feed import EventFeed, Reading
from datadog_checks.prefect.flow_run_board import FlowRunBoard
from datadog_checks.prefect.inventory import Inventory
from datadog_checks.prefect.settings import Settings
from datadog_checks.prefect.state_store import StateStore
from datadog_checks.prefect.submitter import Sheet


@dataclass(frozen=True)
class Context:
    """What collectors share. `warn` puts a line into the check's status."""

    api: PrefectApi
    settings: Settings
    inventory: Inventory
    board: FlowRunBoard
    store: StateStore
    warn: Callable[[str], None]

    def now(self) -> datetime:
        """The server's clock."""
        return self.api.now()


class Collector(ABC):
    """Collects one layer of a Prefect server.

    `subject` says what is missing when it fails; `owned` names the metrics that it alone submits. The framework calls
    `collect` in each check run, submits the sheet if it did not raise, and then calls `commit`.
    """

    subject: ClassVar[str]
    owned: ClassVar[tuple[str, ...]]

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def collect(self, sheet: Sheet) -> None:
        """Put what is to be submitted on the sheet. Raises `ApiError`; then nothing of the sheet is submitted."""

    def commit(self) -> None:  # noqa: B027 - most collectors have nothing to remember
        """Remember what was submitted, so that it is not collected again."""


class FeedCollector(Collector):
    """A collector that takes each event of a kind once."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._feed = EventFeed.restored(context.api, self.criteria(), context.store, self.document())
        self._taken: list[Event] = []

    @abstractmethod
    def document(self) -> str:
        """The name of its stored state."""

    @abstractmethod
    def criteria(self) -> dict[str, Any]:
        """Filters of `/events/filter`, without the times."""

    @abstractmethod
    def take(self, sheet: Sheet, events: list[Event]) -> int:
        """Put on the sheet what the events mean; returns how many of them, from the first on, there was time for."""

    def collect(self, sheet: Sheet) -> None:
        reading = self._feed.read(self.context.settings.interval)
        taken = self.take(sheet, reading.events)
        self._taken = reading.events[:taken]
        self._report(reading, reading.behind + len(reading.events) - taken)

    def _report(self, reading: Reading, behind: int) -> None:
        if reading.lost:
            since, until = (moment.isoformat(timespec="seconds") for moment in reading.lost)
            self.context.warn(f"{self.subject} from {since} to {until} are lost: they are too long ago to be counted")
        if behind:
            self.context.warn(f"{self.subject}: {behind} events are left for the next check runs")

    def commit(self) -> None:
        self._feed.commit(self._taken)
        self.context.store.save(self.document(), self._feed.document())
