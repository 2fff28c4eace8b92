"""Servers with CSRF protection want a token with each POST, so with each filter too."""

from __future__ import annotations

import uuid

import pytest

from datadog_checks.prefect import PrefectCheck
from lab.agent import Agent
from lab.errors import LabError
from lab.prefect_api import PrefectApi
from lab.proxy import Proxy
from lab.server import PrefectServer
from lab.waiting import wait_until

from ..conftest import AgentFactory
from .conftest import AUTH_STRING, CSRF_LIFETIME_SECONDS


def new_pool(server: PrefectServer) -> str:
    pool = PrefectApi(server.api_url, server.auth, csrf=True).create_work_pool(f"pool-{uuid.uuid4().hex}")
    return str(pool["id"])


def assert_sees(agent: Agent, pool_id: str) -> None:
    result = agent.run()
    assert (result.error, result.warnings) == ("", [])
    assert result.gauge("work_pool.is_not_ready", work_pool_id=pool_id) == 1


def csrf_client_of(agent: Agent) -> str:
    assert isinstance(agent.check, PrefectCheck)
    return agent.check._api._client._csrf._client


def test_csrf_protection_needs_no_option_and_a_token_that_is_refused_is_renewed(
    secured_server: PrefectServer, agent: AgentFactory
) -> None:
    pool_id = new_pool(secured_server)
    watching = agent(prefect_url=secured_server.api_url, auth_string=AUTH_STRING)
    assert_sees(watching, pool_id)
    # A token that another process fetched in this client's name voids the one that the check has.
    api = PrefectApi(secured_server.api_url, secured_server.auth)
    api.get(f"csrf-token?client={csrf_client_of(watching)}")
    assert_sees(watching, pool_id)


def test_a_csrf_token_is_renewed_before_the_server_refuses_it(
    secured_server: PrefectServer, agent: AgentFactory
) -> None:
    pool_id = new_pool(secured_server)
    with Proxy(secured_server.url) as proxy:
        watching = agent(prefect_url=f"{proxy.url}/api", auth_string=AUTH_STRING)
        assert_sees(watching, pool_id)
        sent = next(request for request, _ in proxy.passed if "Prefect-Csrf-Token" in request.headers)
        old = {name: sent.headers[name] for name in ("Prefect-Csrf-Token", "Prefect-Csrf-Client")}
        api = PrefectApi(secured_server.api_url, secured_server.auth)
        api._session.headers.update(old)

        def is_over() -> bool:
            try:
                api.post("flows/filter")
            except LabError as refusal:
                return "Invalid CSRF token" in str(refusal)
            return False

        wait_until(is_over, 10 * CSRF_LIFETIME_SECONDS, "The end of the token")
        known = len(proxy.passed)
        assert_sees(watching, pool_id)
        later = proxy.passed[known:]
        assert [request.path.partition("?")[0] for request, _ in later].count("/api/csrf-token") >= 1
        assert {status for _, status in later} == {200}


@pytest.mark.needs("auth string")
def test_a_wrong_password_is_told_as_such_where_csrf_protection_refuses_first(
    secured_server: PrefectServer, agent: AgentFactory
) -> None:
    result = agent(prefect_url=secured_server.api_url, auth_string="datadog:wrong-horse").run()
    assert (result.gauge("health"), result.gauge("ready")) == (1, 1)
    assert "401" in result.error
    assert "`auth_string`" in result.error
    assert "CSRF" not in result.error


def test_a_proxy_that_takes_the_tokens_away_is_told_by_what_it_has_to_pass_on(
    secured_server: PrefectServer, agent: AgentFactory
) -> None:
    with Proxy(secured_server.url) as proxy:
        proxy.withhold("Prefect-Csrf-Token")
        result = agent(prefect_url=f"{proxy.url}/api", auth_string=AUTH_STRING).run()
    assert "Prefect-Csrf-Token" in result.error
    assert "403" in result.error
