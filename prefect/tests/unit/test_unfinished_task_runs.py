"""How many task runs are not over, known without reading those that never will be."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from datadog_checks.prefect.api.models import TaskRun
from datadog_checks.prefect.mirror import task_runs as unfinished_task_runs
from datadog_checks.prefect.mirror.task_runs import UNFINISHED_TYPES, UnfinishedTaskRuns

from .builders import T0
from .fake_server import FakeServer
from .wiring import TagsByIds, parts_of

PAGE = 4
MINUTE = timedelta(minutes=1)
LOOKS_ENOUGH = 80


class TaskServer(FakeServer):
    """Gives task runs in small pages."""

    task_runs_in_a_page = PAGE

    def put(self, name: str, state_type: str, at: datetime, flow_run: str = "f") -> None:
        fields = {"state_type": state_type, "expected_start_time": at, "flow_run_id": flow_run, "task_key": "load"}
        self.task_runs[name] = TaskRun.model_validate({"id": name, **fields})


def unfinished_on(server: TaskServer) -> UnfinishedTaskRuns:
    return parts_of(server, inventory=TagsByIds()).unfinished_task_runs


class Tasks(RuleBasedStateMachine):
    """Task runs that come, go on and end, and one who looks now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.server = TaskServer()
        self.task_runs = unfinished_on(self.server)
        self.numbers = itertools.count()

    @rule(number=st.integers(1, 15), state_type=st.sampled_from(UNFINISHED_TYPES), minutes=st.integers(0, 300))
    def come(self, number: int, state_type: str, minutes: int) -> None:
        for index in range(number):
            name = f"t{next(self.numbers):04}"
            at = self.server.clock - minutes * MINUTE - (index // 3) * MINUTE
            self.server.put(name, state_type, at, flow_run=f"f{index % 2}")

    @precondition(lambda self: self.server.task_runs)
    @rule(data=st.data(), state_type=st.sampled_from((*UNFINISHED_TYPES, "COMPLETED")))
    def go_on(self, data: st.DataObject, state_type: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.server.task_runs)))
        self.server.task_runs[name] = self.server.task_runs[name].model_copy(update={"state_type": state_type})

    @rule(minutes=st.integers(1, 90))
    def pass_time(self, minutes: int) -> None:
        self.server.clock += minutes * MINUTE

    @rule()
    def look(self) -> None:
        self.server.next_run()
        totals = self.task_runs.totals()
        assert totals is None or sum(totals.values()) == sum(self.truth().values())

    @rule()
    def settle(self) -> None:
        """However much happened, in the end all is known."""
        for _ in range(LOOKS_ENOUGH):
            self.look()
        totals = self.task_runs.totals()
        assert totals is not None
        assert Counter({kind[0]: 0 for kind in totals}) | by_type(totals) == by_type(self.truth())

    def truth(self) -> Counter[tuple[str, str]]:
        return Counter(
            (run.state_type, run.flow_run_id or "")
            for run in self.server.task_runs.values()
            if run.state_type in UNFINISHED_TYPES
        )


def by_type(totals: object) -> Counter[str]:
    found: Counter[str] = Counter()
    assert isinstance(totals, dict)
    for (state_type, _), total in totals.items():
        found[state_type] += total
    return found


def test_in_the_end_all_are_known_and_a_total_is_right_or_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished_task_runs, "ENOUGH", PAGE)
    monkeypatch.setattr(unfinished_task_runs, "PAGES_AT_ONCE", 2)
    monkeypatch.setattr(unfinished_task_runs, "FEW", 3)
    monkeypatch.setattr(unfinished_task_runs, "LOOKS_BETWEEN", 1)
    run_state_machine_as_test(Tasks, settings=settings(max_examples=150, stateful_step_count=25, deadline=None))


def stuck(number: int) -> TaskServer:
    """A server with so many task runs that are RUNNING since hours ago."""
    server = TaskServer()
    for index in range(number):
        server.put(f"old{index:04}", "RUNNING", T0 - 180 * MINUTE - index * MINUTE)
    return server


def test_those_that_never_end_are_read_once_and_then_asked_for_by_a_total_of_each_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unfinished_task_runs, "ENOUGH", PAGE)
    server = stuck(100)
    task_runs = unfinished_on(server)
    unknown = 0
    while task_runs.totals() is None:
        unknown += 1
        server.next_run()
    assert unknown == 100 // (unfinished_task_runs.PAGES_AT_ONCE * PAGE)
    server.next_run()
    totals = task_runs.totals()
    assert totals is not None
    assert sum(totals.values()) == 100
    assert (server.asked_for("task runs"), server.asked_for("total")) == (1, 3)


def test_what_is_young_is_read_in_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished_task_runs, "ENOUGH", PAGE)
    server = stuck(20)
    for index in range(10):
        server.put(f"new{index}", "PENDING", T0 - index * MINUTE)
    task_runs = unfinished_on(server)
    for _ in range(5):
        server.next_run()
        assert {run.id for run in task_runs.fresh()} >= {f"new{index}" for index in range(10)}
