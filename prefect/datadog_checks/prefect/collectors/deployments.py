"""Deployments."""

from __future__ import annotations

from datadog_checks.prefect.output.submitter import Sheet

from .base import Collector


class Deployments(Collector):
    """Whether each deployment is ready, as the server reports it."""

    name = "deployments"
    subject = "deployments"
    owned = ("deployment.is_ready",)

    def collect(self, sheet: Sheet) -> None:
        mirrored, inventory = self.context.deployments, self.context.inventory
        mirrored.look()
        if not mirrored.is_complete:
            read = f"{len(mirrored.known):,} of {mirrored.total:,}"
            self.context.warn(f"{self.subject}: initial load, {read} read; the others appear as they are read")
        wanted = inventory.wanted_deployments(mirrored.known).values()
        for deployment, tags in zip(wanted, inventory.tags_of_deployments(wanted), strict=True):
            if deployment.status:
                sheet.add("deployment.is_ready", deployment.status == "READY", tags)
