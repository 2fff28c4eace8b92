"""What a change of state means for the metrics: pure functions over events, runs and their histories.

States count by their type, whatever their name: Cached is of type COMPLETED, TimedOut of type FAILED.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from datadog_checks.prefect.api.models import (
    STATE_TYPES,
    TERMINAL,
    Event,
    EventPayload,
    FlowRun,
    State,
    TaskRun,
    TaskRunPayload,
)
from datadog_checks.prefect.tags import related_by_role, resource_kind_and_id

NO_PAYLOAD = TaskRunPayload()
MOST_DIGITS = 9


@dataclass(frozen=True)
class Transition:
    """A change of a run's state.

    `run_count` is the number of times that the run entered RUNNING, this change included; None if the sender does not
    say. `payload` and `flow_run_id` are set for task runs only.
    """

    run_id: str
    at: datetime
    to_type: str
    from_type: str | None
    run_count: int | None
    name: str | None = None
    payload: TaskRunPayload = NO_PAYLOAD
    flow_run_id: str | None = None

    @property
    def ends(self) -> bool:
        """Whether it is an end: from a non-terminal state into a terminal one."""
        return self.to_type in TERMINAL and self.from_type not in TERMINAL

    @property
    def runs(self) -> bool:
        return self.to_type == "RUNNING"

    @property
    def phase(self) -> str:
        """The kind of change. It is part of the key, since a run may change twice at the same moment."""
        return "ends" if self.to_type in TERMINAL else self.to_type

    @property
    def matters(self) -> bool:
        """Whether a metric may depend on it."""
        return self.ends or self.runs


@dataclass(frozen=True)
class Outcome:
    """What one transition adds to the metrics of its run.

    `counts` and `durations` (in seconds) are named by their metrics, without `flow_runs.` or `task_runs.`.
    """

    counts: tuple[str, ...] = ()
    durations: tuple[tuple[str, float], ...] = ()


def transition_of(event: Event) -> Transition | None:
    """The transition in an event; None if the event is not about a change of a run's state."""
    resource = resource_kind_and_id(event.resource.get("prefect.resource.id"))
    to_type = event.resource.get("prefect.state-type")
    if resource is None or to_type not in STATE_TYPES or resource[0] not in ("flow-run", "task-run"):
        return None
    payload = event.payload or EventPayload()
    from_type = payload.initial_state.type if payload.initial_state else (payload.intended or {}).get("from")
    task_run = payload.task_run or NO_PAYLOAD
    told = _whole_number(event.resource.get("prefect.run-count"))
    return Transition(
        run_id=resource[1],
        at=event.occurred,
        to_type=to_type or "",
        from_type=from_type,
        # Before Prefect 3.4, events of task runs have it in the payload only, and events of flow runs not at all.
        run_count=told if told is not None else task_run.run_count,
        name=event.resource.get("prefect.state-name"),
        payload=task_run,
        flow_run_id=related_by_role(event.related).get("flow-run", (None, None))[0],
    )


def _whole_number(text: str | None) -> int | None:
    """Parse a number of an event; None for anything else, or a number that no run count reaches."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None


# Flow runs

SAME_TIME_SECONDS = 1e-5


def needs_history(transition: Transition, run: FlowRun | None) -> bool:
    """Whether the run object is not enough to evaluate the transition, so that the run's history must be read."""
    if transition.runs:
        return run is None or transition.run_count != 1 or run.start_time != transition.at
    if transition.ends:
        if transition.run_count == 0:
            return False
        # A run that ends from another state than RUNNING may have run and ended before.
        ended_waiting = transition.from_type != "RUNNING"
        told = run is not None and run.end_time == transition.at and run.total_run_time is not None
        return transition.run_count != 1 or ended_waiting or not told
    return False


def flow_run_outcome(
    transition: Transition, run: FlowRun | None, history: Sequence[State] | None, late_after: timedelta
) -> Outcome:
    """What a flow run's transition adds to its metrics.

    `history` has the run's states in the order of time. It is required if `needs_history`, and empty if it is gone.
    Metrics for which neither the history nor the run has the data are left out.
    """
    if transition.ends:
        return Outcome((f"{transition.to_type.lower()}.count",), tuple(_execution(transition, run, history)))
    if not transition.runs:
        return Outcome()
    if is_first_running(history, transition.at) if history else transition.run_count == 1:
        return _start(transition.at, _expected_start(run, history), late_after, "queue_wait_duration")
    gap = retry_gap(history or (), transition.at)
    return Outcome(durations=(("retry_gaps_duration", gap),) if gap is not None else ())


def _expected_start(run: FlowRun | None, history: Sequence[State] | None) -> datetime | None:
    """When the run should have started. If the run is gone or cannot be read, its first state says so."""
    if run is not None:
        return run.expected_start_time
    first = history[0] if history else None
    return first.state_details.scheduled_time if first and first.state_details else None


def _execution(
    transition: Transition, run: FlowRun | None, history: Sequence[State] | None
) -> Iterator[tuple[str, float]]:
    seconds: float | None = None
    if history is not None:
        seconds = running_time(history, transition.at)
    elif transition.run_count and run is not None:
        seconds = run.total_run_time
    if seconds is not None:
        yield "execution_duration", seconds


def _start(started: datetime, expected: datetime | None, late_after: timedelta, wait: str | None) -> Outcome:
    if expected is None:
        return Outcome(("throughput",))
    late = ("late_start.count",) if started - expected > late_after else ()
    waited = max(0.0, (started - expected).total_seconds())
    return Outcome(("throughput", *late), ((wait, waited),) if wait else ())


def history_of(events: Iterable[Event]) -> list[State]:
    """A run's history, rebuilt from its events."""
    changes = [(event.id, change) for event in events if (change := transition_of(event))]
    states = [
        {"id": identity, "type": change.to_type, "name": change.name, "timestamp": change.at}
        for identity, change in changes
    ]
    return sorted((State.model_validate(state) for state in states), key=lambda state: state.timestamp)


def transitions_in(run_id: str, history: Sequence[State]) -> list[Transition]:
    """All transitions in a run's history."""
    return [
        Transition(run_id, state.timestamp, state.type, before.type if before else None, None, state.name)
        for before, state in zip([None, *history], history, strict=False)
    ]


def transitions_of_ended(run: FlowRun) -> list[Transition] | None:
    """Start and end of an ended run, from its object alone; None if its history is needed.

    The object is enough for a run that ended once without having run, and for a run that ran once without a break. A
    later change from one terminal state to another hides the type of the first end.
    """
    if run.end_time is None or run.state_type not in TERMINAL or run.run_count is None:
        return None
    if run.state is None or run.state.timestamp != run.end_time:
        return None
    end = Transition(run.id, run.end_time, run.state_type or "", "RUNNING", run.run_count, run.state_name)
    if run.run_count == 0:
        # If a run ends without having run, the server sets its start to its end, and keeps it when the run ends again.
        return [end] if run.start_time in (None, run.end_time) else None
    if run.run_count > 1 or run.start_time is None or run.total_run_time is None:
        return None
    if abs((run.end_time - run.start_time).total_seconds() - run.total_run_time) > SAME_TIME_SECONDS:
        return None
    return [Transition(run.id, run.start_time, "RUNNING", "PENDING", 1), end]


def is_first_running(history: Iterable[State], at: datetime) -> bool:
    return not any(state.type == "RUNNING" and state.timestamp < at for state in history)


def running_time(history: Sequence[State], until: datetime) -> float | None:
    """Seconds that a run was RUNNING since its last terminal state before `until`; None if it never ran."""
    seconds = 0.0
    has_run = False
    before = [state for state in history if state.timestamp < until]
    for number, state in enumerate(before, start=1):
        if state.type == "RUNNING":
            left = before[number].timestamp if number < len(before) else until
            has_run = True
            seconds += (left - state.timestamp).total_seconds()
        elif state.type in TERMINAL:
            seconds = 0.0
    return seconds if has_run else None


def retry_gap(history: Sequence[State], until: datetime) -> float | None:
    """Seconds from entering AwaitingRetry to the RUNNING state at `until`; None if that was not a retry."""
    entered: datetime | None = None
    for state in history:
        if state.timestamp >= until:
            break
        if state.name == "AwaitingRetry":
            entered = entered or state.timestamp
        elif state.type == "RUNNING" or state.type in TERMINAL:
            entered = None
    return (until - entered).total_seconds() if entered is not None else None


# Task runs


def upstream_ids(transition: Transition) -> set[str]:
    """The task runs whose results a task run takes. The parent that it runs inside of is not one of them."""
    return {
        source.id
        for parameter, sources in transition.payload.task_inputs.items()
        if parameter != "__parents__"
        for source in sources
        if source.input_type == "task_run" and source.id
    }


def starts_task(transition: Transition) -> bool:
    """Whether a task run enters RUNNING for the first time."""
    return transition.runs and transition.run_count == 1 and transition.from_type != "RUNNING"


def task_identity(transition: Transition) -> str:
    """A name for a task run that its events and its object share: on older servers their ids may differ."""
    if transition.payload.dynamic_key is None:
        return transition.run_id
    return f"{transition.flow_run_id}/{transition.payload.task_key}/{transition.payload.dynamic_key}"


def task_start(task_run: TaskRun, at: datetime) -> Transition:
    """A task run's first entry into RUNNING, from its object."""
    return _task_transition(task_run, at, "PENDING", "RUNNING", run_count=1)


def task_end(task_run: TaskRun) -> Transition | None:
    """A task run's end, from its object; None if it has not ended."""
    if task_run.state_type not in TERMINAL:
        return None
    at = task_run.end_time
    if at is None and not task_run.run_count and task_run.state_name != "RolledBack":
        # A task run that never ran has no end time; it ended when it entered its current state.
        at = task_run.entered_terminal_at
    return _task_transition(task_run, at, "RUNNING", task_run.state_type or "", task_run.run_count) if at else None


def _task_transition(
    task_run: TaskRun, at: datetime, from_type: str, to_type: str, run_count: int | None
) -> Transition:
    return Transition(
        run_id=task_run.id,
        at=at,
        to_type=to_type,
        from_type=from_type,
        run_count=run_count,
        payload=task_run,
        flow_run_id=task_run.flow_run_id,
    )


def task_run_outcome(transition: Transition, late_after: timedelta, upstream_end: datetime | None) -> Outcome:
    """What a task run's transition adds to its metrics; `upstream_end` is the latest end of its upstream task runs."""
    if transition.ends:
        seconds = transition.payload.total_run_time if transition.run_count else None
        durations = (("execution_duration", seconds),) if seconds is not None else ()
        return Outcome((f"{transition.to_type.lower()}.count",), durations)
    if not starts_task(transition):
        return Outcome()
    start = _start(transition.at, transition.payload.expected_start_time, late_after, None)
    if upstream_end is None:
        return start
    waited = max(0.0, (transition.at - upstream_end).total_seconds())
    return Outcome(start.counts, (("dependency_wait_duration", waited),))
