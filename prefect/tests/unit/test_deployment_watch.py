"""Deployments become known as soon as they are there, if they can be asked for again."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datadog_checks.prefect.api.models import Deployment, EventPage, WorkQueue
from datadog_checks.prefect.api.paging import Page
from datadog_checks.prefect.deployment_watch import DeploymentWatch
from datadog_checks.prefect.event_feed import Reach
from datadog_checks.prefect.event_gate import EventGate
from datadog_checks.prefect.filters import Filters, NameFilter
from datadog_checks.prefect.inventory import Inventory

SOUND = Deployment(id=str(uuid.uuid4()), flow_id=str(uuid.uuid4()), name="sound")


class FakeApi:
    """A server with these deployments and nothing else."""

    def __init__(self, *deployments: Deployment) -> None:
        self.found = list(deployments)

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def seconds_left(self) -> float:
        return 15.0

    def events(self, *_: Any) -> EventPage:
        return EventPage(events=[], total=0)

    def count_deployments(self, ids: Collection[str] | None = None) -> int:
        return len(self.found if ids is None else [found for found in self.found if found.id in ids])

    def deployments(self, sort: str, offset: int, at_most: int) -> Page[Deployment]:
        found = self.found[offset : offset + at_most]
        return Page(found, len(found), at_most)

    def work_queues(self) -> list[WorkQueue]:
        return []


def watch_of(api: Any) -> DeploymentWatch:
    everything = NameFilter()
    inventory = Inventory(api, Filters(everything, everything, everything, everything))
    return DeploymentWatch(api, inventory, EventGate(api, Reach()), Reach(), timedelta(seconds=15))


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
