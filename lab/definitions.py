"""The metrics' definitions for one run, from the states that it entered alone.

Nothing of the check is used here: what the definitions say is written down a second time, as literally as possible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TERMINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
LATE_START_GRACE_SECONDS = 15.0

# The end of a metric's name, and a histogram's sample in seconds; None for a count of one.
Measurement = tuple[str, float | None]


@dataclass(frozen=True)
class Entered:
    """A state that a run entered at a time in seconds, by any clock."""

    at: float
    type: str
    name: str


def of_flow_run(states: Sequence[Entered], expected_start: float) -> Iterator[Measurement]:
    """All that a flow run adds to the metrics."""
    yield from _of_any_run(states, expected_start)
    start = _start(states)
    if start is not None:
        yield "queue_wait_duration", max(0.0, start - expected_start)
    yield from _retry_gaps(states)


def of_task_run(
    states: Sequence[Entered], expected_start: float, upstream_ends: Sequence[float]
) -> Iterator[Measurement]:
    """All that a task run adds to the metrics; `upstream_ends` are the ends of those that it waited for."""
    yield from _of_any_run(states, expected_start)
    start = _start(states)
    if start is not None and upstream_ends:
        yield "dependency_wait_duration", max(0.0, start - max(upstream_ends))


def first_end(states: Sequence[Entered]) -> float | None:
    """When a run entered a terminal state for the first time."""
    return next((state.at for state in states if state.type in TERMINAL), None)


def _of_any_run(states: Sequence[Entered], expected_start: float) -> Iterator[Measurement]:
    """What flow runs and task runs have in common: starts, ends, and the time they ran."""
    start = _start(states)
    if start is not None:
        yield "throughput", None
        # Prefect's times are in microseconds; seconds in floats have more digits, of which the last are chance.
        if round(start - expected_start, 6) > LATE_START_GRACE_SECONDS:
            yield "late_start.count", None
    running = 0.0
    for before, state in zip((None, *states), states, strict=False):
        if before is not None and before.type == "RUNNING":
            running += state.at - before.at
        if state.type in TERMINAL:
            if before is None or before.type not in TERMINAL:
                yield f"{state.type.lower()}.count", None
                if start is not None and start < state.at:
                    yield "execution_duration", running
            running = 0.0


def _start(states: Sequence[Entered]) -> float | None:
    return next((state.at for state in states if state.type == "RUNNING"), None)


def _retry_gaps(states: Sequence[Entered]) -> Iterator[Measurement]:
    """From entering AwaitingRetry to RUNNING again, which it is not for a run that is made to wait before its start."""
    waiting_since: float | None = None
    has_run = False
    for state in states:
        if state.name == "AwaitingRetry":
            waiting_since = state.at if waiting_since is None else waiting_since
        elif state.type == "RUNNING":
            if has_run and waiting_since is not None:
                yield "retry_gaps_duration", state.at - waiting_since
            waiting_since, has_run = None, True
        elif state.type in TERMINAL:
            waiting_since = None
