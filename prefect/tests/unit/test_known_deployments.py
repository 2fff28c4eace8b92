"""Deployments become known as soon as they are there, if they can be asked for again."""

from __future__ import annotations

import math
import uuid
from datetime import timedelta
from typing import Any

import pytest

from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.api.models import Deployment, FlowRun
from datadog_checks.prefect.mirror.deployments import CHANGES_AT_ONCE, LEARNED_AT_ONCE, KnownDeployments

from .builders import T0
from .fake_server import FakeServer
from .wiring import parts_of, settings_of

MOST_LOOKS = 30
SOUND = Deployment(id=str(uuid.uuid4()), flow_id=str(uuid.uuid4()), name="sound")


class DeploymentsServer(FakeServer):
    """A server with these deployments, the last created last, in a queue that may be renamed; and nothing else."""

    def __init__(self, *deployments: Deployment) -> None:
        super().__init__()
        self.put(*deployments)

    def put(self, *deployments: Deployment) -> None:
        self.deployments_made.update((deployment.id, deployment) for deployment in deployments)

    def change(self, *places: int, **fields: Any) -> None:
        """Give the deployments at these places other fields, now."""
        found = list(self.deployments_made.values())
        for place in places:
            self.clock += timedelta(milliseconds=1)
            self.put(found[place].model_copy(update={"updated": self.clock, **fields}))

    def change_unnoticed(self, **fields: Any) -> None:
        """Give all deployments other fields, without a trace of it."""
        self.put(*(found.model_copy(update=fields) for found in self.deployments_made.values()))

    def delete(self, place: int) -> str:
        """Delete the deployment at this place; returns its id."""
        identity = list(self.deployments_made)[place]
        del self.deployments_made[identity]
        return identity


def many(number: int) -> DeploymentsServer:
    """A server with so many deployments."""
    return DeploymentsServer(
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
    api = DeploymentsServer(SOUND, other.model_copy(update=damage))
    watch = parts_of(api).deployments
    for _ in range(3):
        watch.look()
        assert list(watch.known) == [SOUND.id]
    api.deployments_made.clear()
    api.put(SOUND, other)
    for _ in range(2):
        watch.look()
    assert set(watch.known) == {SOUND.id, other.id}


def test_the_first_deployment_of_a_server_is_known_as_soon_as_it_is_there() -> None:
    api = DeploymentsServer()
    watch = parts_of(api).deployments
    watch.look()
    assert watch.is_complete
    api.put(SOUND)
    watch.look()
    assert list(watch.known) == [SOUND.id]


def test_changes_of_which_a_part_could_be_read_are_all_seen_in_the_next_look() -> None:
    api = many(20)

    def fail_second_page(_: int) -> None:
        if api.asked_for("deployments") > 1:
            raise ApiError("no answer")

    watch = learned(parts_of(api).deployments)
    api.change(3, 5, 7, 11, 13, paused=True)
    api.requests.clear()
    api.before_answer = fail_second_page
    with pytest.raises(ApiError):
        watch.look()
    assert not watch.is_complete
    api.before_answer = lambda number: None
    watch.look()
    assert paused(watch) == 5
    assert watch.is_complete


@pytest.mark.parametrize(("changed", "looks"), [(200, 2), (CHANGES_AT_ONCE + 100, 10)])
def test_however_many_change_at_once_all_are_seen(changed: int, looks: int) -> None:
    api = many(500)
    watch = learned(parts_of(api).deployments)
    api.change(*range(changed), paused=True)
    for _ in range(looks):
        watch.look()
    assert paused(watch) == changed


def test_what_changes_after_the_servers_clock_was_set_back_is_seen() -> None:
    api = many(100)
    watch = learned(parts_of(api).deployments)
    api.clock += timedelta(hours=3)
    api.change(0)
    watch.look()
    watch.look()
    api.clock -= timedelta(hours=2)
    api.change(1, 2, paused=True)
    for _ in range(math.ceil(len(api.deployments_made) / LEARNED_AT_ONCE)):
        watch.look()
    assert paused(watch) == 2


def test_what_happened_while_nobody_looked_for_too_long_is_read_again() -> None:
    api = many(100)
    watch = learned(parts_of(api).deployments)
    # Without an event that could still be read, and without a change of the deployment itself.
    api.change_unnoticed(status="NOT_READY")
    api.clock += timedelta(hours=25)
    for _ in range(math.ceil(len(api.deployments_made) / LEARNED_AT_ONCE)):
        watch.look()
    assert {deployment.status for deployment in watch.known.values()} == {"NOT_READY"}


def test_one_that_goes_before_it_is_read_again_is_gone() -> None:
    api = many(100)
    watch = learned(parts_of(api, settings_of(initial_load_share=0)).deployments)
    api.clock += timedelta(hours=25)
    watch.look()
    # It is the last to be read again.
    gone = {"prefect.resource.id": f"prefect.deployment.{api.delete(0)}"}
    api.show({"id": "gone", "event": "prefect.deployment.deleted", "occurred": api.clock, "resource": gone})
    for _ in range(math.ceil(100 / LEARNED_AT_ONCE)):
        api.next_run()
        watch.look()
    assert len(watch.known) == 99


def test_as_long_as_new_ones_are_not_read_not_all_are_known() -> None:
    api = many(10)
    watch = learned(parts_of(api, settings_of(initial_load_share=0)).deployments)
    api.deployments_made |= many(CHANGES_AT_ONCE + 200).deployments_made
    # Which is looked for in every other look as long as there are no events.
    watch.look()
    told: list[bool] = []
    for _ in range(MOST_LOOKS):
        watch.look()
        told.append(watch.is_complete)
        assert watch.is_complete == (len(watch.known) == len(api.deployments_made))
    assert {True, False} == set(told)


def test_one_that_goes_unnoticed_leaves_no_word_of_some_that_are_not_known() -> None:
    api = many(10)
    watch = learned(parts_of(api).deployments)
    api.delete(4)
    for _ in range(MOST_LOOKS):
        watch.look()
        assert watch.is_complete
    assert len(watch.known) == 9


def test_a_queue_that_gets_another_name_is_known_to_all_who_ask() -> None:
    api = many(2)
    queue_id = str(uuid.uuid4())
    api.queue_names[queue_id] = "dev"
    api.change(0, 1, work_queue_id=queue_id, work_queue_name="dev")
    parts = parts_of(api, settings_of(work_queue_names={"exclude": ["^dev"]}))
    watch, inventory = parts.deployments, parts.inventory
    run = FlowRun(id=str(uuid.uuid4()), deployment_id=next(iter(api.deployments_made)))
    watch.look()
    assert inventory.tags_of_runs([run]) == {run.id: None}
    api.queue_names[queue_id] = "prod"
    api.change_unnoticed(work_queue_name="prod")
    api.next_run()
    watch.look()
    assert inventory.tags_of_runs([run])[run.id] is not None


def test_deployments_of_a_deleted_queue_are_read_again() -> None:
    api = many(3)
    queue_id = str(uuid.uuid4())
    api.queue_names = {queue_id: "dev", str(uuid.uuid4()): "other"}
    api.change(0, 1, 2, work_queue_id=queue_id, work_queue_name="dev")
    watch = learned(parts_of(api).deployments)
    watch.take_changed()
    del api.queue_names[queue_id]
    # The server does not note it as a change of the deployment.
    api.change_unnoticed(work_queue_id=None, work_queue_name=None)
    api.next_run()
    watch.look()
    assert {deployment.work_queue_name for deployment in watch.known.values()} == {None}
    assert watch.take_changed() == watch.known.keys()
