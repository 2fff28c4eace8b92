"""Deployments."""

from __future__ import annotations

from datadog_checks.prefect.mirror.initial_load import Progress
from datadog_checks.prefect.output.submitter import Sheet

from .base import Collector, Context


class Deployments(Collector):
    """Whether each deployment is ready, as the server reports it."""

    name = "deployments"
    subject = "deployments"
    owned = ("deployment.is_ready",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._progress = Progress()

    def collect(self, sheet: Sheet) -> None:
        mirrored, inventory = self.context.deployments, self.context.inventory
        mirrored.look()
        if reason := mirrored.take_discarded():
            self.context.warn(
                f"{self.subject}: initial load starts anew, because what was stored before this start is of no use:"
                f" {reason}"
            )
        if not mirrored.is_complete:
            progress = self._progress.words(len(mirrored.known), mirrored.total, self.context.now())
            self.context.warn(f"{self.subject}: initial load, {progress}; the others appear as they are read")
        wanted = inventory.wanted_deployments(mirrored.known).values()
        for deployment, tags in zip(wanted, inventory.tags_of_deployments(wanted), strict=True):
            if deployment.status:
                sheet.add("deployment.is_ready", deployment.status == "READY", tags)
