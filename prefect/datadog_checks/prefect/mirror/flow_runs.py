"""The flow runs that are not over yet, or ended lately, read at most once in a check run for all who need them.

What is planned for later is not among them: see `planned_runs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from datadog_checks.prefect.api.models import FlowRun
from datadog_checks.prefect.api.prefect import PrefectApi

ACTIVE_TYPES = frozenset({"PENDING", "RUNNING", "PAUSED", "CANCELLING"})
WAITING_FOR_SLOT = "AwaitingConcurrencySlot"
# States that runs come into by what happens to them: nothing is planned in these. Those that wait for a slot have their
# next start put off at each attempt.
WAITING_NAMES = frozenset({WAITING_FOR_SLOT, "AwaitingRetry", "Rerunning", "Resuming"})
# Where there were more, a page that holds all is not tried for.
MOST_IN_SIGHT = 150


@dataclass(frozen=True)
class FlowRunsInSight:
    """The runs that were seen at one time.

    `waiting` are those SCHEDULED whose next start was not later than `due_by`, and those that wait for something else.
    `ended` are those that ended since `ended_since`; none were read where that is None.
    """

    due_by: datetime
    active: list[FlowRun]
    waiting: list[FlowRun]
    ended: list[FlowRun]
    ended_since: datetime | None


class ActiveFlowRuns:
    """Read once in a check run; all methods raise `ApiError`."""

    def __init__(self, api: PrefectApi) -> None:
        self._api = api
        self._in_sight = 0

    def active(self) -> list[FlowRun]:
        """The flow runs that are pending, running, paused or being cancelled."""
        return self._seen().active

    def ended(self, since: datetime) -> list[FlowRun]:
        """The flow runs that ended at this time or later; a request less where nobody has asked for others before."""
        seen = self._seen(since)
        if seen.ended_since is None or seen.ended_since > since:
            return self._api.ended_flow_runs(since)
        return seen.ended

    def waiting(self) -> list[FlowRun]:
        """The SCHEDULED runs whose time has come, and those that wait for a retry or a concurrency slot."""
        return self._seen().waiting

    def due_by(self) -> datetime:
        """Which runs' time has come; later ones are planned."""
        return self._seen().due_by

    def is_idle(self) -> bool:
        """Whether it is known that no run is active, and none ended lately."""
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
        # In the order in which runs go through these states: one that moves on meanwhile is seen in either or in both.
        readings = [
            self._api.due_flow_runs(now),
            self._api.flow_runs_named(WAITING_NAMES),
            self._api.active_flow_runs(ACTIVE_TYPES),
            self._api.ended_flow_runs(ended_since) if ended_since is not None else [],
        ]
        return list({run.id: run for reading in readings for run in reading}.values())


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
