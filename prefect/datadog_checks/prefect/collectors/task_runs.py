"""Task runs: how many are in each state, and how they started and ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from cachetools import FIFOCache

from datadog_checks.prefect.api.errors import Rejected
from datadog_checks.prefect.api.models import TERMINAL, Event, TaskRun
from datadog_checks.prefect.config.settings import Settings
from datadog_checks.prefect.counting.event_feed import INSTANT
from datadog_checks.prefect.counting.transitions import (
    Transition,
    starts_task,
    task_end,
    task_identity,
    task_run_outcome,
    task_start,
    transition_of,
    upstream_ids,
)
from datadog_checks.prefect.mirror.inventory import REMEMBERED
from datadog_checks.prefect.output.submitter import Sheet
from datadog_checks.prefect.tags import RunTags, task_run_tags

from .base import Collector, Context
from .counted import TransitionCollector

STATE_GAUGES = {"PENDING": "task_runs.pending", "RUNNING": "task_runs.running", "PAUSED": "task_runs.paused"}

# If at least this many task runs ended, they are counted first, and read only if the number differs. Only ends older
# than SETTLED_AFTER are compared: a busy server stores an end after it shows the event. `overlap` is longer than that.
MANY = 100
SETTLED_AFTER = timedelta(seconds=30)
# A page of upstream task runs.
UPSTREAM_AT_ONCE = 200
# While nothing runs, only one in so many check runs looks for ended task runs whose events were lost.
IDLE_RUNS_BETWEEN = 8


class TaskRunStates(Collector):
    """The task runs that are pending, running or paused now, without those that represent subflows."""

    name = "task_run_states"
    needs_deployments = True
    subject = "pending, running and paused task runs"
    owned = tuple(STATE_GAUGES.values())

    def collect(self, sheet: Sheet) -> None:
        totals = self.context.unfinished_task_runs.totals()
        if totals is None:
            self.context.warn(f"{self.subject}: initial load, not all of them are read yet")
            for gauge in self.owned:
                sheet.withhold_zeros(gauge)
            return
        for (state_type, tags), total in totals.items():
            if tags is not None:
                sheet.add(STATE_GAUGES[state_type], total, tags)


class TaskRunTransitions(TransitionCollector):
    """Starts and ends of task runs, each counted once."""

    name = "task_run_transitions"
    needs_deployments = True
    subject = "starts and ends of task runs"
    owned = (
        "task_runs.completed.count",
        "task_runs.failed.count",
        "task_runs.crashed.count",
        "task_runs.cancelled.count",
        "task_runs.throughput",
        "task_runs.late_start.count",
        "task_runs.execution_duration",
        "task_runs.dependency_wait_duration",
    )

    # A task run that never runs, for example a cached one, has no end time to filter by. It ends at most so long after
    # its creation.
    decided_within = timedelta(minutes=10)
    # A start waits at most so long for the ends of its upstream task runs, which a busy server shows later; `overlap`
    # is longer.
    patience = timedelta(minutes=1)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._objects_tell_ends = True
        # Task runs whose start is known, and the ends of those that may be read again.
        self._started: FIFOCache[str, None] = FIFOCache(REMEMBERED)
        self._ends: dict[str, datetime] = {}
        # Ends that this check run counted from objects.
        self._ends_read: dict[str, datetime] = {}
        # The first check run looks for lost events.
        self._idle_runs = -1
        self._first_starts: FIFOCache[str, datetime] = FIFOCache(REMEMBERED)

    @classmethod
    def document_of(cls, settings: Settings) -> str:
        return "task_runs"

    def criteria(self) -> dict[str, Any]:
        # A third of the events, and no metric needs them.
        return {"event": {"prefix": ["prefect.task-run."], "exclude_name": ["prefect.task-run.Pending"]}}

    def identity(self, transition: Transition) -> str:
        return task_identity(transition)

    def take(self, sheet: Sheet, events: list[Event]) -> int:
        told = [
            (event, transition) for event in events if (transition := self.transition_of(event)) and counts(transition)
        ]
        self._tags_of_runs(transition for _, transition in told)
        ends = self._upstream_ends([transition for _, transition in told])
        for _, change in told:
            if change.ends and change.run_id in self._started:
                self._ends[change.run_id] = change.at
            elif starts_task(change):
                self._started[change.run_id] = None
        for event, transition in told:
            with self.context.leaving_out(Event, event.id):
                run_tags = self.context.inventory.tags_told_by(event.related, transition.flow_run_id)
                if self._is_too_early(transition, ends):
                    self.put_off.add(event.id)
                else:
                    self._count(sheet, transition, run_tags, ends)
        return len(events)

    def take_objects(self, sheet: Sheet, since: datetime) -> bool:
        self._ends_read = {}
        unfinished = self.context.unfinished_task_runs.fresh()
        if not unfinished and self.is_quiet and self.context.active_flow_runs.is_idle():
            self._idle_runs += 1
        else:
            self._idle_runs = 0
        if self._idle_runs % IDLE_RUNS_BETWEEN:
            return False
        ended = self._ended(since)
        transitions = [
            transition
            for task_run in [*unfinished, *ended]
            for transition in (self._start(task_run), task_end(task_run))
            if transition is not None and not self.is_counted(transition)
        ]
        tags_by_run = self._tags_of_runs(transitions)
        ends = self._upstream_ends(transitions)
        for transition in transitions:
            with self.context.leaving_out(TaskRun, transition.run_id):
                if not self._is_too_early(transition, ends):
                    self._count(sheet, transition, tags_by_run.get(transition.flow_run_id or "", RunTags()), ends)
        self._ends_read = {run.id: run.end_time for run in ended if run.end_time}
        return True

    def commit(self) -> None:
        # Not earlier: objects with a known end are not read again, so an end must be counted before it is known.
        self._ends.update(self._ends_read)
        super().commit()

    def _is_too_early(self, transition: Transition, ends: Mapping[str, datetime]) -> bool:
        """Whether it is a recent start, and the end of an upstream task run is still missing."""
        if not starts_task(transition) or ends.keys() >= upstream_ids(transition):
            return False
        return transition.at > self.context.now() - self.patience and not self.is_counted(transition)

    def _start(self, task_run: TaskRun) -> Transition | None:
        if task_run.start_time is None or not task_run.run_count:
            return None
        start = task_start(task_run, task_run.start_time)
        if task_run.run_count == 1 or self.is_counted(start):
            return start
        # If several processes ran it in turn, the last one has set the start time.
        first = self._first_running(task_run.id)
        return task_start(task_run, first) if first else None

    def _first_running(self, task_run_id: str) -> datetime | None:
        if task_run_id not in self._first_starts:
            history = self.context.api.task_run_history(task_run_id)
            first = next((state.timestamp for state in history if state.type == "RUNNING"), None)
            if first is None:
                return None
            self._first_starts[task_run_id] = first
        return self._first_starts[task_run_id]

    def _ended(self, since: datetime) -> list[TaskRun]:
        self._ends = {identity: at for identity, at in self._ends.items() if at >= since}
        if not self._objects_tell_ends:
            return []
        now = self.context.now()
        settled = now - SETTLED_AFTER
        known = sum(at <= settled for at in self._ends.values())
        try:
            # If as many ended as are known from events, no event was lost. The latest ends are compared later.
            is_known = len(self._ends) >= MANY and self.context.api.count_ended_task_runs(since, settled) == known
            ran = [] if is_known else self.context.api.ended_task_runs(since)
            return ran + self.context.api.task_runs_that_never_ran(TERMINAL, since - self.decided_within)
        except Rejected as refusal:
            if refusal.status != 422:
                raise
            # Servers before 3.6.22 have no such filter: there, only events tell of ends.
            self._objects_tell_ends = False
            return []

    def _tags_of_runs(self, transitions: Iterable[Transition]) -> dict[str, RunTags | None]:
        run_ids = {transition.flow_run_id for transition in transitions if transition.flow_run_id}
        return self.context.inventory.tags_by_run_id(run_ids)

    def _count(self, sheet: Sheet, transition: Transition, run_tags: RunTags | None, ends: dict[str, datetime]) -> None:
        """Put a transition's samples on the sheet, unless it was counted before."""
        if run_tags is None or self.is_counted(transition):
            return
        upstream_end = latest_end(upstream_ids(transition), ends)
        outcome = task_run_outcome(transition, self.context.settings.late_after, upstream_end)
        sheet.add_outcome("task_runs", outcome, task_run_tags(run_tags, transition.payload.task_key))
        self.remember(transition)

    def times_of(self, transition: Transition) -> Sequence[datetime]:
        # If a worker's clock ticks coarsely, as on Windows, Prefect moves the RUNNING state a microsecond behind the
        # run's start time, so that no two states have the same time.
        at = transition.at
        return (at, at + INSTANT, at - INSTANT) if transition.runs else (at,)

    def _upstream_ends(self, transitions: Collection[Transition]) -> dict[str, datetime]:
        """The ends of the upstream task runs of starts, by id."""
        upstream = {identity for change in transitions if starts_task(change) for identity in upstream_ids(change)}
        ends = ends_of(transitions)
        missing = sorted(upstream - ends.keys())
        # A task run that ended without having run has no end time, and its event may still be on the way.
        entered: dict[str, datetime] = {}
        stop_at = self.context.api.seconds_left() / 2
        for position in range(0, len(missing), UPSTREAM_AT_ONCE):
            # A task run may refer to any number of others.
            if self.context.api.seconds_left() < stop_at:
                break
            self._read_upstream(missing[position : position + UPSTREAM_AT_ONCE], ends, entered)
        return entered | ends

    def _read_upstream(self, ids: Collection[str], ends: dict[str, datetime], entered: dict[str, datetime]) -> None:
        for run in self.context.api.task_runs_by_id(ids):
            if run.end_time:
                ends[run.id] = run.end_time
            if run.entered_terminal_at:
                entered[run.id] = run.entered_terminal_at
        if missing := set(ids) - ends.keys():
            # A busy server stores a task run's end later than its event.
            events = self.context.api.events_of([f"prefect.task-run.{identity}" for identity in missing])
            ends.update(ends_of(transition for event in events if (transition := transition_of(event))))


def counts(transition: Transition) -> bool:
    """Whether a task run's transition adds to a metric."""
    return transition.ends or starts_task(transition)


def ends_of(transitions: Iterable[Transition]) -> dict[str, datetime]:
    """The ends among these transitions, by task run id."""
    return {transition.run_id: transition.at for transition in transitions if transition.ends}


def latest_end(upstream: Collection[str], ends: dict[str, datetime]) -> datetime | None:
    """The latest end of these task runs; None if there are none, or an end is unknown."""
    if not upstream or not ends.keys() >= set(upstream):
        return None
    return max(ends[identity] for identity in upstream)
