"""Work queues: status, backlog, and use of their concurrency limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

from datadog_checks.prefect.api.models import FlowRun
from datadog_checks.prefect.mirror.flow_runs import waiting_since
from datadog_checks.prefect.mirror.inventory import queue_tags
from datadog_checks.prefect.output.submitter import Sheet

from .base import Collector

STATUS_GAUGES = {
    "READY": "work_queue.is_ready",
    "NOT_READY": "work_queue.is_not_ready",
    "PAUSED": "work_queue.is_paused",
}
SLOT_HOLDING_TYPES = frozenset({"PENDING", "RUNNING", "CANCELLING"})


class WorkQueues(Collector):
    """The status of each work queue, as the server reports it, and the time since it was last polled."""

    name = "work_queues"
    subject = "work queues"
    owned = (*STATUS_GAUGES.values(), "work_queue.last_polled_age_seconds")

    def collect(self, sheet: Sheet) -> None:
        inventory = self.context.inventory
        for queue in inventory.queues():
            if queue.status:
                sheet.add_one_of(STATUS_GAUGES.values(), STATUS_GAUGES[queue.status], queue_tags(queue))
            if queue.last_polled:
                age = (self.context.now() - queue.last_polled).total_seconds()
                tags = queue_tags(queue, with_status=True)
                sheet.add("work_queue.last_polled_age_seconds", max(0.0, age), tags)


class Backlogs(Collector):
    """The flow runs that are due and wait in each work queue."""

    name = "work_queue_backlogs"
    subject = "work queue backlogs"
    owned = ("work_queue.backlog.size", "work_queue.backlog.age")

    def collect(self, sheet: Sheet) -> None:
        inventory, active_flow_runs = self.context.inventory, self.context.active_flow_runs
        queues = inventory.queues()
        now = self.context.now()
        waiting = waiting_by_queue([*active_flow_runs.waiting(), *active_flow_runs.active()], now)
        for queue in queues:
            since = waiting.get(queue.id, [])
            tags = queue_tags(queue, with_status=True)
            sheet.add("work_queue.backlog.size", len(since), tags)
            sheet.add("work_queue.backlog.age", (now - min(since)).total_seconds() if since else 0, tags)


class Concurrency(Collector):
    """The share of each work queue's concurrency limit that its runs hold."""

    name = "work_queue_concurrency"
    subject = "work queue concurrency"
    owned = ("work_queue.concurrency.in_use",)

    def collect(self, sheet: Sheet) -> None:
        inventory = self.context.inventory
        limited = [(queue, queue.concurrency_limit) for queue in inventory.queues() if queue.concurrency_limit]
        if not limited:
            return
        holders = Counter(
            run.work_queue_id for run in self.context.active_flow_runs.active() if run.state_type in SLOT_HOLDING_TYPES
        )
        for queue, limit in limited:
            if limit > 0:
                percent = min(100.0, 100.0 * holders[queue.id] / limit)
                sheet.add("work_queue.concurrency.in_use", percent, queue_tags(queue, with_status=True))


def waiting_by_queue(runs: Iterable[FlowRun], now: datetime) -> Mapping[str, list[datetime]]:
    """The times since which runs wait, by queue id."""
    waiting: dict[str, list[datetime]] = {}
    for run in runs:
        since = waiting_since(run, now)
        if since is not None and run.work_queue_id:
            waiting.setdefault(run.work_queue_id, []).append(since)
    return waiting
