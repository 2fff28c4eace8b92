"""Prefect Cloud, as a stand-in in front of a real server shows it: a key, a workspace's path, a limit, no health."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trustme

from lab.agent import Agent
from lab.ports import HOST
from lab.prefect_api import PrefectApi
from lab.proxy import terminating
from lab.server import PrefectServer

from ..conftest import AgentFactory
from .cloud import API_KEY, WINDOW_SECONDS, PrefectCloud
from .stage import Stage


@pytest.fixture
def cloud(server: PrefectServer, authority: trustme.CA) -> Iterator[PrefectCloud]:
    with PrefectCloud(server.url, terminating(authority.issue_cert(HOST))) as cloud:
        yield cloud


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    return Stage(api)


@pytest.fixture
def watching(agent: AgentFactory, cloud: PrefectCloud, stage: Stage, authority_file: str) -> Agent:
    return agent(
        prefect_url=cloud.api_url,
        api_key=API_KEY,
        tls_ca_cert=authority_file,
        collect_events=True,
        event_names={"include": [r"\.Cancelled$"]},
        **stage.only_this,
    )


def test_a_workspace_is_collected_with_a_key_and_healthy_where_it_answers(
    watching: Agent, cloud: PrefectCloud, stage: Stage
) -> None:
    begin = watching.run()
    assert (begin.error, begin.warnings) == ("", [])
    run = stage.run("CANCELLED")
    stage.seen(run)
    result = watching.run()
    assert (result.error, result.warnings) == ("", [])
    assert result.gauge("health") == 1
    assert result.matching("ready") == []
    assert result.metadata == {}
    assert result.count("flow_runs.cancelled.count", deployment_id=stage.deployment["id"]) == 1
    [event] = result.events
    assert f"{cloud.ui_url}/runs/flow-run/{run['id']}" in event["msg_text"]


def test_what_a_workspace_has_not_is_not_asked_for_and_told_in_one_line_of_the_log(
    watching: Agent, cloud: PrefectCloud, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    results = [watching.run() for _ in range(3)]
    assert [(result.error, result.warnings, result.gauge("health")) for result in results] == [("", [], 1)] * 3
    assert 404 not in {status for _, status in cloud.answered}
    told = [record.getMessage() for record in caplog.records if "Prefect Cloud" in record.getMessage()]
    assert len(told) == 1


def test_a_workspace_that_does_not_answer_is_not_healthy(watching: Agent, cloud: PrefectCloud) -> None:
    assert watching.run().gauge("health") == 1
    cloud.spoil("/work_pools/filter", lambda answer: replace(answer, status=500, body=b"{}"))
    down = watching.run()
    assert down.gauge("health") == 0
    assert down.error == ""
    assert any("work pools" in warning for warning in down.warnings)
    cloud.heal()
    assert watching.run().gauge("health") == 1


@pytest.mark.parametrize("options", [{}, {"api_key": "pnu_of_somebody_else"}], ids=["no key", "another key"])
def test_a_key_that_is_missing_or_wrong_is_told_by_its_option(
    agent: AgentFactory, cloud: PrefectCloud, authority_file: str, options: dict[str, str]
) -> None:
    result = agent(prefect_url=cloud.api_url, tls_ca_cert=authority_file, **options).run()
    assert result.gauge("health") == 0
    for part in (cloud.api_url, "401", "`api_key`"):
        assert part in result.error
    assert "pnu_" not in result.error


def test_a_workspace_that_does_not_exist_is_told_as_such(
    agent: AgentFactory, cloud: PrefectCloud, authority_file: str
) -> None:
    url = cloud.api_url[:-1]
    result = agent(prefect_url=url, api_key=API_KEY, tls_ca_cert=authority_file).run()
    assert result.gauge("health") == 0
    assert f"{url} " in result.error
    assert "workspace" in result.error
    assert "`prefect_url`" in result.error


def test_requests_beyond_the_limit_wait_as_long_as_they_are_told_and_nothing_is_missing(
    watching: Agent, cloud: PrefectCloud, stage: Stage
) -> None:
    assert watching.run().error == ""
    run = stage.run("CANCELLED")
    stage.seen(run)
    before = len(cloud.arrivals)
    cloud.limit = 6
    result = watching.run()
    assert (result.error, result.warnings) == ("", [])
    assert result.gauge("health") == 1
    assert result.count("flow_runs.cancelled.count", deployment_id=stage.deployment["id"]) == 1
    assert len(result.events) == 1
    arrivals = cloud.arrivals[before:]
    refused = [number for number, arrival in enumerate(arrivals) if arrival.limited]
    assert refused
    for number in refused:
        assert arrivals[number + 1].at >= arrivals[number].at + WINDOW_SECONDS
