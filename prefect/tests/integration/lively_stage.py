"""A stage on which every collector finds something, on a server that changes no status because a test takes long."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from lab.agent import NAMESPACE, Agent, CheckRunResult
from lab.prefect_api import Json, PrefectApi, run_state
from lab.server import FAST_EVENTS
from lab.task_run import ClientTaskRun
from lab.waiting import wait_until

from .stage import Stage

BUDGET_SECONDS = 15.0
# Far from what is too long without a deadline, and from what a busy machine adds.
TOLERANCE_SECONDS = 10.0
# Statuses are tags.
LASTING = {
    **FAST_EVENTS,
    "PREFECT_SERVER_SERVICES_FOREMAN_DEPLOYMENT_LAST_POLLED_TIMEOUT_SECONDS": "3600",
    "PREFECT_SERVER_SERVICES_FOREMAN_WORK_QUEUE_LAST_POLLED_TIMEOUT_SECONDS": "3600",
}

FLOW_RUN_CHANGES = (
    "flow_runs.completed.count",
    "flow_runs.failed.count",
    "flow_runs.crashed.count",
    "flow_runs.cancelled.count",
    "flow_runs.throughput",
    "flow_runs.late_start.count",
    "flow_runs.execution_duration",
    "flow_runs.queue_wait_duration",
    "flow_runs.retry_gaps_duration",
)
TASK_RUN_CHANGES = (
    "task_runs.completed.count",
    "task_runs.failed.count",
    "task_runs.crashed.count",
    "task_runs.cancelled.count",
    "task_runs.throughput",
    "task_runs.late_start.count",
    "task_runs.execution_duration",
    "task_runs.dependency_wait_duration",
)
RETRIED = ("PENDING", "RUNNING", "FAILED", "SCHEDULED:AwaitingRetry", "PENDING", "RUNNING", "COMPLETED")
PLAIN = ("PENDING", "RUNNING", "COMPLETED")


def lively_stage(api: PrefectApi) -> Stage:
    """A pool with a worker, a queue with a limit in which something waits, a deployment, and runs in all states."""
    stage = Stage(api)
    api.heartbeat(stage.pool["name"], "w1", interval_seconds=3600)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    runs = [
        api.create_deployment_run(stage.deployment["id"], run_state("SCHEDULED", scheduled_time=tomorrow)),
        stage.run(),
        stage.run("PENDING"),
        stage.run("PENDING", "RUNNING", "PAUSED"),
        stage.run(*PLAIN),
    ]
    stage.seen(*runs)
    api.poll_work_pool(stage.pool["name"])
    wait_until(lambda: api.deployment(stage.deployment["id"])["status"] == "READY", 60, "A deployment that is ready")
    return stage


def running_run(stage: Stage) -> Json:
    """A flow run that runs all the time, with a task run that does."""
    run = stage.run("PENDING", "RUNNING")
    stage.api.create_task_run(run["id"], "stuck-0a1b2c3d", {"type": "RUNNING"})
    stage.seen(run)
    return run


def run_a_task(stage: Stage, flow_run: Json) -> None:
    """A task run that begins and ends, and can be seen."""
    task = ClientTaskRun(stage.api, "load", flow_run["id"])
    stage.api.wait_for_events([task.enter(state) for state in ("RUNNING", "COMPLETED")])
    stage.api.wait_for_task_run(task.id, lambda task_run: task_run["state_type"] == "COMPLETED")


def timed(agent: Agent) -> CheckRunResult:
    """A check run that ends in time."""
    begun = time.monotonic()
    result = agent.run()
    assert time.monotonic() - begun < BUDGET_SECONDS + TOLERANCE_SECONDS
    return result


def names(result: CheckRunResult) -> set[str]:
    """The names of all metrics, without the namespace."""
    return {name.removeprefix(NAMESPACE) for name in result.names()}
