"""Deployments become known as soon as they are there, if they can be asked for again."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.api.models import Deployment, Event, EventPage, Flow, FlowRun, WorkPool, WorkQueue
from datadog_checks.prefect.api.paging import Page
from datadog_checks.prefect.config.filters import Filters, NameFilter
from datadog_checks.prefect.counting.event_activity import EventActivity, Reach
from datadog_checks.prefect.mirror.deployments import CHANGES_AT_ONCE, LEARNED_AT_ONCE, KnownDeployments
from datadog_checks.prefect.mirror.inventory import Inventory

from .builders import InCheckRuns

MOST_LOOKS = 30
SOUND = Deployment(id=str(uuid.uuid4()), flow_id=str(uuid.uuid4()), name="sound")


T0 = datetime(2026, 1, 1, tzinfo=UTC)


class FakeApi(InCheckRuns):
    """A server with these deployments, the last created last, in a queue that may be renamed; and nothing else."""

    def __init__(self, *deployments: Deployment) -> None:
        self.found = list(deployments)
        self.clock = T0
        self.queues: dict[str, str] = {}
        self.answers_left: float = math.inf
        self.told: list[Event] = []

    def now(self) -> datetime:
        return self.clock

    def seconds_left(self) -> float:
        return 15.0

    def events(self, *_: Any) -> EventPage:
        return EventPage(events=self.told, total=len(self.told))

    def count_deployments(self, ids: Collection[str] | None = None) -> int:
        return len(self.found if ids is None else [found for found in self.found if found.id in ids])

    def deployments(self, sort: str, offset: int, at_most: int) -> Page[Deployment]:
        if self.answers_left <= 0:
            raise ApiError("no answer")
        self.answers_left -= 1
        found = self.found[::-1]
        if sort == "UPDATED_DESC":
            found.sort(key=lambda deployment: deployment.updated or T0, reverse=True)
        page = found[offset : offset + at_most]
        return Page(page, len(page), at_most)

    def deployments_by_id(self, ids: Collection[str]) -> list[Deployment]:
        return [deployment for deployment in self.found if deployment.id in ids]

    def flows_by_id(self, ids: Collection[str]) -> list[Flow]:
        return []

    def work_pools(self) -> list[WorkPool]:
        return []

    def work_queues(self) -> list[WorkQueue]:
        return [WorkQueue(id=identity, name=name) for identity, name in self.queues.items()]

    def work_queues_by_id(self, ids: Collection[str]) -> list[WorkQueue]:
        return []

    def change(self, *places: int, **fields: Any) -> None:
        """Give the deployments at these places other fields, now."""
        for place in places:
            self.clock += timedelta(milliseconds=1)
            self.found[place] = self.found[place].model_copy(update={"updated": self.clock, **fields})


def watch_of(api: Any, inventory: Inventory | None = None) -> KnownDeployments:
    event_activity = EventActivity(api, Reach())
    return KnownDeployments(api, inventory or inventory_of(api), event_activity, Reach(), timedelta(seconds=15))


def inventory_of(api: Any, work_queues: NameFilter | None = None) -> Inventory:
    everything = NameFilter()
    return Inventory(api, Filters(everything, work_queues or everything, everything, everything))


def many(number: int) -> FakeApi:
    """A server with so many deployments."""
    return FakeApi(
        *(
            Deployment(id=str(uuid.uuid4()), name=f"d{place}", updated=T0, paused=False, status="READY")
            for place in range(number)
        )
    )


def learned(watch: KnownDeployments) -> KnownDeployments:
    """One that knows all there is."""
    for _ in range(MOST_LOOKS):
        watch.look()
        if watch.is_complete:
            return watch
    raise AssertionError(f"{len(watch.known)} of {watch.total} are known")


def paused(watch: KnownDeployments) -> int:
    return sum(bool(deployment.paused) for deployment in watch.known.values())


@pytest.mark.parametrize("damage", [{"id": "damaged"}, {"flow_id": "damaged"}], ids=["id", "flow"])
def test_one_whose_ids_the_server_would_refuse_is_read_again_until_they_are_sound(damage: dict[str, str]) -> None:
    other = SOUND.model_copy(update={"id": str(uuid.uuid4())})
    api = FakeApi(SOUND, other.model_copy(update=damage))
    watch = watch_of(api)
    for _ in range(3):
        watch.look()
        assert list(watch.known) == [SOUND.id]
    api.found[1] = other
    for _ in range(2):
        watch.look()
    assert set(watch.known) == {SOUND.id, other.id}


def test_the_first_deployment_of_a_server_is_known_as_soon_as_it_is_there() -> None:
    api = FakeApi()
    watch = watch_of(api)
    watch.look()
    assert watch.is_complete
    api.found = [SOUND]
    watch.look()
    assert list(watch.known) == [SOUND.id]


def test_changes_of_which_a_part_could_be_read_are_all_seen_in_the_next_look() -> None:
    api = many(20)
    watch = learned(watch_of(api))
    api.change(3, 5, 7, 11, 13, paused=True)
    api.answers_left = 1
    with pytest.raises(ApiError):
        watch.look()
    assert not watch.is_complete
    api.answers_left = math.inf
    watch.look()
    assert paused(watch) == 5
    assert watch.is_complete


@pytest.mark.parametrize(("changed", "looks"), [(200, 2), (CHANGES_AT_ONCE + 100, 10)])
def test_however_many_change_at_once_all_are_seen(changed: int, looks: int) -> None:
    api = many(500)
    watch = learned(watch_of(api))
    api.change(*range(changed), paused=True)
    for _ in range(looks):
        watch.look()
    assert paused(watch) == changed


def test_what_changes_after_the_servers_clock_was_set_back_is_seen() -> None:
    api = many(100)
    watch = learned(watch_of(api))
    api.clock += timedelta(hours=3)
    api.change(0)
    watch.look()
    watch.look()
    api.clock -= timedelta(hours=2)
    api.change(1, 2, paused=True)
    for _ in range(math.ceil(len(api.found) / LEARNED_AT_ONCE)):
        watch.look()
    assert paused(watch) == 2


def test_what_happened_while_nobody_looked_for_too_long_is_read_again() -> None:
    api = many(100)
    watch = learned(watch_of(api))
    # Without an event that could still be read, and without a change of the deployment itself.
    api.found = [deployment.model_copy(update={"status": "NOT_READY"}) for deployment in api.found]
    api.clock += timedelta(hours=3)
    for _ in range(math.ceil(len(api.found) / LEARNED_AT_ONCE)):
        watch.look()
    assert {deployment.status for deployment in watch.known.values()} == {"NOT_READY"}


def test_one_that_goes_before_it_is_read_again_is_gone() -> None:
    api = many(100)
    watch = learned(watch_of(api))
    api.clock += timedelta(hours=3)
    watch.look()
    # It is the last to be read again.
    gone = {"prefect.resource.id": f"prefect.deployment.{api.found.pop(0).id}"}
    api.told.append(Event(id="gone", event="prefect.deployment.deleted", occurred=api.clock, resource=gone))
    for _ in range(math.ceil(100 / LEARNED_AT_ONCE)):
        api.next_run()
        watch.look()
    assert len(watch.known) == 99


def test_as_long_as_new_ones_are_not_read_not_all_are_known() -> None:
    api = many(10)
    watch = learned(watch_of(api))
    api.found += many(CHANGES_AT_ONCE + 200).found
    # Which is looked for in every other look as long as there are no events.
    watch.look()
    told: list[bool] = []
    for _ in range(MOST_LOOKS):
        watch.look()
        told.append(watch.is_complete)
        assert watch.is_complete == (len(watch.known) == len(api.found))
    assert {True, False} == set(told)


def test_one_that_goes_unnoticed_leaves_no_word_of_some_that_are_not_known() -> None:
    api = many(10)
    watch = learned(watch_of(api))
    del api.found[4]
    for _ in range(MOST_LOOKS):
        watch.look()
        assert watch.is_complete
    assert len(watch.known) == 9


def test_a_queue_that_gets_another_name_is_known_to_all_who_ask() -> None:
    api = many(2)
    queue_id = str(uuid.uuid4())
    api.queues[queue_id] = "dev"
    api.change(0, 1, work_queue_id=queue_id, work_queue_name="dev")
    inventory = inventory_of(api, NameFilter(exclude=(re.compile("^dev"),)))
    watch = watch_of(api, inventory)
    run = FlowRun(id=str(uuid.uuid4()), deployment_id=api.found[0].id)
    watch.look()
    assert inventory.tags_of_runs([run]) == {run.id: None}
    api.queues[queue_id] = "prod"
    for deployment in api.found:
        api.found[api.found.index(deployment)] = deployment.model_copy(update={"work_queue_name": "prod"})
    api.next_run()
    watch.look()
    assert inventory.tags_of_runs([run])[run.id] is not None


def test_deployments_of_a_deleted_queue_are_read_again() -> None:
    api = many(3)
    queue_id = str(uuid.uuid4())
    api.queues = {queue_id: "dev", str(uuid.uuid4()): "other"}
    api.change(0, 1, 2, work_queue_id=queue_id, work_queue_name="dev")
    inventory = inventory_of(api)
    watch = learned(watch_of(api, inventory))
    watch.take_changed()
    del api.queues[queue_id]
    # The server does not note it as a change of the deployment.
    api.found = [found.model_copy(update={"work_queue_id": None, "work_queue_name": None}) for found in api.found]
    api.next_run()
    watch.look()
    assert {deployment.work_queue_name for deployment in watch.known.values()} == {None}
    assert watch.take_changed() == watch.known.keys()
