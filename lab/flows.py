"""The demo's flows. The server's virtual environment runs them, so they import nothing but Prefect."""

# mypy: ignore-errors
# Prefect is not installed where types are checked.

from __future__ import annotations

import time

from prefect.states import Cancelled, State

from prefect import flow, get_run_logger, pause_flow_run, runtime, task


@task
def extract() -> list[int]:
    time.sleep(1)
    return [1, 2, 3]


@task(retries=1, retry_delay_seconds=4)
def transform(rows: list[int]) -> list[int]:
    """Fails at its first attempt: a task that waits for its retry while `load` waits for it."""
    if runtime.task_run.run_count == 1:
        raise ValueError("the first attempt always fails")
    time.sleep(1)
    return [row * 10 for row in rows]


@task
def load(rows: list[int]) -> int:
    time.sleep(1)
    return len(rows)


@task
def notify(rows: int) -> State[None]:
    return Cancelled(message=f"nobody asked about {rows} rows")


@flow
def report(rows: int) -> None:
    get_run_logger().info("Loaded %d rows", rows)


@flow
def etl(approval: bool = False) -> None:
    """Three tasks that depend on each other, on request a pause for an approval, and a subflow."""
    loaded = load.submit(transform.submit(extract.submit()))
    rows = loaded.result()
    if approval:
        pause_flow_run(timeout=300, poll_interval=1)
    notify.submit(rows).wait()
    report(rows)


@task
def listen() -> None:
    """Runs until its process is ended from outside."""
    time.sleep(300)


@flow
def stream() -> None:
    listen()


@flow
def broken() -> None:
    raise ValueError("this flow always fails")


@flow(retries=1, retry_delay_seconds=2)
def flaky() -> None:
    """Fails at its first attempt: a flow that waits for its retry in its own process."""
    if runtime.flow_run.run_count == 1:
        raise ValueError("the first attempt always fails")
    time.sleep(1)
