"""Deployments."""

from __future__ import annotations

from datadog_checks.prefect.inventory import deployment_tags
from datadog_checks.prefect.submitter import Sheet

from .base import Collector


class Deployments(Collector):
    """Whether each deployment is ready, as the server keeps it."""

    subject = "deployments"
    owned = ("deployment.is_ready",)

    def collect(self, sheet: Sheet) -> None:
        deployments = self.context.inventory.all_deployments()
        scopes = self.context.inventory.deployment_scopes(deployments)
        for deployment in deployments:
            if deployment.status:
                tags = deployment_tags(deployment, scopes[deployment.id])
                sheet.add("deployment.is_ready", deployment.status == "READY", tags)
