"""The server itself: whether it lives, whether it is ready, and which version it is."""

from __future__ import annotations

from collections.abc import Callable

from datadog_checks.prefect.api.errors import ApiError, Rejected
from datadog_checks.prefect.submitter import Sheet

from .base import Collector, Context


class Server(Collector):
    """Health and readiness, which have a value also when nothing answers.

    Prefect Cloud has no endpoints for them: there health tells whether the API answers, and readiness has no value.
    """

    subject = "health and readiness"
    owned = ("health", "ready")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.has_endpoints = True

    def collect(self, sheet: Sheet) -> None:
        sheet.add("health", self._is(self._is_healthy))
        if self.has_endpoints:
            sheet.add("ready", self._is(self.context.api.is_ready))

    def _is_healthy(self) -> bool:
        if self.has_endpoints:
            try:
                return self.context.api.is_healthy()
            except Rejected as refusal:
                if refusal.status != 404:
                    raise
        self.context.inventory.pools()
        if self.has_endpoints:
            self.has_endpoints = False
            self.context.inform(
                "this API has no /health, as Prefect Cloud: health tells whether it answers, and readiness has no value"
            )
        return True

    @staticmethod
    def _is(ask: Callable[[], bool]) -> bool:
        try:
            return ask()
        except ApiError:
            return False
