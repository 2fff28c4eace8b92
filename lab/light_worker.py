"""A worker that speaks Prefect's worker protocol and runs its flows in no process: it only reports their states.

What a worker of processes costs is the processes. A server cannot tell the difference, and neither can the check.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from random import Random

from .prefect_api import Json, PrefectApi
from .task_run import ClientTaskRun

HEARTBEAT_SECONDS = 30.0
POLL_SECONDS = 5.0
PENDING_SECONDS = 2.0


@dataclass
class Job:
    """What becomes of a deployment's runs: mean running time, tasks by name, and how often they end how."""

    seconds: float
    tasks: Sequence[str] = ()
    endings: dict[str, float] = field(default_factory=lambda: {"COMPLETED": 1.0})
    retries: float = 0.0
    pauses: float = 0.0
    failing_task: float = 0.0


class _Execution:
    """What is still to be done for one run, and when on the monotonic clock."""

    def __init__(self, api: PrefectApi, run_id: str, now: float) -> None:
        self._api, self.run_id, self._at = api, run_id, now
        self._task_runs: list[ClientTaskRun] = []
        self.plan: list[tuple[float, Callable[[], object]]] = []

    def then(self, seconds: float, act: Callable[[], object]) -> None:
        """Do something so long after what was planned last."""
        self._at += seconds
        self.plan.append((self._at, act))

    def enter(self, seconds: float, state_type: str, name: str | None = None) -> None:
        self.then(seconds, partial(self._api.set_flow_run_state, self.run_id, state_type, name, force=True))

    def enter_task(self, seconds: float, number: int, state_type: str) -> None:
        self.then(seconds, lambda: self._task_runs[number].enter(state_type))

    def create_tasks(self, names: Sequence[str]) -> None:
        """Task runs that are pending, each of which waits for the one before."""
        for name in names:
            upstream = [self._task_runs[-1].id] if self._task_runs else []
            self._task_runs.append(ClientTaskRun(self._api, name, self.run_id, upstream))
            self._task_runs[-1].enter("PENDING")


class LightWorker:
    """`step` does what is due: heartbeats, polls, and the next states of what it runs; call it every second or so."""

    def __init__(
        self, api: PrefectApi, pool: str, name: str, jobs: dict[str, Job], seed: int, queues: Sequence[str] = ()
    ) -> None:
        self._api, self.pool, self.name = api, pool, name
        self._jobs = jobs
        self._dice = Random(f"worker {seed} {name}")
        self.queues = list(queues)
        self.most_runs = 100
        self._beat_at = self._polled_at = float("-inf")
        self._executions: list[_Execution] = []

    def step(self) -> None:
        now = time.monotonic()
        if now - self._beat_at >= HEARTBEAT_SECONDS:
            self._api.heartbeat(self.pool, self.name)
            self._beat_at = now
        self._executions = [execution for execution in self._executions if self._advance(execution, now)]
        if now - self._polled_at >= POLL_SECONDS:
            self._polled_at = now
            self._poll(now)

    def take_over(self, other: LightWorker) -> None:
        """Go on with what another worker runs."""
        self._executions += other._executions
        other._executions = []

    def _poll(self, now: float) -> None:
        for answer in self._api.poll_work_pool(self.pool, self.queues, scheduled_before=datetime.now(UTC)):
            run = answer["flow_run"]
            if len(self._executions) >= self.most_runs:
                return
            if run["deployment_id"] in self._jobs and all(run["id"] != known.run_id for known in self._executions):
                self._executions.append(self._execute(run, self._jobs[run["deployment_id"]], now))

    def _advance(self, execution: _Execution, now: float) -> bool:
        while execution.plan and execution.plan[0][0] <= now:
            _, act = execution.plan.pop(0)
            act()
        return bool(execution.plan)

    def _execute(self, run: Json, job: Job, now: float) -> _Execution:
        """Lay out a run: pending, running, perhaps a retry or a pause, its tasks one after the other, and its end."""
        execution = _Execution(self._api, str(run["id"]), now)
        dice = self._dice
        execution.enter(0, "PENDING")
        execution.enter(PENDING_SECONDS * dice.uniform(0.5, 1.5), "RUNNING")
        if dice.random() < job.retries:
            execution.enter(dice.uniform(1, 3), "SCHEDULED", "AwaitingRetry")
            execution.enter(dice.uniform(3, 12), "RUNNING", "Retrying")
        if dice.random() < job.pauses:
            execution.enter(1, "PAUSED")
            execution.enter(dice.uniform(10, 25), "RUNNING")
        seconds = max(0.5, job.seconds * dice.lognormvariate(0, 0.35))
        if job.tasks:
            execution.then(0.2, partial(execution.create_tasks, job.tasks))
            for number in range(len(job.tasks)):
                execution.enter_task(dice.expovariate(2), number, "RUNNING")
                ending = "FAILED" if dice.random() < job.failing_task else "COMPLETED"
                execution.enter_task(seconds / len(job.tasks) * dice.uniform(0.6, 1.4), number, ending)
            seconds = 0
        execution.enter(seconds + 0.3, dice.choices(list(job.endings), list(job.endings.values()))[0])
        return execution
