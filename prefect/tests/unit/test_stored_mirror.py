"""What was learned of deployments and planned runs survives a restart, and is right before it is used."""

from __future__ import annotations

import json
import random
import uuid
from array import array
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datadog_checks.prefect.api.models import Deployment, FlowRun
from datadog_checks.prefect.mirror import stored_mirror
from datadog_checks.prefect.state_store import StateStore, compress

from .builders import T0
from .fake_server import FakeServer
from .wiring import parts_of, settings_of

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
PLANNED = 5
LOOKS_ENOUGH = 30


class Plant(FakeServer):
    """A server with deployments and their planned runs, and a check with stored state that watches it."""

    def __init__(self, deployments: int, share: float = 0.2) -> None:
        super().__init__()
        self.stored: dict[str, str] = {}
        self.settings = settings_of(initial_load_share=share)
        for _ in range(deployments):
            self.deploy()
        self.restart()

    def deploy(self, *, planned: int = PLANNED) -> str:
        """Create a deployment with an hourly schedule; returns its id."""
        self.clock += timedelta(milliseconds=1)
        identity, number = str(uuid.uuid4()), len(self.deployments_made)
        self.deployments_made[identity] = Deployment(
            id=identity, name=f"d{number}", updated=self.clock, paused=False, status="READY"
        )
        self._tell(identity, "created")
        for hour in range(planned):
            self.plan(identity, T0 + 48 * HOUR + hour * HOUR)
        return identity

    def plan(self, deployment_id: str, at: datetime) -> str:
        run_id = str(uuid.uuid4())
        self.flow_runs[run_id] = FlowRun(
            id=run_id,
            deployment_id=deployment_id,
            state_type="SCHEDULED",
            state_name="Scheduled",
            next_scheduled_start_time=at,
        )
        return run_id

    def change(self, identity: str, **fields: Any) -> None:
        self.clock += timedelta(milliseconds=1)
        changed = self.deployments_made[identity].model_copy(update={"updated": self.clock, **fields})
        self.deployments_made[identity] = changed
        self._tell(identity, "updated")

    def forget(self, identity: str) -> None:
        """Delete a deployment and its runs, without an event."""
        del self.deployments_made[identity]
        self.flow_runs = {name: run for name, run in self.flow_runs.items() if run.deployment_id != identity}

    def change_readiness(self, identity: str, status: str) -> None:
        """Which does not count as a change of the deployment."""
        found = self.deployments_made[identity]
        self.deployments_made[identity] = found.model_copy(update={"status": status})
        self._tell(identity, {"READY": "ready", "NOT_READY": "not-ready"}[status])

    def _tell(self, identity: str, what: str) -> None:
        resource = {"prefect.resource.id": f"prefect.deployment.{identity}"}
        event = f"prefect.deployment.{what}"
        self.show({"id": str(uuid.uuid4()), "event": event, "occurred": self.clock, "resource": resource})

    # The check

    def restart(self) -> None:
        self.parts = parts_of(self, self.settings, stored=self.stored)
        self.parts.stored_mirror.restore(with_planned_runs=True)

    def look(self, later: timedelta = timedelta(seconds=15)) -> None:
        """One check run. What it shows is right, if it shows anything."""
        self.clock += later
        self.next_run()
        mirrored, planned = self.parts.deployments, self.parts.planned_runs
        mirrored.look()
        planned.look(mirrored.known, mirrored.take_changed(), mirrored.is_complete, self.clock, ())
        self.parts.stored_mirror.save_if_due(self.clock)

    def learn(self) -> None:
        for _ in range(LOOKS_ENOUGH):
            self.look()
            if self.is_known:
                return
        raise AssertionError("not all is known")

    def look_until_right(self) -> None:
        """Six check runs, after which all is right; until then, what is not right is absent."""
        for _ in range(6):
            self.look()
            truth, shown = self.truth(), self.shown()
            assert {identity: truth.get(identity) for identity in shown} == shown
        assert self.shown() == self.truth()
        assert self.is_known

    @property
    def is_known(self) -> bool:
        return self.parts.deployments.is_complete and not self.parts.planned_runs.unknown

    def shown(self) -> dict[str, tuple[str | None, bool | None, int]]:
        """Status, whether it is paused, and the number of planned runs, of each deployment that is known."""
        totals: dict[str, int] = {}
        for tags, total in self.parts.planned_runs.totals().items():
            identity = next(tag.partition(":")[2] for tag in tags if tag.startswith("deployment_id:"))
            totals[identity] = totals.get(identity, 0) + total
        return {
            identity: (known.status, known.paused, totals.get(identity, 0))
            for identity, known in self.parts.deployments.known.items()
            if self.parts.planned_runs.knows(identity)
        }

    def truth(self) -> dict[str, tuple[str | None, bool | None, int]]:
        totals: dict[str, int] = {}
        for run in self.flow_runs.values():
            if run.next_scheduled_start_time and run.next_scheduled_start_time > self.clock:
                totals[run.deployment_id or ""] = totals.get(run.deployment_id or "", 0) + 1
        return {
            identity: (made.status, made.paused, totals.get(identity, 0))
            for identity, made in self.deployments_made.items()
        }


@pytest.fixture
def plant() -> Plant:
    """A server of which all is known, before a restart."""
    plant = Plant(300)
    plant.learn()
    assert plant.shown() == plant.truth()
    return plant


def test_after_a_restart_all_is_known_at_once_and_hardly_anything_is_read(plant: Plant) -> None:
    plant.restart()
    plant.look()
    assert plant.shown() == plant.truth()
    assert plant.is_known
    # The events, the newest deployment, both totals, the planned runs of no deployment.
    assert [kind for kind, _ in plant.requests].count("deployments") == 1
    assert len(plant.requests) <= 7


def test_nothing_is_shown_before_the_server_has_confirmed_it(plant: Plant) -> None:
    plant.restart()
    assert plant.shown() == {}
    assert not plant.is_known


@pytest.mark.parametrize("deployments", [300, 3_000])
def test_what_changed_meanwhile_is_right_after_six_check_runs_and_until_then_absent(deployments: int) -> None:
    plant = Plant(deployments)
    plant.learn()
    plant.restart()
    chosen = random.Random(1).sample(sorted(plant.deployments_made), deployments // 100)
    for number, identity in enumerate(chosen):
        if number % 5 == 0:
            plant.forget(identity)
        elif number % 5 == 1:
            plant.change(identity, paused=True)
            plant.flow_runs = {name: run for name, run in plant.flow_runs.items() if run.deployment_id != identity}
        elif number % 5 == 2:
            plant.change_readiness(identity, "NOT_READY")
        elif number % 5 == 3:
            plant.plan(identity, T0 + 100 * HOUR)
        else:
            plant.deploy()
    plant.look_until_right()


def test_runs_that_came_due_during_the_downtime_are_not_counted(plant: Plant) -> None:
    plant.restart()
    plant.flow_runs = {
        name: run
        for name, run in plant.flow_runs.items()
        if run.next_scheduled_start_time and run.next_scheduled_start_time > T0 + 50 * HOUR
    }
    # Longer than events are followed; the server planned nothing new.
    plant.look(50 * HOUR)
    for _ in range(3):
        plant.look()
    assert plant.shown() == plant.truth()


def test_after_a_downtime_of_more_than_a_day_all_is_read_again(plant: Plant) -> None:
    plant.restart()
    for identity in list(plant.deployments_made)[:50]:
        found = plant.deployments_made[identity]
        plant.deployments_made[identity] = found.model_copy(update={"status": "NOT_READY"})
    plant.look(25 * HOUR)
    assert plant.parts.deployments.take_discarded() == "it is older than a day"
    assert plant.parts.deployments.take_discarded() == ""
    plant.learn()
    assert plant.shown() == plant.truth()


@pytest.mark.parametrize("number", [3, 300, 600])
def test_nothing_of_another_server_under_the_same_address_is_shown(plant: Plant, number: int) -> None:
    plant.restart()
    plant.deployments_made.clear()
    plant.flow_runs.clear()
    for _ in range(number):
        plant.deploy(planned=2)
    for _ in range(LOOKS_ENOUGH):
        plant.look()
        assert plant.shown().keys() <= plant.deployments_made.keys()
        if plant.is_known:
            break
    assert plant.shown() == plant.truth()


def test_a_server_with_yesterdays_backup_is_shown_as_it_was_yesterday() -> None:
    plant = Plant(300)
    plant.learn()
    deployments, runs = dict(plant.deployments_made), dict(plant.flow_runs)
    plant.look(24 * HOUR)
    new = [plant.deploy() for _ in range(10)]
    changed = list(deployments)[:20]
    for identity in changed:
        plant.change(identity, paused=True)
    plant.look()
    plant.look(2 * MINUTE)
    assert all(plant.shown()[identity][1] for identity in changed)
    plant.restart()
    plant.deployments_made, plant.flow_runs = deployments, runs
    plant.look_until_right()
    assert not plant.shown().keys() & set(new)


def test_an_initial_load_that_a_restart_interrupts_goes_on_where_it_was() -> None:
    plant = Plant(300, share=0)
    for _ in range(3):
        plant.look(MINUTE)
    known = len(plant.parts.deployments.known)
    assert 0 < known < 300
    plant.restart()
    plant.look()
    assert len(plant.parts.deployments.known) > known
    plant.learn()
    assert plant.shown() == plant.truth()


def saves(plant: Plant, looks: int) -> Iterator[bool]:
    """Whether each of the next check runs saves."""
    for _ in range(looks):
        before = {name: text for name, text in plant.stored.items() if name.startswith(stored_mirror.DOCUMENT)}
        plant.look()
        yield before != {name: text for name, text in plant.stored.items() if name.startswith(stored_mirror.DOCUMENT)}


def test_it_is_saved_when_all_is_known_and_then_only_after_changes_at_most_once_a_minute(plant: Plant) -> None:
    assert not any(saves(plant, 40))
    plant.restart()
    assert not any(saves(plant, 40))
    plant.change(next(iter(plant.deployments_made)), paused=True)
    assert sum(saves(plant, 8)) == 1
    for _ in range(3):
        plant.change(next(iter(plant.deployments_made)), paused=False)
        plant.change(next(iter(plant.deployments_made)), paused=True)
        assert sum(saves(plant, 4)) == 1


def test_it_is_saved_before_its_events_are_too_old(plant: Plant) -> None:
    for _ in range(30):
        plant.look(HOUR)
    plant.restart()
    plant.look()
    assert plant.parts.deployments.take_discarded() == ""


@pytest.mark.parametrize(
    "damage",
    [
        {"deployments": "!"},
        {"deployments": compress([["one"]], stored_mirror.COMPRESSION)},
        {"deployments": compress([[1, *[None] * 11]], stored_mirror.COMPRESSION)},
        {"feed": {}},
        {"feed": None},
        {"offset": "x"},
        {"changed_until": "yesterday"},
        {"saved_at": None},
        {"is_complete": ...},
    ],
)
def test_what_is_damaged_is_refused_and_all_is_read_anew(plant: Plant, damage: dict[str, Any]) -> None:
    store = StateStore(lambda name: plant.stored.get(name, ""), plant.stored.__setitem__, lambda _: None)
    document = store.load(stored_mirror.DOCUMENT)
    assert document is not None
    for key, value in damage.items():
        if value is ...:
            del document[key]
        else:
            document[key] = value
    store.save(stored_mirror.DOCUMENT, document)
    with pytest.raises(ValueError):  # noqa: PT011 - of many kinds
        plant.restart()
    plant.learn()
    assert plant.shown() == plant.truth()


def test_beyond_its_bound_the_deployments_read_the_longest_ago_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_mirror, "MOST_BYTES", 6_000)
    plant = Plant(300)
    plant.learn()
    (text,) = (text for name, text in plant.stored.items() if name.startswith(stored_mirror.DOCUMENT) and text)
    assert len(json.loads(text.split(" ", 3)[3])["deployments"]) <= 6_000
    last_read = list(plant.parts.deployments.known)[-1]
    plant.restart()
    assert 0 < len(plant.parts.deployments._known) < 300
    assert last_read in plant.parts.deployments._known
    plant.learn()
    assert plant.shown() == plant.truth()


def test_ten_thousand_deployments_with_two_hundred_thousand_runs_take_less_than_a_megabyte() -> None:
    chance = random.Random(1)
    rows = []
    for number in range(10_000):
        # As irregular as schedules get: each with its own time of day, in microseconds.
        first = T0.timestamp() + round(chance.random() * 86_400, 6)
        times = array("d", (first + 3_600 * hour for hour in range(20)))
        ids = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(2)]
        updated = 1_790_000_000_000_000 + chance.randrange(10**13)
        rows.append(
            [
                *(ids[0], f"deployment-{number}", ids[1], f"flow-{number}", False, "READY", "pool", "", "default"),
                *(["team:data"], updated, stored_mirror._row_of(times)),
            ]
        )
    assert len(compress(rows, stored_mirror.COMPRESSION)) < stored_mirror.MOST_BYTES


@given(st.lists(st.integers(0, 4 * 10**15)))
def test_times_are_stored_exactly(moments: list[int]) -> None:
    times = array("d", (moment / 10**6 for moment in sorted(moments)))
    assert stored_mirror._times_of(json.loads(json.dumps(stored_mirror._row_of(times)))) == times
