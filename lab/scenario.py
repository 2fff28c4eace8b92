"""What happens on the demo's server: a day of a small data team, told in a minute, with check runs on the way."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .agent import Agent, CheckRunResult
from .errors import LabError
from .prefect_api import PrefectApi, run_state
from .processes import LabProcess
from .server import PrefectServer
from .task_run import ClientTaskRun
from .waiting import wait_until

POOL = "demo-pool"
WORKER = "demo-worker"
FLOWS = ("etl", "stream", "broken", "flaky")
SUBFLOW = "report"
STEP_SECONDS = 120.0

Progress = Callable[[str], None]


class Scenario:
    """Flows on a running server, and an Agent that looks at telling moments; `progress` is told of every step."""

    def __init__(self, server: PrefectServer, agent: Agent, progress: Progress) -> None:
        self._server = server
        self._agent = agent
        self._progress = progress
        self._api = PrefectApi(server.api_url)
        self._worker = self._new_worker()
        self._deployments: dict[str, str] = {}
        self._runs: dict[str, str] = {}
        self.results: list[CheckRunResult] = []

    def play(self) -> list[CheckRunResult]:
        """Let it all happen, and return the results of the check runs; only the first if that ends in an error.

        Raises `LabError` when a step does not come about.
        """
        try:
            return self._play()
        finally:
            self._worker.stop()

    def _play(self) -> list[CheckRunResult]:
        self._set_up()
        self._check("the starting point")
        if self.results[0].error:
            return self.results
        self._start_runs()
        wait_until(self._a_run_is_pending, STEP_SECONDS, "A pending flow run")
        self._check("while flow runs are pending")
        # `listen` runs until it is ended, so that `load` can be waited for without missing it
        self._wait_for_task("stream", "listen", "RUNNING")
        self._runs["etl"] = self._start("etl", parameters={"approval": True})
        self._wait_for_task("etl", "load", "PENDING")
        self._check("while a task run is running, and another waits for those before it")
        self._end_stream()
        approval = self._pause()
        self._check("while a flow run is paused")
        self._finish(approval)
        self._check("after everything has ended")
        return self.results

    def _new_worker(self) -> LabProcess:
        arguments = ("worker", "start", "--pool", POOL, "--name", WORKER, "--type", "process", "--work-queue", "etl")
        return self._server.process("worker", self._server.command("prefect", *arguments))

    def _set_up(self) -> None:
        self._progress(
            f"Creating work pool {POOL} with queues etl (limit 4) and batch, two concurrency limits, and "
            f"{len(FLOWS)} deployments ..."
        )
        self._api.create_work_pool(POOL)
        self._api.create_work_queue(POOL, "etl", concurrency_limit=4, priority=1)
        self._api.create_work_queue(POOL, "batch", priority=2)
        self._api.create_concurrency_limit("warehouse", 3)
        self._api.take_slots("warehouse", 1)
        self._api.create_tag_concurrency_limit("heavy", 2)
        # a copy, so that flow processes leave nothing in the repository and import nothing else of it
        flows = shutil.copy(Path(__file__).with_name("flows.py"), self._server.folder)
        folder = {"prefect.deployments.steps.set_working_directory": {"directory": str(Path(flows).parent)}}
        for name in FLOWS:
            flow = self._api.create_flow(name)
            deployment = self._api.create_deployment(
                name,
                flow["id"],
                POOL,
                "etl",
                entrypoint=f"flows.py:{name}",
                pull_steps=[folder],
                enforce_parameter_schema=False,
                tags=["demo"],
            )
            self._deployments[name] = deployment["id"]
        self._progress("Starting a worker for queue etl ...")
        self._worker.start()
        wait_until(self._worker_is_online, STEP_SECONDS, f"Worker {WORKER}")

    def _worker_is_online(self) -> bool:
        if not self._worker.is_running:
            raise LabError(f"The worker ended; the end of its log: {self._worker.last_log_lines()}")
        return any(worker["status"] == "ONLINE" for worker in self._api.workers(POOL))

    def _start_runs(self) -> None:
        self._progress("Starting runs, planning one, cancelling one, leaving one in queue batch that nobody serves ...")
        now = datetime.now(UTC)
        self._runs["stream"] = self._start("stream")
        self._runs["broken"] = self._start("broken", now - timedelta(minutes=1))
        self._start("etl", now + timedelta(days=1))
        self._start("etl", now - timedelta(minutes=10), work_queue_name="batch")
        self._runs["cancelled"] = self._start("etl", now + timedelta(days=1))
        self._api.set_flow_run_state(self._runs["cancelled"], "CANCELLED")
        # the last, so that it is still to come when pending runs are looked for
        self._runs["flaky"] = self._start("flaky")

    def _start(self, name: str, scheduled_time: datetime | None = None, **fields: Any) -> str:
        state = run_state("SCHEDULED", scheduled_time=scheduled_time)
        return str(self._api.create_deployment_run(self._deployments[name], state, **fields)["id"])

    def _a_run_is_pending(self) -> bool:
        pending = self._api.flow_runs(
            flow_runs={"id": {"any_": [*self._runs.values()]}, "state": {"type": {"any_": ["PENDING"]}}}
        )
        return bool(pending)

    def _wait_for_task(self, run: str, task: str, state_type: str) -> None:
        def there() -> bool:
            task_runs = self._api.task_runs(flow_runs={"id": {"any_": [self._runs[run]]}})
            return any(found["name"].startswith(task) and found["state_type"] == state_type for found in task_runs)

        wait_until(there, STEP_SECONDS, f"State {state_type} of task {task}")

    def _end_stream(self) -> None:
        self._progress("Ending the process of flow stream, so that it crashes ...")
        # Older workers put the host before it.
        pid = self._api.flow_run(self._runs["stream"])["infrastructure_pid"].rpartition(":")[2]
        os.kill(int(pid), signal.SIGTERM)

    def _pause(self) -> ClientTaskRun:
        """Wait until the run of `etl` pauses for its approval; returns the task run that pauses with it."""
        self._api.wait_for_state(self._runs["etl"], ["PAUSED"], STEP_SECONDS)
        # A task that returns the state Paused stays in it for ever; this one is only reported, so that it can go on.
        approval = ClientTaskRun(self._api, "approve", self._runs["etl"])
        approval.enter("PENDING", at=datetime.now(UTC) - timedelta(seconds=20))
        approval.enter("RUNNING")
        approval.enter("PAUSED")
        self._api.wait_for_task_run(approval.id, lambda task_run: task_run["state_type"] == "PAUSED")
        return approval

    def _finish(self, approval: ClientTaskRun) -> None:
        self._progress("Approving, and waiting for the end of all runs and for their events ...")
        approval.enter("RUNNING")
        approval.enter("COMPLETED")
        self._api.resume_flow_run(self._runs["etl"])
        for run_id in self._runs.values():
            self._api.wait_for_state(run_id, timeout_seconds=STEP_SECONDS)
        self._wait_for_task("etl", "notify", "CANCELLED")
        self._wait_for_task("etl", "approve", "COMPLETED")
        # nobody else's runs: those that the scheduler plans have no event
        ours = {"name": {"any_": [*FLOWS, SUBFLOW]}}
        for run in self._api.flow_runs(flows=ours):
            self._api.wait_for_run_events(run["id"])
        # the stand-ins of subflows have no events
        task_runs = self._api.task_runs(flows=ours, task_runs={"subflow_runs": {"exists_": False}})
        self._api.wait_for_events([task_run["state_id"] for task_run in task_runs])

    def _check(self, moment: str) -> None:
        self._progress(f"Check run {len(self.results) + 1}: {moment} ...")
        self.results.append(self._agent.run())
