"""Fixtures of all tests: a real Prefect server, its API, and the Agent that checks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.agent import Agent, CheckedAgent, forget_everything
from lab.prefect_api import PrefectApi
from lab.server import FAST_EVENTS, PrefectServer

AgentFactory = Callable[..., Agent]

# Files of tests that take long, which come first. Each test of the first of them may run in another process.
APART = ("test_faults",)
LONG = (*APART, "test_poison", "test_hostile_server")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, which share a server, and let none be left alone with a long one."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.path.stem not in APART:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def server() -> Iterator[PrefectServer]:
    """One server for all tests of the session; tests use names of their own and filters, to leave each other alone."""
    with PrefectServer(env=FAST_EVENTS) as server:
        yield server


@pytest.fixture
def api(server: PrefectServer) -> Iterator[PrefectApi]:
    """What a test deploys with it is gone after it: a first check run tells where there are more than it reads."""
    api = PrefectApi(server.api_url)
    yield api
    api.delete_own_deployments()


@pytest.fixture
def clean_agent() -> Iterator[None]:
    """Empty stubs and an empty persistent cache, before and after the test."""
    forget_everything()
    yield
    forget_everything()


@pytest.fixture
def agent(clean_agent: None, request: pytest.FixtureRequest) -> AgentFactory:
    """Makes Agents: `agent(collect_events=True)` is one for the shared server with that option in its instance.

    With a `prefect_url` of one's own, no server is started.
    """
    return _factory(CheckedAgent, request)


@pytest.fixture
def agent_with_server_tag(clean_agent: None, request: pytest.FixtureRequest) -> AgentFactory:
    """The same, for those who look at the tag `prefect_server`."""
    return _factory(Agent, request)


def _factory(agent_class: type[Agent], request: pytest.FixtureRequest) -> AgentFactory:
    def make(init_config: dict[str, Any] | None = None, **instance: Any) -> Agent:
        if "prefect_url" not in instance:
            instance["prefect_url"] = request.getfixturevalue("server").api_url
        # the loopback interface is not behind a proxy, whatever the environment says
        return agent_class({"skip_proxy": True, **instance}, init_config)

    return make
