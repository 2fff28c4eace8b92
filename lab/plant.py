"""A small company's Prefect: pools, queues and scheduled deployments, with light workers that keep them going."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .light_worker import Job, LightWorker
from .prefect_api import PrefectApi, run_state

CLUSTER, MACHINES = "kubernetes-prod", "process-tools"
QUEUES: dict[str, dict[str, dict[str, Any]]] = {
    CLUSTER: {
        "critical": {"priority": 1},
        "bulk": {"priority": 2, "concurrency_limit": 5},
        "frozen": {"priority": 3},
    },
    MACHINES: {},
}


@dataclass(frozen=True)
class Plan:
    """A deployment: its flow, where it runs, every how many seconds, and what its runs do."""

    name: str
    flow: str
    pool: str
    queue: str
    every_seconds: float
    job: Job = field(hash=False)


def plans() -> list[Plan]:
    """The deployments, each with a job of its own that may be changed."""
    return [
        Plan("orders-sync", "sync-orders", CLUSTER, "critical", 20, Job(6, ("extract", "transform", "load"))),
        Plan("hourly-report", "summarize", CLUSTER, "critical", 45, Job(12, ("query", "render"), retries=0.2)),
        Plan("train-model", "train", CLUSTER, "bulk", 60, Job(40, ("prepare", "fit"))),
        Plan("clean-up", "housekeeping", MACHINES, "default", 30, Job(3)),
    ]


class Plant:
    """Everything is made by `set_up`; `step` lets the workers work and is to be called every second or so."""

    def __init__(self, api: PrefectApi, seed: int, more: Sequence[Plan] = ()) -> None:
        self._api, self._seed = api, seed
        self.plans = {plan.name: plan for plan in (*plans(), *more)}
        self.ids: dict[str, str] = {}
        self.jobs: dict[str, Job] = {}
        self.workers: list[LightWorker] = []

    def set_up(self) -> None:
        for pool, queues in QUEUES.items():
            self._api.create_work_pool(pool, type=pool.partition("-")[0])
            for name, fields in queues.items():
                self._api.create_work_queue(pool, name, **fields)
        for number, plan in enumerate(self.plans.values()):
            anchor = datetime.now(UTC) + timedelta(seconds=5 + 4 * number)
            schedule = {"interval": plan.every_seconds, "anchor_date": anchor.isoformat()}
            self.ids[plan.name] = self._deploy(plan, schedules=[{"active": True, "schedule": schedule}])
            self.jobs[self.ids[plan.name]] = plan.job
        self._leave_aside()
        for pool in (CLUSTER, MACHINES):
            self.add_worker(pool, f"{pool}-worker")

    def _leave_aside(self) -> None:
        """What looks bad and is meant to be so: a paused deployment, and a paused queue in which runs wait."""
        self._deploy(Plan("legacy-export", "export", CLUSTER, "frozen", 0, Job(1)), paused=True)
        frozen = self._deploy(Plan("migration", "migrate", CLUSTER, "frozen", 0, Job(1)))
        for minutes in (90, 30):
            late = datetime.now(UTC) - timedelta(minutes=minutes)
            self._api.create_deployment_run(frozen, run_state("SCHEDULED", scheduled_time=late))
        self._api.update_work_queue(CLUSTER, "frozen", is_paused=True)

    def _deploy(self, plan: Plan, **fields: Any) -> str:
        flow = self._api.create_flow(plan.flow)
        deployment = self._api.create_deployment(
            plan.name, flow["id"], plan.pool, plan.queue, enforce_parameter_schema=False, **fields
        )
        return str(deployment["id"])

    def add_worker(self, pool: str, name: str) -> LightWorker:
        worker = LightWorker(self._api, pool, name, self.jobs, self._seed)
        self.workers.append(worker)
        return worker

    def worker_of(self, pool: str) -> LightWorker:
        """The newest worker of a pool."""
        return [worker for worker in self.workers if worker.pool == pool][-1]

    def step(self) -> None:
        for worker in self.workers:
            worker.step()
