"""Work pools and their workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from datadog_checks.prefect.api.client import WORTH_RETRYING
from datadog_checks.prefect.api.errors import Rejected
from datadog_checks.prefect.api.models import Worker, WorkPool
from datadog_checks.prefect.mirror.inventory import pool_tags
from datadog_checks.prefect.output.submitter import Sheet
from datadog_checks.prefect.tags import tag_set

from .base import Collector

STATUS_GAUGES = {
    "READY": "work_pool.is_ready",
    "NOT_READY": "work_pool.is_not_ready",
    "PAUSED": "work_pool.is_paused",
}
# A request returns the workers of one pool only; this many requests are sent in parallel.
SIDE_BY_SIDE = 8


class WorkPools(Collector):
    """The status of each work pool, as the server reports it."""

    name = "work_pools"
    subject = "work pools"
    owned = tuple(STATUS_GAUGES.values())

    def collect(self, sheet: Sheet) -> None:
        for pool in self.context.inventory.pools():
            if pool.status:
                sheet.add_one_of(STATUS_GAUGES.values(), STATUS_GAUGES[pool.status], pool_tags(pool))


class Workers(Collector):
    """The workers of each work pool, except for those without a heartbeat for `worker_stale_after_seconds`."""

    name = "workers"
    subject = "workers"
    owned = (
        "work_pool.workers.online",
        "work_pool.workers.offline",
        "work_pool.worker.is_online",
        "work_pool.worker.heartbeat_age_seconds",
    )

    def collect(self, sheet: Sheet) -> None:
        alive_since = self.context.now() - self.context.settings.worker_stale_after
        named = [(pool, pool.name) for pool in self.context.inventory.pools() if pool.name is not None]

        def workers_of(pool: tuple[WorkPool, str]) -> list[Worker] | Rejected:
            try:
                return self.context.api.workers(pool[1], alive_since)
            except Rejected as refusal:
                if refusal.status in WORTH_RETRYING:
                    raise
                # It concerns this pool only, for example one called "..", which cannot be part of a path.
                return refusal

        with ThreadPoolExecutor(SIDE_BY_SIDE, "prefect-workers") as executor:
            found = list(zip(named, executor.map(workers_of, named), strict=True))
        refusals = [workers for _, workers in found if isinstance(workers, Rejected)]
        if refusals and len(refusals) == len(found):
            raise refusals[0]
        for (pool, _), workers in found:
            if isinstance(workers, Rejected):
                self.context.api.oddities.leave_out(WorkPool, f"its workers: {workers}", pool.id)
            else:
                self._collect_pool(sheet, pool, workers)

    def _collect_pool(self, sheet: Sheet, pool: WorkPool, workers: list[Worker]) -> None:
        tags = pool_tags(pool)
        for status, gauge in (("ONLINE", "workers.online"), ("OFFLINE", "workers.offline")):
            sheet.add(f"work_pool.{gauge}", sum(worker.status == status for worker in workers), tags)
        for worker in workers:
            self._collect_worker(sheet, pool, worker)

    def _collect_worker(self, sheet: Sheet, pool: WorkPool, worker: Worker) -> None:
        tags = tag_set(work_pool_id=pool.id, work_pool_name=pool.name, worker_id=worker.id, worker_name=worker.name)
        if worker.status:
            sheet.add("work_pool.worker.is_online", worker.status == "ONLINE", tags)
        if worker.last_heartbeat_time:
            age = (self.context.now() - worker.last_heartbeat_time).total_seconds()
            sheet.add("work_pool.worker.heartbeat_age_seconds", max(0.0, age), tags)
