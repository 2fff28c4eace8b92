"""What the check says where nothing in a check run can succeed: health, readiness, one error, and no credential."""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from datadog_checks.prefect.credentials import HEADER_OPTIONS
from lab.agent import NAMESPACE, Agent, CheckRunResult
from lab.ports import HOST, free_port
from lab.proxy import Answer, RespondingServer
from lab.server import FAST_EVENTS, PrefectServer

from ..conftest import AgentFactory

USER, PASSWORD = "datadog", "correct:horse:battery"
WRONG_PASSWORD = "staple-and-a-zebra"
TOKEN = "a-token-that-nobody-may-read"


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[PrefectServer]:
    """A server that wants a password."""
    env = {**FAST_EVENTS, "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{PASSWORD}"}
    with PrefectServer(env=env) as guarded_server:
        yield guarded_server


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that is logged, down to the level below debug at which the Agent traces."""
    caplog.set_level(1)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(1, logger=name)
    return caplog


def unusable(result: CheckRunResult, *, health: float, ready: float) -> str:
    """The error of a check run that found nothing but health and readiness."""
    nothing = frozenset[str]()
    found = {(series.name.removeprefix(NAMESPACE), series.type, series.value, series.tags) for series in result.series}
    assert found == {("health", "gauge", health, nothing), ("ready", "gauge", ready, nothing)}
    assert len(result.series) == 2
    assert result.events == []
    assert result.metadata == {}
    assert result.error
    return result.error


def assert_secret(secrets: list[str], agent: Agent, log: pytest.LogCaptureFixture) -> None:
    """None of these shows in the status, with its traceback, or in what was logged."""
    status = agent.check.run() + " ".join(agent.check.get_warnings())
    assert "Traceback" in status
    for secret in secrets:
        assert secret not in status
        assert secret not in log.text


def test_nothing_listening_is_neither_healthy_nor_ready_and_the_error_says_where(agent: AgentFactory) -> None:
    url = f"http://{HOST}:{free_port()}/api"
    error = unusable(agent(prefect_url=url, collect_events=True).run(), health=0, ready=0)
    assert url in error
    assert "refused" in error
    assert "`prefect_url`" in error


def test_a_server_that_takes_connections_and_never_answers_is_unreachable(agent: AgentFactory) -> None:
    with socket.socket() as mute:
        mute.bind((HOST, 0))
        mute.listen()
        url = f"http://{HOST}:{mute.getsockname()[1]}/api"
        error = unusable(agent(prefect_url=url, timeout=0.5).run(), health=0, ready=0)
    assert url in error
    assert "no answer" in error
    assert "`prefect_url`" in error


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


WRONG: dict[str, dict[str, Any]] = {
    "username": {"username": USER, "password": WRONG_PASSWORD},
    "auth_string": {"auth_string": f"{USER}:{WRONG_PASSWORD}"},
    "api_key": {"api_key": TOKEN},
    "headers": {"headers": {"Authorization": f"Bearer {TOKEN}"}},
    "extra_headers": {"extra_headers": {"Authorization": f"Bearer {TOKEN}"}},
    "custom_headers": {"custom_headers": {"X-Token": TOKEN}},
}
RIGHT: dict[str, dict[str, Any]] = {
    "username": {"username": USER, "password": PASSWORD},
    "auth_string": {"auth_string": f"{USER}:{PASSWORD}"},
    "headers": {"headers": {"Authorization": f"Basic {basic(USER, PASSWORD)}"}},
    "extra_headers": {"extra_headers": {"Authorization": f"Basic {basic(USER, PASSWORD)}"}},
    "custom_headers": {"custom_headers": {"Authorization": f"Basic {basic(USER, PASSWORD)}"}},
}
SECRETS = [PASSWORD, WRONG_PASSWORD, TOKEN, basic(USER, PASSWORD), basic(USER, WRONG_PASSWORD)]


@pytest.mark.needs("auth string")
def test_without_credentials_a_server_that_wants_some_is_healthy_and_the_error_names_all_kinds(
    guarded_server: PrefectServer, agent: AgentFactory
) -> None:
    error = unusable(agent(prefect_url=guarded_server.api_url).run(), health=1, ready=1)
    for part in (guarded_server.api_url, "401", "`username`", "`password`", "`auth_string`", "`api_key`", "`headers`"):
        assert part in error


@pytest.mark.needs("auth string")
@pytest.mark.parametrize("option", WRONG)
def test_wrong_credentials_are_told_by_their_option_and_show_nowhere(
    guarded_server: PrefectServer, agent: AgentFactory, log: pytest.LogCaptureFixture, option: str
) -> None:
    a = agent(prefect_url=guarded_server.api_url, log_requests=True, **WRONG[option])
    error = unusable(a.run(), health=1, ready=1)
    assert guarded_server.api_url in error
    assert "401" in error
    # A header may be a proxy's; then the server's own password is still missing.
    named = {option, "auth_string"} if option in HEADER_OPTIONS else {option}
    assert {other for other in WRONG if f"`{other}`" in error} == named
    assert_secret(SECRETS, a, log)
    assert log.records


@pytest.mark.needs("auth string")
@pytest.mark.parametrize("option", RIGHT)
def test_with_the_right_credentials_of_each_kind_all_is_collected_and_nothing_of_them_is_logged(
    guarded_server: PrefectServer, agent: AgentFactory, log: pytest.LogCaptureFixture, option: str
) -> None:
    result = agent(prefect_url=guarded_server.api_url, log_requests=True, **RIGHT[option]).run()
    assert result.error == ""
    assert result.warnings == []
    assert (result.gauge("health"), result.gauge("ready")) == (1, 1)
    assert result.metadata["version.scheme"] == "semver"
    assert log.records
    for secret in SECRETS:
        assert secret not in log.text
    assert "Authorization" not in log.text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_http_proxy_that_wants_another_password_is_told_by_its_option(
    agent: AgentFactory, log: pytest.LogCaptureFixture, scheme: str
) -> None:
    refusal = Answer(407, b"no", {"Proxy-Authenticate": "Basic"})
    with RespondingServer(lambda _: refusal) as http_proxy:
        address = http_proxy.url.replace("://", f"://{USER}:{WRONG_PASSWORD}@")
        url = f"{scheme}://prefect.example:4200/api"
        a = agent(prefect_url=url, skip_proxy=False, proxy={scheme: address})
        error = unusable(a.run(), health=0, ready=0)
        assert_secret([WRONG_PASSWORD, basic(USER, WRONG_PASSWORD)], a, log)
    for part in (url, "407", "`proxy`"):
        assert part in error


def test_the_password_of_an_http_proxy_shows_nowhere(agent: AgentFactory, log: pytest.LogCaptureFixture) -> None:
    dead_proxy = f"http://{USER}:{PASSWORD}@{HOST}:{free_port()}"
    url = "http://prefect.example:4200/api"
    assert_secret([PASSWORD], agent(prefect_url=url, skip_proxy=False, proxy={"http": dead_proxy}), log)


def test_a_url_without_api_is_told_to_be_wrong_with_the_one_that_is_meant(
    server: PrefectServer, agent: AgentFactory
) -> None:
    # Older servers give their user interface at any path that they do not know.
    with requests.Session() as session:
        session.trust_env = False
        ready = session.get(f"{server.url}/ready", timeout=30).ok
    error = unusable(agent(prefect_url=server.url).run(), health=0, ready=float(ready))
    assert f"{server.url} " in error
    assert "not Prefect's API" in error
    assert "`prefect_url`" in error
    assert f"{server.url}/api" in error


def test_a_url_with_a_path_that_is_not_the_api_s_is_told_to_be_wrong(
    server: PrefectServer, agent: AgentFactory
) -> None:
    url = f"{server.api_url}/v2"
    error = unusable(agent(prefect_url=url).run(), health=0, ready=0)
    assert url in error
    assert "`prefect_url`" in error


def test_a_web_page_is_not_prefect_though_it_answers_with_success(agent: AgentFactory) -> None:
    page = Answer(200, b"<!doctype html><title>It works!</title>", {"Content-Type": "text/html"})
    with RespondingServer(lambda _: page) as web:
        url = f"{web.url}/api"
        error = unusable(agent(prefect_url=url).run(), health=0, ready=1)
    assert url in error
    assert "HTML" in error
    assert "`prefect_url`" in error


def test_another_json_api_is_not_prefect(agent: AgentFactory) -> None:
    other = Answer(200, b'{"status": "UP"}', {"Content-Type": "application/json"})
    with RespondingServer(lambda _: other) as api:
        url = f"{api.url}/api"
        error = unusable(agent(prefect_url=url).run(), health=0, ready=1)
    assert url in error
    assert "`prefect_url`" in error


@pytest.mark.parametrize("status", [401, 403])
def test_a_gate_that_refuses_everything_leaves_neither_health_nor_readiness(agent: AgentFactory, status: int) -> None:
    with RespondingServer(lambda _: Answer(status, b"no")) as gate:
        url = f"{gate.url}/api"
        error = unusable(agent(prefect_url=url).run(), health=0, ready=0)
    assert url in error
    assert str(status) in error
    assert "`username`" in error


def test_a_redirect_is_not_followed_and_the_error_names_the_target_to_configure(
    agent: AgentFactory, log: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def elsewhere(_: object) -> Answer:
        asked.append("elsewhere")
        return Answer(200, b"true", {"Content-Type": "application/json"})

    with (
        RespondingServer(elsewhere) as target,
        RespondingServer(lambda request: Answer(307, headers={"Location": target.url + request.path})) as old,
    ):
        url = f"{old.url}/api"
        a = agent(prefect_url=url, username=USER, password=PASSWORD)
        error = unusable(a.run(), health=0, ready=0)
        assert_secret([PASSWORD, basic(USER, PASSWORD)], a, log)
    assert asked == []
    assert url in error
    assert "`prefect_url`" in error
    # The address of the API, without the path of the request that happened to be redirected.
    assert f"{target.url}/api" in error
    assert "/admin/version" not in error


def test_tls_to_a_port_without_it_is_told_to_need_http(server: PrefectServer, agent: AgentFactory) -> None:
    url = server.api_url.replace("http://", "https://")
    error = unusable(agent(prefect_url=url).run(), health=0, ready=0)
    assert url in error
    assert "TLS" in error
    assert "`prefect_url`" in error
    assert "http://" in error
