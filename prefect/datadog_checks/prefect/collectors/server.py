"""The server itself: health and readiness."""

from __future__ import annotations

from collections.abc import Callable

from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.output.submitter import Sheet

from .base import Collector

# The share of a check run for each of the two: 6 of 15 seconds, since some servers take 5 s for an answer.
SHARE = 2 / 5


class Server(Collector):
    """Health and readiness. They have a value even if nothing answers.

    Prefect Cloud has no endpoints for them: there, health says whether the API answers, and readiness has no value.
    """

    name = "server"
    subject = "health and readiness"
    owned = ("health", "ready")

    def collect(self, sheet: Sheet) -> None:
        if self.context.settings.is_cloud:
            sheet.add("health", self._is(self._answers))
            return
        for gauge, ask in (("health", self.context.api.is_healthy), ("ready", self.context.api.is_ready)):
            # This leaves time for the other one, and for all that follow.
            seconds, left = SHARE * self.context.settings.budget_seconds, self.context.api.seconds_left()
            with self.context.api.run.time.share(min(1.0, seconds / left) if left else 1.0):
                sheet.add(gauge, self._is(ask))

    def _answers(self) -> bool:
        self.context.inventory.pools()
        return True

    @staticmethod
    def _is(ask: Callable[[], bool]) -> bool:
        try:
            return ask()
        except ApiError:
            return False
