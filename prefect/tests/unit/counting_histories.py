"""Random histories of runs, of what a server shows of them, and of what goes wrong: each transition is counted once.

The collectors of flow runs' and task runs' transitions read a server in memory. What they submit is held against the
truth, which comes of the metrics' definitions as the laboratory has written them down a second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from datadog_checks.prefect.api.errors import ApiError, RequestFailed, UnexpectedAnswer, Unreachable
from datadog_checks.prefect.check import MOST_TURNS
from datadog_checks.prefect.collectors.counted import TransitionCollector
from datadog_checks.prefect.collectors.flow_runs import FlowRunTransitions
from datadog_checks.prefect.collectors.task_runs import TaskRunTransitions
from datadog_checks.prefect.output.submitter import Sheet
from lab.poison import POISON_EVENTS

from .builders import T0
from .fake_server import BUDGET_SECONDS, INSTANT
from .live_runs import DEPLOYMENT, LiveFlowRun, LiveTaskRun, Run, RunsServer
from .run_stories import Change, Step, identity, poisons, shown, states_after, steps
from .truth_of_runs import Key, key, truth
from .wiring import parts_of, settings_of

numbers = st.integers(0, 15)
ERRORS = (
    Unreachable("http://prefect.test/api", "reset"),
    RequestFailed("POST /somewhere", "status 503"),
    UnexpectedAnswer("POST /somewhere", "HTML"),
)

LOOKBACK_SECONDS = 3600.0
OVERLAP_SECONDS = 120.0
# More than the requests of a check run take.
SLACK_SECONDS = 30.0
INTERVAL_SECONDS = 15.0
SETTINGS = settings_of(min_collection_interval=INTERVAL_SECONDS)
# That of the clock of a worker on Windows.
TICK = timedelta(milliseconds=16)


class CountingHistories(RuleBasedStateMachine):
    """A server, the check that counts what happens on it, and what of that has surely been told to the check.

    What the server shows too late for any check to count is not dealt: an event becomes visible before it is an hour
    old, and one that never does belongs to a change of state that the run's object tells.
    """

    def __init__(self) -> None:
        super().__init__()
        self.server = RunsServer()
        self.flow_runs: list[LiveFlowRun] = []
        self.task_runs: list[LiveTaskRun] = []
        self.stored: dict[str, str] = {}
        self.counted: Counter[Key] = Counter()
        # Changes that no undisturbed check run has seen.
        self.untold: list[Change] = []
        # The latest times at which objects were read for sure, and at which they may have been read.
        self.read_at = self.may_be_read_at = self.last_run_at = self.server.clock
        # Objects that are in sight only for a check run that sees that the clock was set back.
        self.in_sight_until: datetime | None = None
        self.set_back_by = timedelta()
        self.events_made = self.poured = 0
        self.has_failed = self.is_disturbed = False
        self.start_check()

    # The check

    def start_check(self) -> None:
        """A new life of the check, from what the last one has stored."""
        parts = parts_of(self.server, SETTINGS, stored=self.stored)
        self.collectors: list[TransitionCollector] = [FlowRunTransitions(parts), TaskRunTransitions(parts)]

    def run_check(self, before_answer: Callable[[int], None] | None = None) -> None:
        """One check run, as `PrefectCheck` makes it."""
        self.server.next_run()
        self.is_disturbed = before_answer is not None
        if before_answer is not None:
            self.server.before_answer = before_answer
        succeeded = [collector for collector in self.collectors if self.take_turn(collector, collector.collect)]
        for _ in range(MOST_TURNS):
            for collector in succeeded:
                if collector.behind:
                    self.take_turn(collector, collector.go_on)
        self.server.before_answer = lambda number: None
        self.last_run_at = self.server.clock
        self.may_be_read_at = max(self.may_be_read_at, self.server.clock)
        counted_too_often = self.counted - self.truth()
        self.has_failed = bool(counted_too_often)
        assert not counted_too_often

    def take_turn(self, collector: TransitionCollector, collect: Callable[[Sheet], None]) -> bool:
        """Count what a collector collects; returns whether it did."""
        sheet = Sheet()
        try:
            collect(sheet)
        except ApiError:
            assert self.is_disturbed, "no request failed"
            return False
        for metric, tags, value in sheet.samples:
            counts = metric.type == "count"
            self.counted[key(metric.name, tags, None if counts else value)] += int(value) if counts else 1
        collector.commit()
        return True

    def truth(self) -> Counter[Key]:
        return truth(self.flow_runs, self.task_runs)

    def run_undisturbed(self) -> None:
        self.run_check()
        self.read_at = self.may_be_read_at = self.server.clock
        self.in_sight_until = None
        self.untold = [change for change in self.hidden() if not self.can_stay_hidden(change)]

    def can_stay_hidden(self, change: Change) -> bool:
        return change.may_stay_hidden and change.is_told_by_object

    # Time

    def pass_time(self, seconds: float) -> None:
        """Time passes, after a check run has seen what could not be told any more later."""
        until = self.server.clock + timedelta(seconds=seconds + SLACK_SECONDS)
        oldest = until - timedelta(seconds=LOOKBACK_SECONDS)
        due = [change for change in self.untold if change.state.timestamp < oldest]
        for change in due:
            if not self.can_stay_hidden(change):
                self.server.show(change.event)
        if due or (self.in_sight_until is not None and until > self.in_sight_until):
            self.run_undisturbed()
        self.server.clock += timedelta(seconds=seconds)

    # Runs

    def go_on(self, run: LiveFlowRun | LiveTaskRun, steps: Sequence[Step], pass_time: Callable[[float], None]) -> None:
        for step in steps:
            pass_time(step.seconds or 0.002)
            earliest = run.state.timestamp + timedelta(milliseconds=1)
            following = states_after(run)
            # The history of a flow run has no other order than that of its times, which are not in the order of events
            # where the clock is set back in between. So a run waits until the clock has caught up.
            if not following or self.clock_of(run) < earliest:
                return
            at = max(earliest, self.clock_of(run) - timedelta(seconds=step.written_after))
            is_same_tick = not step.seconds and self.clock_of(run) - run.state.timestamp < TICK
            if isinstance(run, LiveTaskRun) and run.state.type == "PENDING" and is_same_tick:
                at = run.state.timestamp + INSTANT
            self.enter(run, following[step.choice % len(following)], at, step.shown)

    def clock_of(self, run: LiveFlowRun | LiveTaskRun) -> datetime:
        """The clock that tells when a run changes its state: the server's, or that of a task run's worker."""
        if isinstance(run, LiveFlowRun):
            return self.server.clock
        return self.server.clock + self.set_back_by + run.ahead

    def enter(self, run: LiveFlowRun | LiveTaskRun, state: str, at: datetime, shown: str) -> None:
        kind, _, name = state.partition(":")
        self.events_made += 1
        # Ids tell nothing of the order in which events were made.
        event = run.enter(kind, name or kind.capitalize(), at, f"{self.events_made * 7919 % 10007:05}")
        self.server.write_down(run)
        self.untold.append(Change(run, run.state, event, may_stay_hidden=shown == "never"))
        if shown == "at once":
            self.server.show(event)
        if run.end_time == at:
            self.look_at_end(run, at)

    def look_at_end(self, run: Run, at: datetime) -> None:
        """Where the check does not look back at the run's object, events have to tell all."""
        overlap = timedelta(seconds=OVERLAP_SECONDS)
        if at > self.may_be_read_at - overlap:
            return
        # Of the check runs since the clock was set back, each collector may have taken part in the last, or in none.
        in_sight = self.last_run_at > self.server.clock or at > self.last_run_at - overlap
        if in_sight and self.server.clock < self.read_at - timedelta(seconds=SLACK_SECONDS):
            self.in_sight_until = self.read_at
            return
        for change in self.untold:
            if change.run is run:
                change.may_stay_hidden = False

    def some_run(self, number: int) -> LiveFlowRun | LiveTaskRun:
        """One of all runs, the newest first."""
        runs: list[LiveFlowRun | LiveTaskRun] = [*self.flow_runs, *self.task_runs]
        return runs[-1 - number % len(runs)]

    # What happens

    @initialize(seconds=st.sampled_from((900.0, 3600.0)), shown=shown)
    def the_check_begins(self, seconds: float, shown: str) -> None:
        # What occurred before it began, by whatever clock, is never counted.
        self.run_undisturbed()
        self.server.clock += timedelta(seconds=seconds)
        self.run_undisturbed()
        self.a_flow_run_is_created(wait=0, deployed=True, shown=shown, steps=[])

    @rule(wait=st.sampled_from((-300, 0, 5)), deployed=st.booleans(), shown=shown, steps=steps)
    def a_flow_run_is_created(self, wait: int, deployed: bool, shown: str, steps: list[Step]) -> None:
        run = LiveFlowRun(
            id=identity(len(self.flow_runs)),
            expected_start=self.server.clock + timedelta(seconds=wait),
            deployment=DEPLOYMENT if deployed else None,
        )
        self.flow_runs.append(run)
        self.enter(run, "SCHEDULED", self.server.clock, shown)
        self.go_on(run, steps, self.pass_time)

    @rule(flow_run=numbers, ahead=st.integers(-600, 600), waits=st.integers(0, 3), shown=shown, steps=steps)
    def a_task_run_is_created(self, flow_run: int, ahead: int, waits: int, shown: str, steps: list[Step]) -> None:
        parent = self.flow_runs[-1 - flow_run % len(self.flow_runs)]
        siblings = [run for run in self.task_runs if run.flow_run is parent]
        run = LiveTaskRun(
            id=identity(1000 + len(self.task_runs)),
            expected_start=T0,
            flow_run=parent,
            # Tasks of one flow run have one clock.
            ahead=siblings[0].ahead if siblings else timedelta(seconds=ahead),
            upstream=tuple([sibling for sibling in siblings if sibling.has_ended][-waits:] if waits else ()),
        )
        run.expected_start = self.clock_of(run)
        self.task_runs.append(run)
        self.enter(run, "PENDING", run.expected_start, shown)
        self.go_on(run, steps, self.pass_time)

    @rule(number=numbers, steps=steps)
    def a_run_goes_on(self, number: int, steps: list[Step]) -> None:
        self.go_on(self.some_run(number), steps, self.pass_time)

    @precondition(lambda self: any(not change.may_stay_hidden for change in self.hidden()))
    @rule(first=st.integers(0, 3), every=st.integers(1, 3))
    def late_events_become_visible(self, first: int, every: int) -> None:
        for change in [change for change in self.hidden() if not change.may_stay_hidden][first::every]:
            self.server.show(change.event)

    @rule(names=poisons, ago=st.sampled_from((0, 30, 900)))
    def somebody_posts_bad_events(self, names: list[str], ago: int) -> None:
        for name in names:
            for document in POISON_EVENTS[name]():
                self.poured += 1
                at = self.server.clock - timedelta(seconds=ago)
                self.server.show({**document, "id": identity(1_000_000 + self.poured), "occurred": at.isoformat()})

    def hidden(self) -> list[Change]:
        return [change for change in self.untold if not self.server.shows(change.event["id"])]

    # The last two are as long as an Agent may be stopped.
    @rule(seconds=st.one_of(st.integers(0, 400), st.sampled_from((1300, 3500))))
    def time_passes(self, seconds: int) -> None:
        self.pass_time(seconds)

    @precondition(lambda self: not self.set_back_by)
    @rule(seconds=st.sampled_from((1, 100, 250, 400, 600)), steps=steps)
    def the_servers_clock_is_set_back(self, seconds: int, steps: list[Step]) -> None:
        self.run_undisturbed()
        self.set_back_by = timedelta(seconds=seconds)
        self.server.clock -= self.set_back_by
        run = LiveFlowRun(id=identity(len(self.flow_runs)), expected_start=self.server.clock)
        self.flow_runs.append(run)
        self.enter(run, "PENDING", self.server.clock, "late")
        self.go_on(run, steps, self.tick)

    @rule(
        seconds=st.sampled_from((15, 150, 400)),
        disturbance=st.sampled_from(("none", "fails", "is out of time", "is short of time", "goes on")),
        request=st.integers(1, 10),
        error=st.sampled_from(ERRORS),
        number=numbers,
        steps=steps,
        restarted=st.booleans(),
    )
    def the_check_runs(
        self,
        seconds: int,
        disturbance: str,
        request: int,
        error: ApiError,
        number: int,
        steps: list[Step],
        restarted: bool,
    ) -> None:
        def disturb(now: int) -> None:
            if disturbance == "fails" and now == request:
                raise error
            if disturbance == "is out of time" and now >= request:
                self.server.left = 0.0
            if disturbance == "is short of time" and now >= request:
                self.server.left = BUDGET_SECONDS / 2 - 1
            if disturbance == "goes on" and now == request:
                self.late_events_become_visible(0, 2)
                self.go_on(self.some_run(number), steps, self.tick)

        self.pass_time(seconds)
        if disturbance == "none":
            self.run_undisturbed()
        else:
            self.run_check(disturb)
        if restarted:
            self.start_check()

    def tick(self, _: float) -> None:
        self.server.clock += timedelta(milliseconds=2)

    def teardown(self) -> None:
        """All that may become visible does so, and several check runs see it: nothing is missing."""
        if self.has_failed:  # and `teardown` is called all the same
            return
        for change in self.hidden():
            if not self.can_stay_hidden(change):
                self.server.show(change.event)
        for _ in range(2):
            self.run_undisturbed()
            self.start_check()
            self.server.clock += timedelta(seconds=INTERVAL_SECONDS)
        self.run_undisturbed()
        missing = self.truth() - self.counted
        assert not missing
