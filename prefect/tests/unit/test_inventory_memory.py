"""What the inventory keeps: within bounds, and read at most once in a check run."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pytest

from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.api.models import Deployment, Flow, FlowRun
from datadog_checks.prefect.mirror import inventory

from .fake_server import FakeServer
from .wiring import parts_of


class BoundlessServer(FakeServer):
    """A server on which every run, flow and deployment exists that is asked for, and flows are called as told."""

    flow_name: str | None = "etl"

    def flow_runs_by_id(self, ids: Collection[str]) -> Iterator[FlowRun]:
        return iter([run(identity) for identity in ids])

    def flows_by_id(self, ids: Collection[str]) -> Iterator[Flow]:
        self.request("flows")
        return iter([Flow(id=identity, name=self.flow_name) for identity in ids])

    def deployments_by_id(self, ids: Collection[str]) -> Iterator[Deployment]:
        return iter([Deployment(id=identity, name=f"deployment {identity}") for identity in ids])


def run(identity: str) -> FlowRun:
    return FlowRun(id=identity, flow_id=f"f-{identity}", deployment_id=f"d-{identity}")


def test_more_runs_at_once_than_are_remembered_have_their_tags_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "REMEMBERED", 10)
    ids = [str(number) for number in range(25)]
    known = parts_of(BoundlessServer()).inventory
    known.tags_of_runs([run(identity) for identity in ids[:5]])
    for tags_by_run in (known.tags_by_run_id(ids), known.tags_of_runs([run(identity) for identity in ids])):
        assert {run_id: run_tags and run_tags.flow_id for run_id, run_tags in tags_by_run.items()} == {
            i: f"f-{i}" for i in ids
        }


def test_runs_flows_and_deployments_that_come_and_go_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "REMEMBERED", 50)
    api = BoundlessServer()
    known = parts_of(api).inventory
    for number in range(2000):
        api.next_run()
        known.tags_of_runs([run(str(number))])
    for memory in (known._run_tags, known._flow_names, known._deployments):
        assert len(memory) == 50


def test_what_is_remembered_is_enough_for_a_large_server_and_no_more_than_some_ten_megabytes() -> None:
    # A name and the tags of a run take some 500 bytes.
    assert 20_000 <= inventory.REMEMBERED <= 100_000


def test_queues_that_are_gone_are_not_asked_for_again() -> None:
    api = BoundlessServer()
    known = parts_of(api).inventory
    for number in range(100):
        api.next_run()
        api.queue_names = {f"q{number}": "default"}
        assert [queue.id for queue in known.queues()] == [f"q{number}"]
        assert known._known_queues == {f"q{number}"}


def test_a_queue_by_a_refused_id_is_asked_for_once() -> None:
    api = BoundlessServer()

    def refuse_queues_by_id(_: int) -> None:
        if api.asked_for("work queues by id"):
            raise ApiError("no such id")

    known = parts_of(api).inventory
    api.queue_names = {"damaged": "default"}
    assert known.queues()
    api.queue_names = {"q1": "default"}
    api.next_run()
    api.before_answer = refuse_queues_by_id
    with pytest.raises(ApiError):
        known.queues()
    api.next_run()
    api.before_answer = refuse_queues_by_id
    assert [queue.id for queue in known.queues()] == ["q1"]


def test_a_flow_whose_name_an_answer_lacked_is_asked_for_again() -> None:
    api = BoundlessServer()
    known = parts_of(api).inventory
    names = []
    for api.flow_name in (None, "etl", "etl"):
        run_tags = known.tags_of_runs([run("a")])["a"]
        names.append(run_tags and run_tags.flow_name)
    assert names == [None, "etl", "etl"]
    assert api.asked_for("flows") == 2
