"""Prefect's events, submitted as Datadog events."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from datadog_checks.prefect.api.models import Deployment, Event, WorkPool, WorkQueue
from datadog_checks.prefect.config.settings import Settings
from datadog_checks.prefect.counting.event_activity import READINESS
from datadog_checks.prefect.counting.transitions import transition_of
from datadog_checks.prefect.output.datadog_events import datadog_event
from datadog_checks.prefect.output.submitter import Sheet
from datadog_checks.prefect.tags import Tags, related_by_role, resource_kind_and_id, task_run_tags

from .counted import FeedCollector


class Events(FeedCollector):
    """Changes of state and readiness, or the events that `event_names` selects. Runs only with `collect_events`."""

    name = "events"
    needs_deployments = True
    subject = "events"
    owned = ()

    @classmethod
    def document_of(cls, settings: Settings) -> str:
        # Another selection is another feed: events that it newly selects must not come from the past.
        names = json.dumps(settings.filters.events.patterns())
        return "events_" + hashlib.sha256(names.encode()).hexdigest()[:8]

    def criteria(self) -> dict[str, Any]:
        if self.context.settings.filters.events.include is not None:
            return {}
        prefixes = ["prefect.flow-run.", "prefect.task-run.", *sorted(READINESS)]
        return {"event": {"prefix": prefixes, "exclude_prefix": ["prefect.flow-run.heartbeat"]}}

    def watches(self) -> bool:
        return self.context.settings.filters.events.include is None

    def take(self, sheet: Sheet, events: list[Event]) -> int:
        wanted = [event for event in events if self._selects(event)]
        run_ids = {run_id for event in wanted if (run_id := flow_run_id_of(event))}
        self.context.inventory.tags_by_run_id(run_ids)
        for event in wanted:
            with self.context.leaving_out(Event, event.id):
                tags = self._tags(event)
                if tags is not None:
                    sheet.events.append(datadog_event(event, tags, self.context.settings.ui_url))
        return len(events)

    def _selects(self, event: Event) -> bool:
        names = self.context.settings.filters.events
        if names.include is None and event.event not in READINESS and transition_of(event) is None:
            return False
        return names.takes(event.event)

    def _tags(self, event: Event) -> Tags | None:
        """The tags that metrics of the event's resource have; None if the instance filters it out."""
        inventory = self.context.inventory
        kind, identity = resource_kind_and_id(event.resource.get("prefect.resource.id")) or ("", "")
        name = event.resource.get("prefect.resource.name")
        pool = related_by_role(event.related).get("work-pool", (None, None))
        if kind == "work-pool":
            pool_type = event.resource.get("prefect.work-pool.type")
            return inventory.tags_of_pool(WorkPool(id=identity, name=name, type=pool_type))
        if kind == "work-queue":
            return inventory.tags_of_queue(
                WorkQueue(id=identity, name=name, work_pool_id=pool[0], work_pool_name=pool[1])
            )
        if kind == "flow":
            return inventory.tags_of_flow(identity, name)
        if kind == "deployment":
            return inventory.tags_of_deployment(Deployment(id=identity, name=name, work_pool_name=pool[1]))
        run_tags = inventory.tags_told_by(event.related, flow_run_id_of(event))
        if run_tags is None:
            return None
        transition = transition_of(event)
        if kind == "task-run" and transition is not None:
            return task_run_tags(run_tags, transition.payload.task_key)
        return run_tags.tags()


def flow_run_id_of(event: Event) -> str | None:
    """The flow run that an event is about, or to which its task run belongs."""
    kind, identity = resource_kind_and_id(event.resource.get("prefect.resource.id")) or ("", "")
    if kind == "flow-run":
        return identity
    transition = transition_of(event)
    return transition.flow_run_id if transition else None
