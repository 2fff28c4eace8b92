"""What runs may go through in a property test: which states follow each other, when, and when their events are seen.

And which bad events there are beside theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from uuid import UUID

from hypothesis import strategies as st

from datadog_checks.prefect.api.models import State
from lab.definitions import TERMINAL
from lab.poison import COUNTED_NOWHERE

from .builders import Json
from .live_runs import LiveFlowRun, LiveTaskRun, Run

# The states that may follow each; a name stands behind the type where it is not the usual one.
AFTER_AN_END = ("SCHEDULED", "FAILED", "SCHEDULED:AwaitingRetry", "PENDING", "RUNNING", "COMPLETED", "CANCELLED")
FLOW_STATES = {
    "SCHEDULED": ("PENDING", "RUNNING", "CANCELLED", "SCHEDULED:Late", "CRASHED", "SCHEDULED:AwaitingRetry"),
    "PENDING": ("RUNNING", "CANCELLED", "CRASHED", "FAILED", "SCHEDULED"),
    "RUNNING": (
        "COMPLETED", "FAILED", "SCHEDULED:AwaitingRetry", "PAUSED", "CANCELLING", "CRASHED", "CANCELLED", "RUNNING",
    ),
    "PAUSED": ("RUNNING", "SCHEDULED:Resuming", "FAILED", "CANCELLED"),
    "CANCELLING": ("CANCELLED", "CRASHED"),
    **dict.fromkeys(TERMINAL, AFTER_AN_END),
}  # fmt: skip
# Task runs do not leave a terminal state, but one that has completed may be rolled back. One that was cached without
# having run is not: its object would tell the time of that, and not when it ended.
TASK_STATES = {
    "PENDING": ("RUNNING", "COMPLETED:Cached", "CRASHED", "CANCELLED", "PENDING:NotReady"),
    "RUNNING": (
        "COMPLETED", "FAILED", "SCHEDULED:AwaitingRetry", "RUNNING:Retrying", "PAUSED", "CRASHED", "CANCELLED",
    ),
    "SCHEDULED": ("RUNNING:Retrying", "CANCELLED"),
    "PAUSED": ("RUNNING", "FAILED"),
    "COMPLETED": ("COMPLETED:RolledBack",),
    "FAILED": (), "CRASHED": (), "CANCELLED": (),
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A run's next change of state: after how many seconds, into which of the states that may follow.

    None at all stands for the same tick of a worker's clock. `shown` is when its event becomes visible. `written_after`
    is how many seconds the server takes to write it down.
    """

    seconds: float
    choice: int
    shown: str
    written_after: float


SHOWN = ("at once", "late", "never")
# All there are, in one draw: that is quicker than a draw for each field.
STEPS = [Step(*fields) for fields in product((0.002, 0.5, 20.0, 61.0, 0.0), range(8), SHOWN, (0.0, 0.0, 5.0, 100.0))]
steps = st.lists(st.integers(0, len(STEPS) - 1).map(lambda number: STEPS[number]), min_size=1, max_size=6)
shown = st.sampled_from(SHOWN)
poisons = st.lists(st.sampled_from(COUNTED_NOWHERE), min_size=1, max_size=4)


def identity(number: int) -> str:
    """A UUID that tells nothing but a number."""
    return str(UUID(int=number))


@dataclass(eq=False)
class Change:
    """A change of state that may not have been counted yet."""

    run: Run
    state: State
    event: Json
    may_stay_hidden: bool

    @property
    def is_told_by_object(self) -> bool:
        """Whether the run's object, as it is now, tells what this adds to the metrics."""
        if isinstance(self.run, LiveFlowRun):
            # Its history is read while it runs, and once it has ended.
            return self.run.has_ended or self.run.state.type == "RUNNING"
        first_running = next((state for state in self.run.states if state.type == "RUNNING"), None)
        if self.state is first_running:
            return self.run.end_time is not None or self.run.state.type in ("RUNNING", "PAUSED")
        if self.state.type in TERMINAL:
            return self.run.end_time is not None
        return True


def states_after(run: LiveFlowRun | LiveTaskRun) -> tuple[str, ...]:
    if isinstance(run, LiveFlowRun):
        return FLOW_STATES[run.state.type]
    return () if run.has_ended and run.run_count == 0 else TASK_STATES[run.state.type]
