"""The runs that are not over yet, read at most once in a check run for all who need them."""

from __future__ import annotations

from datetime import datetime

from .api.models import FlowRun, TaskRun, utc_text
from .api.prefect import PrefectApi
from .inventory import OncePerRun

ACTIVE_TYPES = ("PENDING", "RUNNING", "PAUSED", "CANCELLING")
ACTIVE_TASK_TYPES = ("PENDING", "RUNNING", "PAUSED")
WAITING_FOR_SLOT = "AwaitingConcurrencySlot"


class RunBoard:
    """`begin_run` starts a new look; the other methods raise `ApiError`."""

    def __init__(self, api: PrefectApi) -> None:
        self._api = api
        self._active: OncePerRun[list[FlowRun]] = OncePerRun(self._read_active)
        self._active_tasks: OncePerRun[list[TaskRun]] = OncePerRun(self._read_active_tasks)

    def begin_run(self) -> None:
        self._active.forget()
        self._active_tasks.forget()

    def active(self) -> list[FlowRun]:
        """The flow runs that are pending, running, paused or being cancelled."""
        return self._active.get()

    def active_tasks(self) -> list[TaskRun]:
        """The task runs that are pending, running or paused, without those that stand for subflows."""
        return self._active_tasks.get()

    def due(self, now: datetime) -> list[FlowRun]:
        """The SCHEDULED runs whose time has come, and those that wait for a concurrency slot."""
        scheduled = {"type": {"any_": ["SCHEDULED"]}}
        due = self._api.flow_runs({"state": scheduled, "next_scheduled_start_time": {"before_": utc_text(now)}})
        # Their next start is put off at each attempt, so that the first filter passes them over.
        waiting = self._api.flow_runs({"state": {**scheduled, "name": {"any_": [WAITING_FOR_SLOT]}}})
        return list({run.id: run for run in [*due, *waiting]}.values())

    def planned(self) -> list[FlowRun]:
        """All SCHEDULED runs, those of the future included."""
        return self._api.flow_runs({"state": {"type": {"any_": ["SCHEDULED"]}}})

    def _read_active(self) -> list[FlowRun]:
        return self._api.flow_runs({"state": {"type": {"any_": list(ACTIVE_TYPES)}}})

    def _read_active_tasks(self) -> list[TaskRun]:
        state = {"type": {"any_": list(ACTIVE_TASK_TYPES)}}
        return self._api.task_runs({"state": state, "subflow_runs": {"exists_": False}})


def waiting_since(run: FlowRun, now: datetime) -> datetime | None:
    """Since when a run waits in its work queue; None for one that does not.

    Those SCHEDULED wait since their next scheduled start, those that wait for a concurrency slot since their expected
    start, and those PENDING since the time that they were scheduled for. A retry inside the run's own process, which
    no worker picks up, does not wait in the queue.
    """
    moment: datetime | None = None
    if run.state_type == "SCHEDULED" and not _retries_in_process(run):
        by_slot = run.state_name == WAITING_FOR_SLOT
        moment = run.expected_start_time if by_slot else run.next_scheduled_start_time
    elif run.state_type == "PENDING":
        details = run.state.state_details if run.state else None
        moment = (details.scheduled_time if details else None) or run.expected_start_time
    return moment if moment is not None and moment <= now else None


def _retries_in_process(run: FlowRun) -> bool:
    policy = run.empirical_policy
    if policy is not None and "retry_type" in policy.model_fields_set:
        return policy.retry_type == "in_process"
    return run.state_name == "AwaitingRetry"
