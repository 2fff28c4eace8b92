"""Concurrency limits: how large they are, and how many of their slots are taken."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from lab.agent import CheckRunResult
from lab.prefect_api import Json, PrefectApi

from ..conftest import AgentFactory


@pytest.fixture
def name(api: PrefectApi) -> str:
    """A name that no other test has."""
    return f"limit-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def many(api: PrefectApi, name: str) -> Iterator[set[str]]:
    """The ids of more limits than fit on a page, which other tests need not read."""
    ids = {api.create_concurrency_limit(f"{name}-{number:03}", number + 1)["id"] for number in range(201)}
    yield ids
    for identity in ids:
        api.delete(f"v2/concurrency_limits/{identity}")


def tags_of(limit: Json, name: str, limit_type: str) -> frozenset[str]:
    return frozenset(
        {
            f"concurrency_limit_id:{limit['id']}",
            f"concurrency_limit_name:{name}",
            f"concurrency_limit_type:{limit_type}",
        }
    )


def values_of(result: CheckRunResult, limit: Json) -> dict[str, float]:
    """The values of the limit's gauges, by their names without the family's."""
    gauges = ("limit", "active_slots", "in_use", "is_active")
    found = {gauge: result.matching(f"concurrency_limit.{gauge}", concurrency_limit_id=limit["id"]) for gauge in gauges}
    assert all(len(series) <= 1 for series in found.values())
    return {gauge: series[0].value for gauge, series in found.items() if series}


def test_a_global_limit_shows_its_slots_and_how_many_are_taken(api: PrefectApi, agent: AgentFactory, name: str) -> None:
    limit = api.create_concurrency_limit(name, 8)
    api.take_slots(name, 2)
    result = agent().run()
    assert values_of(result, limit) == {"limit": 8, "active_slots": 2, "in_use": 25, "is_active": 1}
    assert result.one("concurrency_limit.limit", concurrency_limit_id=limit["id"]).tags == tags_of(
        limit, name, "global"
    )


def test_a_limit_of_nothing_has_no_share_and_one_that_is_switched_off_is_not_active(
    api: PrefectApi, agent: AgentFactory, name: str
) -> None:
    limit = api.create_concurrency_limit(name, 0, active=False)
    assert values_of(agent().run(), limit) == {"limit": 0, "active_slots": 0, "is_active": 0}


def test_a_limit_of_a_tag_shows_once_under_its_tag(api: PrefectApi, agent: AgentFactory, name: str) -> None:
    limit = api.create_tag_concurrency_limit(name, 4)
    result = agent().run()
    assert values_of(result, limit) == {"limit": 4, "active_slots": 0, "in_use": 0}
    [series] = result.matching("concurrency_limit.limit", concurrency_limit_name=name)
    assert series.tags == tags_of(limit, name, "tag")


def test_more_limits_than_fit_on_a_page_are_all_there(many: set[str], agent: AgentFactory) -> None:
    shown = agent().run().matching("concurrency_limit.limit")
    assert many <= {tag.removeprefix("concurrency_limit_id:") for series in shown for tag in series.tags}


def test_the_limit_of_a_deployment_is_not_among_them(api: PrefectApi, agent: AgentFactory, name: str) -> None:
    flow = api.create_flow(name)
    deployment = api.create_deployment(name, flow["id"], concurrency_limit=3)
    api.create_concurrency_limit(name, 1)
    shown = agent().run().matching("concurrency_limit.limit")
    names = {tag for series in shown for tag in series.tags if tag.startswith("concurrency_limit_name:")}
    assert f"concurrency_limit_name:{name}" in names
    assert not any(deployment["id"] in shown_name for shown_name in names)
