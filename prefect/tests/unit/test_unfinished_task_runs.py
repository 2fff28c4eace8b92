"""How many task runs are not over, known without reading those that never will be."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from datadog_checks.prefect.api.models import TaskRun
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.mirror import task_runs as unfinished_task_runs
from datadog_checks.prefect.mirror.inventory import Inventory
from datadog_checks.prefect.mirror.task_runs import UNFINISHED_TYPES, UnfinishedTaskRuns
from datadog_checks.prefect.tags import RunTags

from .builders import T0, InCheckRuns

PAGE = 4
MINUTE = timedelta(minutes=1)
LOOKS_ENOUGH = 80


class TaskServer(InCheckRuns, PrefectApi):
    """Task runs by their ids; requests for pages and for totals are counted."""

    def __init__(self) -> None:
        self.clock = T0
        self.runs: dict[str, TaskRun] = {}
        self.pages = self.totals = 0

    def now(self) -> datetime:
        return self.clock

    def seconds_left(self) -> float:
        return 15.0

    def unfinished_task_runs(
        self, types: Collection[str], since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[list[TaskRun]]:
        last: tuple[datetime, str] | None = None
        while True:
            self.pages += 1
            found = [run for run in self._those(types, since, until) if last is None or place(run) < last][:PAGE]
            last = place(found[-1]) if found else last
            yield found
            if len(found) < PAGE:
                return

    def count_unfinished(self, types: Collection[str], since: datetime | None, until: datetime) -> int:
        self.totals += 1
        return len(self._those(types, since, until))

    def _those(self, types: Collection[str], since: datetime | None, until: datetime | None) -> list[TaskRun]:
        found = [
            run
            for run in self.runs.values()
            if run.state_type in types
            and (since is None or created(run) >= since)
            and (until is None or created(run) <= until)
        ]
        return sorted(found, key=place, reverse=True)


class NoTags(Inventory):
    def __init__(self) -> None:
        pass

    def tags_by_run_id(self, run_ids: Collection[str]) -> dict[str, RunTags | None]:
        return {run_id: RunTags(flow_id=run_id) for run_id in run_ids}


def created(run: TaskRun) -> datetime:
    assert run.expected_start_time is not None
    return run.expected_start_time


def place(run: TaskRun) -> tuple[datetime, str]:
    return created(run), run.id


def task_run(name: str, state_type: str, at: datetime, flow_run: str = "f") -> TaskRun:
    return TaskRun.model_validate(
        {"id": name, "state_type": state_type, "expected_start_time": at, "flow_run_id": flow_run, "task_key": "load"}
    )


class Tasks(RuleBasedStateMachine):
    """Task runs that come, go on and end, and one who looks now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.server = TaskServer()
        self.task_runs = UnfinishedTaskRuns(self.server, NoTags())
        self.numbers = itertools.count()

    @rule(number=st.integers(1, 15), state_type=st.sampled_from(UNFINISHED_TYPES), minutes=st.integers(0, 300))
    def come(self, number: int, state_type: str, minutes: int) -> None:
        for index in range(number):
            name = f"t{next(self.numbers):04}"
            at = self.server.clock - minutes * MINUTE - (index // 3) * MINUTE
            self.server.runs[name] = task_run(name, state_type, at, flow_run=f"f{index % 2}")

    @precondition(lambda self: self.server.runs)
    @rule(data=st.data(), state_type=st.sampled_from((*UNFINISHED_TYPES, "COMPLETED")))
    def go_on(self, data: st.DataObject, state_type: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.server.runs)))
        self.server.runs[name] = self.server.runs[name].model_copy(update={"state_type": state_type})

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
            for run in self.server.runs.values()
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
        server.runs[f"old{index:04}"] = task_run(f"old{index:04}", "RUNNING", T0 - 180 * MINUTE - index * MINUTE)
    return server


def test_those_that_never_end_are_read_once_and_then_asked_for_by_a_total_of_each_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unfinished_task_runs, "ENOUGH", PAGE)
    server = stuck(100)
    task_runs = UnfinishedTaskRuns(server, NoTags())
    unknown = 0
    while task_runs.totals() is None:
        unknown += 1
        server.next_run()
    assert unknown == 100 // (unfinished_task_runs.PAGES_AT_ONCE * PAGE)
    server.pages = server.totals = 0
    server.next_run()
    totals = task_runs.totals()
    assert totals is not None
    assert sum(totals.values()) == 100
    assert (server.pages, server.totals) == (1, 3)


def test_what_is_young_is_read_in_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished_task_runs, "ENOUGH", PAGE)
    server = stuck(20)
    for index in range(10):
        server.runs[f"new{index}"] = task_run(f"new{index}", "PENDING", T0 - index * MINUTE)
    task_runs = UnfinishedTaskRuns(server, NoTags())
    for _ in range(5):
        server.next_run()
        assert {run.id for run in task_runs.fresh()} >= {f"new{index}" for index in range(10)}
