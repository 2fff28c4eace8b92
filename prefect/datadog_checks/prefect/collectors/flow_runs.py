"""Flow runs: how many are in each state, and how they started and ended."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from datadog_checks.prefect.api.errors import OutOfTime, RequestFailed
from datadog_checks.prefect.api.models import Event, FlowRun, State
from datadog_checks.prefect.config.settings import Settings
from datadog_checks.prefect.counting.event_activity import PLANNED_RUNS
from datadog_checks.prefect.counting.transitions import (
    Transition,
    flow_run_outcome,
    history_of,
    needs_history,
    transitions_in,
    transitions_of_ended,
)
from datadog_checks.prefect.mirror.initial_load import Progress
from datadog_checks.prefect.output.submitter import Sheet
from datadog_checks.prefect.tags import RunTags, Tags

from .base import Collector, Context
from .counted import TransitionCollector

# Attempts to read a run's history before its transitions are counted without it.
MOST_TRIES = 4

STATE_GAUGES = {"PENDING": "flow_runs.pending", "RUNNING": "flow_runs.running", "PAUSED": "flow_runs.paused"}


class FlowRunStates(Collector):
    """The runs that are pending, running or paused now."""

    name = "flow_run_states"
    needs_deployments = True
    subject = "pending, running and paused flow runs"
    owned = tuple(STATE_GAUGES.values())

    def collect(self, sheet: Sheet) -> None:
        runs = [run for run in self.context.active_flow_runs.active() if run.state_type in STATE_GAUGES]
        tags_by_run = self.context.inventory.tags_of_runs(runs)
        totals: Counter[tuple[str, Tags]] = Counter()
        for run in runs:
            run_tags = tags_by_run[run.id]
            if run_tags is not None and run.state_type:
                totals[STATE_GAUGES[run.state_type], run_tags.tags()] += 1
        for (gauge, tags), total in totals.items():
            sheet.add(gauge, total, tags)


class ScheduledFlowRuns(Collector):
    """Scheduled runs, due or planned for later. A deployment whose runs are not counted yet has no value."""

    name = "scheduled_flow_runs"
    needs_deployments = True
    subject = "scheduled flow runs"
    owned = ("flow_runs.scheduled",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._planned = context.planned_runs
        self._progress = Progress()

    def collect(self, sheet: Sheet) -> None:
        inventory, active_flow_runs = self.context.inventory, self.context.active_flow_runs
        mirrored = self.context.deployments
        waiting = active_flow_runs.waiting()
        deployments = inventory.wanted_deployments(mirrored.known)
        are_all = mirrored.is_complete and not self.context.settings.filters.restrict_objects
        has_differed = self._planned.look(
            deployments,
            mirrored.take_changed(),
            are_all,
            active_flow_runs.due_by(),
            waiting,
            active_flow_runs.active(),
            self.context.event_activity.is_turn_of(PLANNED_RUNS),
        )
        if has_differed:
            self.context.event_activity.note_change()
        totals = Counter(self._planned.totals())
        tags_by_run = inventory.tags_of_runs(waiting)
        for run in waiting:
            run_tags = tags_by_run[run.id]
            if run_tags is not None and self._is_counted(run.deployment_id):
                totals[run_tags.tags()] += 1
        for tags, total in totals.items():
            sheet.add("flow_runs.scheduled", total, tags)
        if self._planned.unknown or not mirrored.is_complete:
            sheet.withhold_zeros("flow_runs.scheduled")
        if self._planned.unknown:
            known = len(deployments) - self._planned.unknown
            progress = self._progress.words(known, len(deployments), self.context.now())
            self.context.warn(
                f"{self.subject} by deployment: initial load, {progress}; the others appear as they are read"
            )

    def _is_counted(self, deployment_id: str | None) -> bool:
        """Whether all runs of this deployment (or without one) are known. A deleted deployment has nothing planned."""
        mirrored = self.context.deployments
        return self._planned.knows(deployment_id) or (mirrored.is_complete and deployment_id not in mirrored.known)


class FlowRunTransitions(TransitionCollector):
    """Starts, retries and ends of flow runs, each counted once."""

    name = "flow_run_transitions"
    needs_deployments = True
    subject = "starts, retries and ends of flow runs"
    owned = (
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

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._histories: dict[str, list[State]] = {}
        # Failed attempts to read the history that an event needs.
        self._tries: Counter[str] = Counter()

    @classmethod
    def document_of(cls, settings: Settings) -> str:
        return "flow_runs"

    def criteria(self) -> dict[str, Any]:
        names = {
            "prefix": ["prefect.flow-run."],
            "exclude_prefix": ["prefect.flow-run.heartbeat", "prefect.flow-run.pull-step."],
            "exclude_name": ["prefect.flow-run.Scheduled", "prefect.flow-run.Pending"],
        }
        return {"event": names}

    def identity(self, transition: Transition) -> str:
        return transition.run_id

    def take(self, sheet: Sheet, events: list[Event]) -> int:
        transitions = [self.transition_of(event) for event in events]
        run_ids = {transition.run_id for transition in transitions if transition and transition.matters}
        runs = {run.id: run for run in self.context.api.flow_runs_by_id(run_ids)}
        self.context.inventory.tags_of_runs(runs.values())
        self._histories.clear()
        unread = 0
        for event, transition in zip(events, transitions, strict=True):
            if transition is None or not transition.matters:
                continue
            try:
                with self.context.leaving_out(Event, event.id):
                    self._take(sheet, event, transition, runs.get(transition.run_id))
            except OutOfTime:
                # There was no time for this run's history. Other runs may not need theirs.
                self.put_off.add(event.id)
                unread += 1
        if unread:
            self.context.warn(f"{self.subject}: {unread} are left for the next check run, as their histories are slow")
        self._tries = Counter({event_id: self._tries[event_id] for event_id in self.put_off})
        return len(events)

    def _take(self, sheet: Sheet, event: Event, transition: Transition, run: FlowRun | None) -> None:
        run_tags = self.context.inventory.tags_told_by(event.related, transition.run_id)
        if run_tags is None:
            return
        try:
            self._count(sheet, transition, run, run_tags)
        except RequestFailed as error:
            # Only this run's history failed; the next check run tries again.
            self._tries[event.id] += 1
            if self._tries[event.id] < MOST_TRIES:
                self.put_off.add(event.id)
                return
            self.context.api.oddities.leave_out(State, str(error), transition.run_id)
            self._add_outcome(sheet, transition, run, run_tags, [])

    def take_objects(self, sheet: Sheet, since: datetime) -> bool:
        ended, active = self.context.active_flow_runs.ended(since), self.context.active_flow_runs.active()
        tags_by_run = self.context.inventory.tags_of_runs([*ended, *active])
        for count, runs in ((self._count_end, ended), (self._count_starts, active)):
            for run in runs:
                if run_tags := tags_by_run[run.id]:
                    with self.context.leaving_out(FlowRun, run.id):
                        count(sheet, run, run_tags)
        return True

    def _count_end(self, sheet: Sheet, run: FlowRun, run_tags: RunTags) -> None:
        transitions = transitions_of_ended(run)
        if transitions is None and run.end_time:
            # Whether the end was counted says nothing about earlier transitions, whose events may be lost.
            self._count_history_once(sheet, run, run_tags, run.end_time)
        for transition in transitions or ():
            self._count(sheet, transition, run, run_tags)

    def _count_starts(self, sheet: Sheet, run: FlowRun, run_tags: RunTags) -> None:
        """Count the starts of a run that has not ended."""
        entered = run.state.timestamp if run.state else None
        if entered is None or not run.run_count:
            return
        if run.state_type == "RUNNING":
            self._count(sheet, Transition(run.id, entered, "RUNNING", None, run.run_count), run, run_tags)
        elif run.start_time and not self.is_counted(Transition(run.id, run.start_time, "RUNNING", None, None)):
            self._count_history_once(sheet, run, run_tags, entered)

    def _count_history_once(self, sheet: Sheet, run: FlowRun, run_tags: RunTags, until: datetime) -> None:
        """Count the transitions in a run's history, once for each last state, which it entered at `until`."""
        reading = f"history of {run.id} until {until}"
        if self._feed.has(reading, until):
            return
        self._count_history(sheet, run.id, run, run_tags, until)
        if until in {state.timestamp for state in self._history(run.id, until)}:
            self._feed.expect(reading, until)

    def _count(self, sheet: Sheet, transition: Transition, run: FlowRun | None, run_tags: RunTags) -> None:
        """Put a transition's samples on the sheet, unless it was counted before."""
        if needs_history(transition, run) and not self.is_counted(transition):
            self._count_history(sheet, transition.run_id, run, run_tags, transition.at)
        # The history has counted it too, unless the history is gone.
        history = self._histories.get(transition.run_id)
        self._add_outcome(sheet, transition, run, run_tags, history)

    def _count_history(
        self, sheet: Sheet, run_id: str, run: FlowRun | None, run_tags: RunTags, reaching: datetime
    ) -> None:
        history = self._history(run_id, reaching)
        for transition in transitions_in(run_id, history):
            if transition.matters:
                self._add_outcome(sheet, transition, run, run_tags, history)

    def _add_outcome(
        self, sheet: Sheet, transition: Transition, run: FlowRun | None, run_tags: RunTags, history: list[State] | None
    ) -> None:
        if self.is_counted(transition):
            return
        outcome = flow_run_outcome(transition, run, history, self.context.settings.late_after)
        sheet.add_outcome("flow_runs", outcome, run_tags.tags())
        self.remember(transition)

    def _history(self, run_id: str, reaching: datetime) -> list[State]:
        """The run's history, read again if the last reading does not reach this time."""
        if all(state.timestamp < reaching for state in self._histories.get(run_id, ())):
            # A deleted run has left its events.
            self._histories[run_id] = self.context.api.flow_run_history(run_id) or history_of(
                self.context.api.events_of([f"prefect.flow-run.{run_id}"])
            )
        return self._histories[run_id]
