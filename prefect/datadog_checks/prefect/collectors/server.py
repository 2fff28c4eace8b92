"""The server itself: whether it lives, whether it is ready, and which version it is."""

from __future__ import annotations

from collections.abc import Callable

from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.submitter import Sheet

from .base import Collector


class Server(Collector):
    """Health and readiness, which have a value also when nothing answers.

    Prefect Cloud has no endpoints for them: there health tells whether the API answers, and readiness has no value.
    """

    subject = "health and readiness"
    owned = ("health", "ready")

    def collect(self, sheet: Sheet) -> None:
        if self.context.settings.is_cloud:
            sheet.add("health", self._is(self._answers))
            return
        # The one must not take the time of the other.
        with self.context.api.share(1 / 2):
            sheet.add("health", self._is(self.context.api.is_healthy))
        sheet.add("ready", self._is(self.context.api.is_ready))

    def _answers(self) -> bool:
        self.context.inventory.pools()
        return True

    @staticmethod
    def _is(ask: Callable[[], bool]) -> bool:
        try:
            return ask()
        except ApiError:
            return False
