"""The server itself: health, readiness and version, also where there is nothing on it or it is down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.agent import NAMESPACE, CheckRunResult
from lab.prefect_api import PrefectApi
from lab.server import FAST_EVENTS, PrefectServer

from ..conftest import AgentFactory


@pytest.fixture(scope="module")
def own_server() -> Iterator[PrefectServer]:
    """A server that nobody has put anything on."""
    with PrefectServer(env=FAST_EVENTS) as own_server:
        yield own_server


def everything(result: CheckRunResult) -> set[tuple[str, str, float, frozenset[str]]]:
    return {(series.name.removeprefix(NAMESPACE), series.type, series.value, series.tags) for series in result.series}


def test_a_server_with_nothing_on_it_is_healthy_and_ready_and_that_is_all(
    own_server: PrefectServer, agent: AgentFactory
) -> None:
    a = agent(prefect_url=own_server.api_url, collect_events=True)
    nothing = frozenset[str]()
    for result in (a.run(), a.run()):
        assert result.error == ""
        assert result.warnings == []
        assert everything(result) == {("health", "gauge", 1, nothing), ("ready", "gauge", 1, nothing)}
        assert result.events == []
        assert result.logs == []


def test_the_version_of_the_server_is_metadata_of_the_check(server: PrefectServer, agent: AgentFactory) -> None:
    version = PrefectApi(server.api_url).get("admin/version")
    major, minor, patch = version.split(".")
    assert agent().run().metadata == {
        "version.scheme": "semver",
        "version.raw": version,
        "version.major": major,
        "version.minor": minor,
        "version.patch": patch,
    }


def test_health_and_readiness_carry_the_tags_and_the_service_of_the_instance(agent: AgentFactory) -> None:
    result = agent(tags=["team:data"], service="etl").run()
    for name in ("health", "ready"):
        assert result.one(name).value == 1
        assert result.one(name).tags == {"team:data", "service:etl"}


def test_a_slash_at_the_end_of_the_url_changes_nothing(server: PrefectServer, agent: AgentFactory) -> None:
    result = agent(prefect_url=f"{server.api_url}/").run()
    assert result.error == ""
    assert (result.gauge("health"), result.gauge("ready")) == (1, 1)


def test_a_stopped_server_is_neither_healthy_nor_ready_until_it_is_started_again(
    own_server: PrefectServer, agent: AgentFactory
) -> None:
    a = agent(prefect_url=own_server.api_url)
    assert a.run().error == ""
    own_server.stop()
    try:
        down = a.run()
    finally:
        own_server.start()
    nothing = frozenset[str]()
    assert everything(down) == {("health", "gauge", 0, nothing), ("ready", "gauge", 0, nothing)}
    assert own_server.api_url in down.error
    assert "`prefect_url`" in down.error
    assert down.metadata == {}
    up = a.run()
    assert up.error == ""
    assert up.warnings == []
    assert everything(up) == {("health", "gauge", 1, nothing), ("ready", "gauge", 1, nothing)}
