"""The tag `prefect_server`: it is on everything that is submitted, and `server_name` says what it holds."""

from __future__ import annotations

import pytest

from lab.agent import CheckRunResult
from lab.prefect_api import PrefectApi
from lab.proxy import Answer, Proxy, RespondingServer, fails_with
from lab.server import PrefectServer

from ..conftest import AgentFactory
from .stage import Stage
from .test_stored_state import complete_a_run

KEY = "prefect_server:"


def servers_in(*results: CheckRunResult) -> set[tuple[str, ...]]:
    """The values of the tag on each metric, event and log, which has it once."""
    tagged = [series.tags for result in results for series in result.series]
    tagged += [frozenset(event["tags"]) for result in results for event in result.events]
    # What is submitted twice under one key would be lost in a set.
    for result in results:
        for event in result.events:
            assert len([tag for tag in event["tags"] if tag.startswith(KEY)]) == 1
        tagged += [frozenset(str(log["ddtags"]).split(",")) for log in result.logs]
    return {tuple(sorted(tag.removeprefix(KEY) for tag in tags if tag.startswith(KEY))) for tags in tagged}


@pytest.fixture
def agent(agent_with_server_tag: AgentFactory) -> AgentFactory:
    return agent_with_server_tag


@pytest.mark.parametrize("server_name", [None, "prod", "Prefect of team data"])
def test_everything_that_is_submitted_tells_its_server(
    server: PrefectServer, api: PrefectApi, agent: AgentFactory, server_name: str | None
) -> None:
    stage = Stage(api)
    options = {"server_name": server_name} if server_name else {}
    a = agent(collect_events=True, tags=["team:data"], service="etl", **options, **stage.only_this)
    results = [a.run()]
    complete_a_run(stage)
    results.append(a.run())
    # What is gone is told by zeros.
    stage.api.delete_own_deployments()
    stage.api.delete_work_pool(stage.pool["name"])
    results.append(a.run())
    families = {name.removeprefix("prefect.server.").partition(".")[0] for result in results for name in result.names()}
    assert {"health", "ready", "work_pool", "work_queue", "deployment", "flow_runs", "task_runs"} <= families
    assert [event for result in results for event in result.events]
    assert servers_in(*results) == {(server_name or server.url.removeprefix("http://"),)}


def test_what_is_submitted_of_a_run_that_fails_tells_its_server_too(server: PrefectServer, agent: AgentFactory) -> None:
    with Proxy(server.url) as proxy:
        proxy.spoil("", fails_with(500))
        results = [agent(prefect_url=f"{proxy.url}/api").run(), agent(prefect_url=f"{proxy.url}/api").run()]
        assert results[0].error
        assert results[0].series
        assert servers_in(*results) == {(proxy.url.removeprefix("http://"),)}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://prefect.example.com/api", "prefect.example.com:443"),
        ("http://prefect.example.com/api/", "prefect.example.com:80"),
        ("https://prefect.example.com:443/api", "prefect.example.com:443"),
        ("http://prefect.example.com:4200/team/api", "prefect.example.com:4200"),
        ("https://api.prefect.cloud/api/accounts/a/workspaces/w", "api.prefect.cloud:443"),
    ],
)
def test_without_a_name_it_is_host_and_port_of_the_url(agent: AgentFactory, url: str, expected: str) -> None:
    with RespondingServer(lambda _: Answer(407, b"no", {"Proxy-Authenticate": "Basic"})) as http_proxy:
        proxies = dict.fromkeys(("http", "https"), http_proxy.url)
        instance = {"prefect_url": url, "skip_proxy": False, "proxy": proxies}
        assert servers_in(agent(**instance).run()) == {(expected,)}
        assert servers_in(agent(**instance, server_name="prod").run()) == {("prod",)}


@pytest.mark.parametrize("server_name", ["", 5, ["prod"], {"name": "prod"}, True], ids=repr)
def test_a_name_that_is_no_text_is_refused(agent: AgentFactory, server_name: object) -> None:
    result = agent(prefect_url="http://prefect.test:4200/api", server_name=server_name).run()
    assert result.error_type.endswith("ConfigurationError")
    assert "server_name" in result.error
    assert result.series == []
