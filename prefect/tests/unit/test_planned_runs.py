"""How many runs are planned, known without reading them: it follows whatever happens on a server in memory."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from datadog_checks.prefect.api import paging
from datadog_checks.prefect.api.models import Deployment, FlowRun
from datadog_checks.prefect.mirror import count_bisection, planned_runs
from datadog_checks.prefect.mirror.initial_load import InitialLoadTime
from datadog_checks.prefect.mirror.planned_runs import PlannedRuns
from datadog_checks.prefect.tags import RunTags

from .builders import T0
from .fake_server import FakeServer
from .wiring import TagsByIds

PAGE = 5
LOOKS_ENOUGH = 60
MINUTE = timedelta(minutes=1)


class PlanningServer(FakeServer):
    """Gives planned runs in small pages."""

    flow_runs_in_a_page = PAGE

    def plan(self, name: str, deployment: str | None, at: datetime, state_name: str = "Scheduled") -> None:
        self.flow_runs[name] = FlowRun(
            id=name,
            deployment_id=deployment,
            state_type="SCHEDULED",
            state_name=state_name,
            next_scheduled_start_time=at,
        )

    def make_deployment(self, identity: str) -> None:
        self.deployments_made[identity] = Deployment(id=identity)


def start(run: FlowRun) -> datetime:
    assert run.next_scheduled_start_time is not None
    return run.next_scheduled_start_time


class Planning(RuleBasedStateMachine):
    """A server on which runs are planned, come due, are deleted and wait, and one who looks now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.server = PlanningServer()
        self.planned = PlannedRuns(self.server, TagsByIds(), InitialLoadTime(self.server, 0))
        self.now = T0
        self.numbers = itertools.count()
        self.known: set[str] = set()

    @rule(number=st.integers(1, 12))
    def make_deployments(self, number: int) -> None:
        for _ in range(number):
            self.server.make_deployment(f"d{next(self.numbers):04}")

    @precondition(lambda self: self.server.deployments_made)
    @rule(data=st.data(), number=st.integers(1, 8), waits=st.booleans())
    def plan(self, data: st.DataObject, number: int, waits: bool) -> None:
        deployment = data.draw(st.sampled_from([*sorted(self.server.deployments_made), None]))
        for minutes in data.draw(st.lists(st.integers(1, 300), min_size=number, max_size=number)):
            name = f"r{next(self.numbers):04}"
            at = self.now + minutes * MINUTE
            self.server.plan(name, deployment, at, "AwaitingRetry" if waits else "Scheduled")

    @precondition(lambda self: self.server.flow_runs)
    @rule(data=st.data())
    def delete_run(self, data: st.DataObject) -> None:
        del self.server.flow_runs[data.draw(st.sampled_from(sorted(self.server.flow_runs)))]

    @precondition(lambda self: self.server.deployments_made)
    @rule(data=st.data(), keeps=st.booleans())
    def pause_or_delete(self, data: st.DataObject, keeps: bool) -> None:
        deployment = data.draw(st.sampled_from(sorted(self.server.deployments_made)))
        runs = self.server.flow_runs
        self.server.flow_runs = {name: run for name, run in runs.items() if run.deployment_id != deployment}
        if not keeps:
            del self.server.deployments_made[deployment]

    @rule(minutes=st.integers(1, 90))
    def pass_time(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule()
    def restart(self) -> None:
        """The Agent restarts, some time after the state was stored."""
        stored = dict(self.planned.to_store(self.known, ()))
        self.planned = PlannedRuns(self.server, TagsByIds(), InitialLoadTime(self.server, 0))
        self.planned.restore(stored)

    @rule(are_all=st.booleans())
    def look(self, are_all: bool) -> None:
        self.server.requests.clear()
        deployments = set(self.server.deployments_made)
        changed = deployments ^ self.known
        self.known = deployments
        waiting = [run for run in self.server.flow_runs.values() if run.state_name == "AwaitingRetry"]
        self.planned.look(deployments, changed, are_all, self.now, waiting)
        # Each deployment of a part may have to be read by itself, and no run of the server is ever read whole.
        totals = 2 * (planned_runs.PARTS_AT_ONCE + planned_runs.MOST_REQUESTS)
        assert len(self.server.requests) <= planned_runs.PAGES_AT_ONCE + totals + 3

    @precondition(lambda self: self.server.deployments_made)
    @rule(are_all=st.booleans())
    def settle(self, are_all: bool) -> None:
        """However much happened, in the end all is known."""
        for _ in range(LOOKS_ENOUGH):
            self.look(are_all)
        assert self.planned.unknown == 0
        assert self.planned.totals() == self.truth()

    @invariant()
    def what_is_not_known_is_absent(self) -> None:
        for (tag,) in filter(None, self.planned.totals()):
            assert self.planned.knows(tag.partition(":")[2])

    def truth(self) -> dict[tuple[str, ...], int]:
        runs = self.server.flow_runs.values()
        later = [run for run in runs if start(run) > self.now and run.state_name == "Scheduled"]
        found = Counter(RunTags(deployment_id=run.deployment_id).tags() for run in later)
        known = {tags: total for tags, total in self.planned.totals().items() if total == 0}
        return {**known, **found}


def test_what_is_planned_is_known_in_the_end_whatever_happened(monkeypatch: Any) -> None:
    monkeypatch.setattr(count_bisection, "MOST_IDS", 8)
    monkeypatch.setattr(planned_runs, "MOST_IDS", 8)
    monkeypatch.setattr(planned_runs, "RUNS_AT_ONCE", 4)
    monkeypatch.setattr(planned_runs, "FEW", 2)
    monkeypatch.setattr(planned_runs, "LOOKS_BETWEEN", 1)
    run_state_machine_as_test(Planning, settings=settings(max_examples=150, stateful_step_count=25, deadline=None))


def planned_at(server: PlanningServer, deployment: str, *minutes: float) -> None:
    for number in minutes:
        server.plan(f"{deployment}-{number}", deployment, T0 + number * MINUTE)
    server.make_deployment(deployment)


def test_as_long_as_nothing_happens_the_total_is_all_that_is_asked_for() -> None:
    server = PlanningServer()
    for number in range(30):
        planned_at(server, f"d{number}", *range(60, 60 + number))
    planned = PlannedRuns(server, TagsByIds(), InitialLoadTime(server, 0))
    for _ in range(LOOKS_ENOUGH):
        planned.look(sorted(server.deployments_made), (), True, T0, ())
    assert planned.unknown == 0
    server.requests.clear()
    planned.look(sorted(server.deployments_made), (), True, T0 + timedelta(minutes=90, seconds=30), ())
    assert len(server.requests) == 1
    assert sum(planned.totals().values()) == sum(start(run) > T0 + 90 * MINUTE for run in server.flow_runs.values())


def test_what_the_scheduler_adds_after_a_run_came_due_is_found_with_three_requests() -> None:
    server = PlanningServer()
    for number in range(300):
        planned_at(server, f"d{number}", 60, 120)
    planned_at(server, "early", 1, 61)
    planned = PlannedRuns(server, TagsByIds(), InitialLoadTime(server, 0))
    # In one order: which are read again in a look depends on it, and those count as looked at.
    deployments = sorted(server.deployments_made)
    for _ in range(LOOKS_ENOUGH):
        planned.look(deployments, (), True, T0, ())
    planned.look(deployments, (), True, T0 + 2 * MINUTE, ())
    planned_at(server, "early", 121)
    server.requests.clear()
    planned.look(deployments, (), True, T0 + 3 * MINUTE, ())
    # The total, that of the deployment, and its runs.
    assert len(server.requests) == 3
    assert planned.totals()["deployment_id:early",] == 2


def known(server: PlanningServer) -> PlannedRuns:
    """One who knows all that is planned."""
    planned = PlannedRuns(server, TagsByIds(), InitialLoadTime(server, 0))
    for _ in range(LOOKS_ENOUGH):
        planned.look(sorted(server.deployments_made), (), True, T0, ())
    assert planned.unknown == 0
    return planned


def totals_of(planned: PlannedRuns) -> dict[str, int]:
    return {tag.partition(":")[2]: total for (tag,), total in planned.totals().items()}


def test_a_run_that_waits_is_not_planned_although_the_server_counts_it() -> None:
    server = PlanningServer()
    planned_at(server, "d", 60, 120, 180)
    waiting = server.flow_runs["d-120"].model_copy(update={"state_name": "AwaitingRetry"})
    server.flow_runs["d-120"] = waiting
    planned = PlannedRuns(server, TagsByIds(), InitialLoadTime(server, 0))
    planned.look(["d"], (), True, T0, [waiting])
    assert totals_of(planned) == {"d": 2}
    server.requests.clear()
    planned.look(["d"], (), True, T0, [waiting])
    assert (len(server.requests), totals_of(planned)) == (1, {"d": 2})


def test_the_runs_of_a_deployment_that_is_gone_are_gone_in_the_same_look() -> None:
    server = PlanningServer()
    planned_at(server, "stays", 60)
    planned_at(server, "goes", 60, 120)
    planned = known(server)
    server.flow_runs = {name: run for name, run in server.flow_runs.items() if run.deployment_id == "stays"}
    server.requests.clear()
    planned.look(["stays"], ["goes"], True, T0, ())
    assert (len(server.requests), totals_of(planned)) == (1, {"stays": 1})


def test_a_deployment_that_changed_is_read_again_although_it_has_as_many_runs() -> None:
    server = PlanningServer()
    planned_at(server, "d", 60, 120)
    planned = known(server)
    server.flow_runs.clear()
    planned_at(server, "d", 300, 400)
    planned.look(["d"], ["d"], True, T0, ())
    planned.look(["d"], (), True, T0 + 200 * MINUTE, ())
    assert totals_of(planned) == {"d": 2}


@pytest.mark.parametrize("are_all", [True, False], ids=["all", "some are not wanted"])
@pytest.mark.parametrize(("number", "minutes"), [(40, 1), (100, 3)])
def test_what_the_scheduler_adds_is_known_at_once_on_a_busy_server(number: int, minutes: int, are_all: bool) -> None:
    server = PlanningServer()
    for place in range(number):
        first = minutes * (place + 1) / number
        planned_at(server, f"d{place}", *(first + minutes * run for run in range(20)))
    server.flow_runs_in_a_page = 200
    planned = known(server)
    deployments = sorted(server.deployments_made)
    for quarter in range(1, 40):
        now = T0 + quarter * MINUTE / 4
        server.flow_runs = {name: run for name, run in server.flow_runs.items() if start(run) > now}
        if quarter % 4 == 0:
            keep_planned(server, 20, minutes)
        server.requests.clear()
        planned.look(deployments, (), are_all, now, ())
        assert sum(planned.totals().values()) == len(server.flow_runs)
        assert len(server.requests) <= 10


def keep_planned(server: PlanningServer, number: int, minutes: int) -> None:
    """Plan as the scheduler does: so many runs of each deployment, one every so many minutes."""
    last: dict[str, list[datetime]] = {}
    for run in server.flow_runs.values():
        last.setdefault(run.deployment_id or "", []).append(start(run))
    for deployment, starts in last.items():
        missing = range(1, number - len(starts) + 1)
        planned_at(server, deployment, *((max(starts) - T0) / MINUTE + minutes * run for run in missing))


def test_a_deployment_that_goes_while_its_runs_are_read_does_not_come_back() -> None:
    server = PlanningServer()
    planned_at(server, "goes", *range(60, 60 + PAGE * planned_runs.PAGES_AT_ONCE))
    planned_at(server, "stays", 60)
    planned = PlannedRuns(server, TagsByIds(), InitialLoadTime(server, 0))
    planned.look(["goes"], (), False, T0, ())
    assert planned.unknown == 1
    server.flow_runs = {name: run for name, run in server.flow_runs.items() if run.deployment_id == "stays"}
    for _ in range(3):
        planned.look(["stays"], ["goes"], False, T0, ())
    assert totals_of(planned) == {"stays": 1}
    assert not planned.knows("goes")


def test_where_not_all_are_wanted_each_of_many_is_looked_at_in_turn() -> None:
    server = PlanningServer()
    for number in range(8 * paging.MOST_IDS):
        server.make_deployment(f"d{number:05}")
    planned_at(server, "d00000", 60)
    planned = known(server)
    planned_at(server, max(server.deployments_made), 60)
    # Four requests a look, of which each tells of 512 deployments.
    for _ in range(4):
        planned.look(sorted(server.deployments_made), (), False, T0, ())
    assert len(planned.totals()) == 2


def test_what_nobody_can_explain_is_not_looked_for_in_each_look() -> None:
    server = PlanningServer()
    planned_at(server, "d", 60, 120)
    planned_at(server, "of one that is gone", 60)
    planned = PlannedRuns(server, TagsByIds(), InitialLoadTime(server, 0))
    for _ in range(4):
        planned.look(["d"], (), True, T0, ())
    server.requests.clear()
    planned.look(["d"], (), True, T0, ())
    assert (len(server.requests), totals_of(planned)) == (1, {"d": 2})


def test_a_deployment_with_more_runs_than_a_look_reads_is_counted_when_all_are_read() -> None:
    server = PlanningServer()
    planned_at(server, "many", *range(60, 60 + PAGE * planned_runs.PAGES_AT_ONCE))
    planned = PlannedRuns(server, TagsByIds(), InitialLoadTime(server, 0))
    planned.look(["many"], (), True, T0, ())
    assert (planned.unknown, totals_of(planned)) == (1, {})
    planned.look(["many"], (), True, T0, ())
    assert (planned.unknown, totals_of(planned)) == (0, {"many": PAGE * planned_runs.PAGES_AT_ONCE})
