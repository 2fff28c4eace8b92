"""Flow runs that are due, active or recently ended, read at most once in a check run for all collectors.

For runs that are scheduled for later, see `planned_runs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from datadog_checks.prefect.api.models import FlowRun
from datadog_checks.prefect.api.prefect import PrefectApi

ACTIVE_TYPES = frozenset({"PENDING", "RUNNING", "PAUSED", "CANCELLING"})
WAITING_FOR_SLOT = "AwaitingConcurrencySlot"
# Names of SCHEDULED states that the scheduler never creates. Each attempt of a run to get a slot postpones its next
# scheduled start.
WAITING_NAMES = frozenset({WAITING_FOR_SLOT, "AwaitingRetry", "Rerunning", "Resuming"})
# If there were more in the last check run, they are not requested on one page.
MOST_IN_SIGHT = 150


@dataclass(frozen=True)
class FlowRunsInSight:
    """The runs at one time.

    `waiting`: SCHEDULED runs that were due by `due_by`, and those in `WAITING_NAMES`. `ended`: runs that ended since
    `ended_since`; if that is None, none were read.
    """

    due_by: datetime
    active: list[FlowRun]
    waiting: list[FlowRun]
    ended: list[FlowRun]
    ended_since: datetime | None


class ActiveFlowRuns:
    """Flow runs, read once in a check run. All methods raise `ApiError`."""

    def __init__(self, api: PrefectApi) -> None:
        self._api = api
        self._in_sight = 0

    def active(self) -> list[FlowRun]:
        """The flow runs that are PENDING, RUNNING, PAUSED or CANCELLING."""
        return self._seen().active

    def ended(self, since: datetime) -> list[FlowRun]:
        """The flow runs that ended at this time or later. A call before all other methods saves a request."""
        seen = self._seen(since)
        if seen.ended_since is None or seen.ended_since > since:
            return self._api.ended_flow_runs(since)
        return seen.ended

    def waiting(self) -> list[FlowRun]:
        """The SCHEDULED runs that are due, and those that wait for a retry or a concurrency slot."""
        return self._seen().waiting

    def due_by(self) -> datetime:
        """The time at which runs were read: runs that start later are planned."""
        return self._seen().due_by

    def is_idle(self) -> bool:
        """Whether no run is active and none ended lately; False if not known."""
        seen = self._seen()
        return seen.ended_since is not None and not seen.active and not seen.ended

    def _seen(self, ended_since: datetime | None = None) -> FlowRunsInSight:
        return self._api.run.once(self._read, ended_since)

    def _read(self, ended_since: datetime | None) -> FlowRunsInSight:
        now, runs = self._api.now(), None
        if self._in_sight <= MOST_IN_SIGHT:
            runs = self._api.flow_runs_in_sight(ACTIVE_TYPES, WAITING_NAMES, now, ended_since)
        if runs is None:
            runs = self._read_apart(now, ended_since)
        self._in_sight = len(runs)
        active = [run for run in runs if run.state_type in ACTIVE_TYPES]
        waiting = [run for run in runs if run.state_type == "SCHEDULED"]
        ended = [run for run in runs if ended_since and run.end_time and run.end_time >= ended_since]
        return FlowRunsInSight(now, active, waiting, ended, ended_since)

    def _read_apart(self, now: datetime, ended_since: datetime | None) -> list[FlowRun]:
        # In the order in which runs go through these states, so that a run that moves on meanwhile is not missed.
        readings = [
            self._api.due_flow_runs(now),
            self._api.flow_runs_named(WAITING_NAMES),
            self._api.active_flow_runs(ACTIVE_TYPES),
            self._api.ended_flow_runs(ended_since) if ended_since is not None else [],
        ]
        return list({run.id: run for reading in readings for run in reading}.values())


def waiting_since(run: FlowRun, now: datetime) -> datetime | None:
    """Since when a run has been waiting in its work queue; None if it is not waiting.

    SCHEDULED runs wait since their next scheduled start, runs that wait for a concurrency slot since their expected
    start, and PENDING runs since their scheduled time. An in-process retry does not wait in the queue: no worker picks
    it up.
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
