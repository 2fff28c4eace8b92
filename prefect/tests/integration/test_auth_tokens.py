"""`auth_token` in all its forms: each request carries the token, and one that is refused is renewed at once, once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from lab.agent import CheckRunResult
from lab.ports import HOST
from lab.prefect_api import PrefectApi
from lab.proxy import Request, fails_with, is_dropped, terminating
from lab.server import PrefectServer
from lab.waiting import wait_until

from ..conftest import AgentFactory
from .conftest import AUTH_STRING
from .stage import Stage
from .tokens import (
    DcosServer,
    Guard,
    OAuthServer,
    Source,
    basic_credentials,
    dcos_source,
    file_source,
    form_of,
    new_key,
    oauth_source,
)

# Of the Agent, below debug: what the libraries log would be in its log, too.
TRACE_LEVEL = 7
# Enough that requests for their workers run side by side.
POOLS = 12


@pytest.fixture(autouse=True)
def loopback_is_behind_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fetches tokens does not know the option `skip_proxy`."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    stage = Stage(api)
    _ = stage.deployment
    return stage


@pytest.fixture
def oauth(authority: trustme.CA) -> Iterator[OAuthServer]:
    with OAuthServer(terminating(authority.issue_cert(HOST))) as oauth:
        yield oauth


@pytest.fixture
def dcos(tmp_path: Path) -> Iterator[DcosServer]:
    with DcosServer(new_key(tmp_path / "dcos.key")) as dcos:
        yield dcos


Build = Callable[[Path, OAuthServer, DcosServer, str], Source]
SOURCES: dict[str, Build] = {
    "file": lambda folder, oauth, dcos, ca: file_source(folder / "token"),
    "pattern": lambda folder, oauth, dcos, ca: file_source(
        folder / "token.json", r'"secret": "([^"]+)"', '{{"id": 5, "secret": "{}"}}'
    ),
    "oauth": lambda folder, oauth, dcos, ca: oauth_source(oauth, ca),
    "oauth, basic": lambda folder, oauth, dcos, ca: oauth_source(oauth, ca, basic_auth=True),
    "oauth, body": lambda folder, oauth, dcos, ca: oauth_source(oauth, ca, options={"include_client_id": True}),
    "dcos": lambda folder, oauth, dcos, ca: dcos_source(dcos, folder / "dcos.key"),
}


@pytest.fixture(params=SOURCES)
def source(
    request: pytest.FixtureRequest, tmp_path: Path, oauth: OAuthServer, dcos: DcosServer, authority_file: str
) -> Source:
    return SOURCES[request.param](tmp_path, oauth, dcos, authority_file)


@pytest.fixture
def oauth_token(oauth: OAuthServer, authority_file: str) -> Source:
    return oauth_source(oauth, authority_file)


@pytest.fixture
def guard(server: PrefectServer, request: pytest.FixtureRequest) -> Iterator[Guard]:
    """A guard in front of the server that takes the tokens of the test's source."""
    name = "source" if "source" in request.fixturenames else "oauth_token"
    source: Source = request.getfixturevalue(name)
    with Guard(server.url, source.accepts) as guard:
        yield guard


def options_for(guard: Guard, source: Source, stage: Stage) -> dict[str, Any]:
    return {"prefect_url": f"{guard.url}/api", "auth_token": source.option, **stage.only_this}


def assert_whole(result: CheckRunResult, stage: Stage) -> None:
    """Nothing is missing of what the check run should have."""
    assert (result.error, result.warnings) == ("", [])
    assert (result.gauge("health"), result.gauge("ready")) == (1, 1)
    assert result.gauge("work_pool.is_not_ready", work_pool_id=stage.pool["id"]) == 1
    assert len(result.matching("work_queue.backlog.size", work_queue_id=stage.queue["id"])) == 1
    assert len(result.matching("deployment.is_ready", deployment_id=stage.deployment["id"])) == 1


def methods(requests: list[tuple[Request, int]]) -> set[str]:
    return {request.method for request, _ in requests}


def test_the_first_check_run_has_everything_and_each_of_its_requests_the_token(
    guard: Guard, source: Source, stage: Stage, agent: AgentFactory
) -> None:
    a = agent(**options_for(guard, source, stage))
    for _ in range(3):
        assert_whole(a.run(), stage)
    assert guard.refused == []
    assert methods(guard.passed) == {"GET", "POST"}
    assert source.asked() <= 1


def test_no_token_and_nothing_that_it_is_had_for_is_in_the_log(
    guard: Guard, source: Source, stage: Stage, agent: AgentFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(TRACE_LEVEL)
    a = agent(**options_for(guard, source, stage), log_requests=True)
    for _ in range(2):
        assert_whole(a.run(), stage)
        source.replace()
    tokens = {request.headers["Authorization"].removeprefix("Bearer ") for request, _ in guard.passed}
    assert len(tokens) == 2
    assert "Sending POST request" in caplog.text
    assert [secret for secret in (*source.secrets, *tokens) if secret in caplog.text] == []


def test_a_client_identifies_itself_to_the_token_server_as_it_is_told_to(
    oauth: OAuthServer, authority_file: str, server: PrefectServer, stage: Stage, agent: AgentFactory
) -> None:
    wanted = {"audience": "https://prefect.example", "scope": "read:runs"}
    for settings in ({"basic_auth": True, "options": wanted}, {"options": {**wanted, "include_client_id": True}}):
        source = oauth_source(oauth, authority_file, **settings)
        with Guard(server.url, source.accepts) as guard:
            assert_whole(agent(**options_for(guard, source, stage)).run(), stage)
    by_header, by_body = oauth.requests
    assert by_header.headers["Authorization"] == basic_credentials()
    assert "client_secret" not in form_of(by_header)
    assert "client_secret" in form_of(by_body)
    for request in oauth.requests:
        assert {name: form_of(request).get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("writer", "header", "expected"),
    [
        ({"name": "Authorization"}, "Authorization", "{}"),
        ({"name": "X-Prefect-Token"}, "X-Prefect-Token", "{}"),
        ({"name": "x-token", "value": "Token <TOKEN>, of Datadog"}, "X-Token", "Token {}, of Datadog"),
        ({"name": "Authorization", "value": "Key %t", "placeholder": "%t"}, "Authorization", "Key {}"),
        ({"name": "X-Token", "value": "<TOKEN>%t%t", "placeholder": "%t"}, "X-Token", "<TOKEN>{}%t"),
    ],
    ids=["alone", "another name", "amid words", "another placeholder", "once"],
)
def test_the_header_is_what_the_writer_says(
    server: PrefectServer,
    stage: Stage,
    agent: AgentFactory,
    tmp_path: Path,
    writer: dict[str, str],
    header: str,
    expected: str,
) -> None:
    path = tmp_path / "token"
    path.write_text("abc.def-123\n")
    option = {"reader": {"type": "file", "path": str(path)}, "writer": {"type": "header", **writer}}
    wanted = expected.format("abc.def-123")
    with Guard(server.url, lambda value: value == wanted, header) as guard:
        assert_whole(agent(prefect_url=f"{guard.url}/api", auth_token=option, **stage.only_this).run(), stage)
        assert guard.refused == []


def test_a_token_for_a_proxy_goes_beside_other_headers_and_the_server_s_own_password_and_csrf_token(
    secured_server: PrefectServer, agent: AgentFactory, tmp_path: Path
) -> None:
    source = file_source(tmp_path / "token")
    option = {**source.option, "writer": {"type": "header", "name": "X-Gate", "value": "Bearer <TOKEN>"}}
    pool = PrefectApi(secured_server.api_url, secured_server.auth, csrf=True).create_work_pool("behind-a-gate")
    with Guard(secured_server.url, source.accepts, "X-Gate") as guard:
        options = {"auth_string": AUTH_STRING, "headers": {"X-Team": "data"}, "custom_headers": {"X-Cost": "5"}}
        a = agent(prefect_url=f"{guard.url}/api", auth_token=option, **options)
        for _ in range(2):
            result = a.run()
            assert (result.error, result.warnings) == ("", [])
            assert len(result.matching("work_pool.is_ready", work_pool_id=pool["id"])) == 1
            source.replace()
        assert {(request.headers["X-Team"], request.headers["X-Cost"]) for request, _ in guard.passed} == {
            ("data", "5")
        }


def test_a_token_that_was_replaced_since_the_last_check_run_is_renewed_with_one_request(
    guard: Guard, source: Source, stage: Stage, agent: AgentFactory
) -> None:
    a = agent(**options_for(guard, source, stage))
    assert_whole(a.run(), stage)
    for _ in range(2):
        asked, refused = source.asked(), len(guard.refused)
        source.replace()
        assert_whole(a.run(), stage)
        assert source.asked() in (0, asked + 1)
        # Those that were already on their way.
        assert len(guard.refused) - refused <= 8


def test_a_token_that_is_refused_in_the_middle_of_a_check_run_is_renewed_once_for_all_requests(
    guard: Guard, oauth_token: Source, api: PrefectApi, agent: AgentFactory
) -> None:
    stage = Stage(api)
    names = [f"{stage.name}-{number}" for number in range(POOLS)]
    for name in names:
        api.create_work_pool(name)
        api.heartbeat(name, "worker")
    _ = stage.deployment
    a = agent(**options_for(guard, oauth_token, stage))
    assert_whole(a.run(), stage)
    requests = sys.maxsize
    for _ in range(3):
        known = len(guard.passed)
        assert_whole(a.run(), stage)
        # Later check runs send a few more or less.
        requests = min(requests, len(guard.passed) - known - POOLS // 2)
    for number in range(1, requests + 1, max(1, requests // 8)):
        asked = oauth_token.asked()
        guard.before_request(number, oauth_token.replace)
        result = a.run()
        assert_whole(result, stage)
        assert oauth_token.asked() == asked + 1, f"the token was refused from request {number} on"
        for name in names:
            assert result.gauge("work_pool.workers.online", work_pool_name=name) == 1


@pytest.mark.parametrize("status", [404, 422, 429, 500, 503])
def test_a_request_that_fails_for_another_reason_does_not_make_the_token_be_fetched_again(
    guard: Guard, oauth_token: Source, stage: Stage, agent: AgentFactory, status: int
) -> None:
    a = agent(**options_for(guard, oauth_token, stage))
    assert_whole(a.run(), stage)
    guard.spoil("/work_queues/filter", fails_with(status))
    known = len(guard.passed)
    result = a.run()
    assert any(str(status) in warning for warning in result.warnings)
    assert oauth_token.asked() == 1
    asked = [request for request, _ in guard.passed[known:] if request.path.endswith("/work_queues/filter")]
    # A server that is busy is asked again, as without a token; no other.
    assert len(asked) <= (8 if status in (429, 503) else 2)
    guard.heal()
    assert_whole(a.run(), stage)
    assert oauth_token.asked() == 1


def test_a_connection_that_is_lost_does_not_make_the_token_be_fetched_again(
    guard: Guard, oauth_token: Source, stage: Stage, agent: AgentFactory
) -> None:
    a = agent(**options_for(guard, oauth_token, stage))
    assert_whole(a.run(), stage)
    guard.spoil("/filter", is_dropped, times=2)
    assert_whole(a.run(), stage)
    assert oauth_token.asked() == 1


@pytest.mark.parametrize("expires_in", [3600, "3600", ...], ids=repr)
def test_a_token_is_kept_for_its_time_however_the_server_writes_that(
    guard: Guard, oauth: OAuthServer, oauth_token: Source, stage: Stage, agent: AgentFactory, expires_in: object
) -> None:
    if expires_in is ...:
        del oauth.answered["expires_in"]
    else:
        oauth.answered["expires_in"] = expires_in
    a = agent(**options_for(guard, oauth_token, stage))
    for _ in range(2):
        assert_whole(a.run(), stage)
    assert oauth_token.asked() == 1


def test_a_token_whose_time_is_over_is_replaced_before_it_is_refused(
    guard: Guard, oauth: OAuthServer, oauth_token: Source, stage: Stage, agent: AgentFactory
) -> None:
    lifetime_seconds = 3
    oauth.answered["expires_in"] = lifetime_seconds
    a = agent(**options_for(guard, oauth_token, stage))
    assert_whole(a.run(), stage)
    over = time.monotonic() + lifetime_seconds
    oauth.answered["expires_in"] = 3600
    wait_until(lambda: time.monotonic() > over, 60, "The end of the token")
    asked = oauth_token.asked()
    assert_whole(a.run(), stage)
    assert oauth_token.asked() == asked + 1
    assert guard.refused == []


def test_a_token_that_stays_refused_is_told_by_its_option_and_costs_one_token_request_a_check_run(
    server: PrefectServer, oauth_token: Source, stage: Stage, agent: AgentFactory
) -> None:
    locked = [True]
    with Guard(server.url, lambda value: not locked[0] and oauth_token.accepts(value)) as guard:
        a = agent(**options_for(guard, oauth_token, stage))
        for number in range(1, 4):
            result = a.run()
            assert "401" in result.error
            assert "`auth_token`" in result.error
            assert f"{guard.url}/api" in result.error
            # The first one, and one in each check run to renew it.
            assert oauth_token.asked() <= number + 1
        locked[0] = False
        assert_whole(a.run(), stage)


def test_a_token_server_that_is_away_is_not_missed_while_the_token_is_valid(
    guard: Guard, oauth: OAuthServer, oauth_token: Source, stage: Stage, agent: AgentFactory
) -> None:
    a = agent(**options_for(guard, oauth_token, stage))
    assert_whole(a.run(), stage)
    oauth.spoilt = lambda _: None
    assert_whole(a.run(), stage)


def test_a_token_that_cannot_be_renewed_is_an_error_that_ends_with_its_cause(
    guard: Guard, oauth: OAuthServer, oauth_token: Source, stage: Stage, agent: AgentFactory
) -> None:
    a = agent(**options_for(guard, oauth_token, stage))
    assert_whole(a.run(), stage)
    oauth.revoke()
    oauth.spoilt = lambda _: None
    for _ in range(2):
        result = a.run()
        assert "`auth_token`" in result.error
        assert f"{oauth.url}/token" in result.error
        assert result.gauge("health") == 0
    oauth.spoilt = None
    assert_whole(a.run(), stage)
