"""Servers behind another path, another address, a proxy or TLS: the same is collected, and errors tell what to set."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from lab.agent import CheckRunResult
from lab.ports import HOST
from lab.prefect_api import PrefectApi, run_state
from lab.proxy import Answer, Proxy, RespondingServer, terminating
from lab.server import FAST_EVENTS, PrefectServer
from lab.version import reason_to_skip

from ..conftest import AgentFactory
from .stage import Stage

PREFIX = "/team/prefect"
MORE_THAN_A_PAGE_OF_EVENTS = 51


@pytest.fixture(scope="module")
def unusual_server() -> Iterator[PrefectServer]:
    """A server with another path, another kind of address and another page limit than Prefect has by itself."""
    unusual = {"PREFECT_SERVER_API_DEFAULT_LIMIT": "500"}
    if not reason_to_skip("base path"):
        unusual["PREFECT_SERVER_API_BASE_PATH"] = "/orchestration/v3"
    host = HOST if reason_to_skip("an address of IPv6") else "::1"
    with PrefectServer(env={**FAST_EVENTS, **unusual}, host=host) as unusual_server:
        yield unusual_server


def collects_all_layers(agent: AgentFactory, server: PrefectServer, **instance: object) -> CheckRunResult:
    """Make a check run that has pages of everything to follow; returns the run, which lacked nothing."""
    api = PrefectApi(server.api_url)
    stage = Stage(api)
    a = agent(collect_events=True, event_names={"include": [r"\.Cancelled$"]}, **stage.only_this, **instance)
    begin = a.run()
    assert (begin.error, begin.warnings) == ("", [])
    runs = [api.create_deployment_run(stage.deployment["id"]) for _ in range(MORE_THAN_A_PAGE_OF_EVENTS)]
    ids = [api.set_flow_run_state(run["id"], "CANCELLED", force=True)["id"] for run in runs]
    api.wait_for_events(ids)
    result = a.run()
    assert (result.error, result.warnings) == ("", [])
    assert (result.gauge("health"), result.gauge("ready")) == (1, 1)
    assert result.gauge("work_pool.is_not_ready", work_pool_id=stage.pool["id"]) == 1
    assert result.count("flow_runs.cancelled.count", **as_tags(stage)) == MORE_THAN_A_PAGE_OF_EVENTS
    assert {event["aggregation_key"] for event in result.events} == {f"prefect.flow-run.{run['id']}" for run in runs}
    assert len(result.events) == len(runs)
    return result


def as_tags(stage: Stage) -> dict[str, str]:
    return {"deployment_id": stage.deployment["id"], "work_queue_id": stage.queue["id"]}


def links_in(result: CheckRunResult) -> set[str]:
    """The addresses that the texts of events link to, without their paths beneath the user interface."""
    texts = [event["msg_text"] for event in result.events]
    return {url.partition("/runs/")[0] for text in texts for url in re.findall(r"https?://[^)\s]+", text)}


def test_a_proxy_that_ends_tls_without_telling_the_server_is_read_to_the_last_page(
    server: PrefectServer, agent: AgentFactory, authority: trustme.CA, authority_file: str
) -> None:
    with Proxy(server.url, tls=terminating(authority.issue_cert(HOST))) as proxy:
        url = f"{proxy.url}/api"
        result = collects_all_layers(agent, server, prefect_url=url, tls_ca_cert=authority_file)
        assert any("/events/filter/next" in request.path for request, _ in proxy.passed)
    assert links_in(result) == {proxy.url}


def test_a_proxy_with_a_path_prefix_of_its_own_is_read_to_the_last_page(
    server: PrefectServer, agent: AgentFactory
) -> None:
    with Proxy(server.url, prefix=PREFIX) as proxy:
        result = collects_all_layers(agent, server, prefect_url=f"{proxy.url}{PREFIX}/api")
        assert any("/events/filter/next" in request.path for request, _ in proxy.passed)
    assert links_in(result) == {f"{proxy.url}{PREFIX}"}


def test_without_the_prefix_the_error_says_that_prefect_is_not_there(
    server: PrefectServer, agent: AgentFactory
) -> None:
    with Proxy(server.url, prefix=PREFIX) as proxy:
        url = f"{proxy.url}/api"
        error = agent(prefect_url=url).run().error
    assert url in error
    assert "404" in error
    assert "`prefect_url`" in error


@pytest.mark.needs("base path")
def test_a_server_with_another_base_path_is_read_to_the_last_page(
    unusual_server: PrefectServer, agent: AgentFactory
) -> None:
    assert unusual_server.api_url.endswith("/orchestration/v3")
    collects_all_layers(agent, unusual_server, prefect_url=unusual_server.api_url)


@pytest.mark.needs("an address of IPv6")
def test_a_server_on_ipv6_is_read(unusual_server: PrefectServer, agent: AgentFactory) -> None:
    assert unusual_server.api_url.startswith("http://[::1]:")
    result = agent(prefect_url=unusual_server.api_url).run()
    assert (result.error, result.warnings) == ("", [])
    assert (result.gauge("health"), result.gauge("ready")) == (1, 1)


def test_a_server_with_larger_pages_than_usual_is_read_whole(
    unusual_server: PrefectServer, agent: AgentFactory
) -> None:
    api = PrefectApi(unusual_server.api_url)
    flow = api.create_flow("etl")
    more_than_the_usual_page = 201
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for _ in range(more_than_the_usual_page):
        api.create_flow_run(flow["id"], run_state("SCHEDULED", scheduled_time=tomorrow))
    assert len(api.flow_runs(flows={"id": {"any_": [flow["id"]]}})) == more_than_the_usual_page
    result = agent(prefect_url=unusual_server.api_url).run()
    assert (result.error, result.warnings) == ("", [])
    assert result.gauge("flow_runs.scheduled", flow_id=flow["id"]) == more_than_the_usual_page


@pytest.mark.parametrize(
    ("issue", "kind", "option"),
    [
        (lambda authority: trustme.CA().issue_cert(HOST), "CertificateUntrusted", "`tls_ca_cert`"),
        (
            lambda authority: authority.issue_cert(HOST, not_after=datetime.now(UTC) - timedelta(hours=1)),
            "CertificateOutOfDate",
            "renew",
        ),
        (lambda authority: authority.issue_cert("other.example"), "CertificateForAnotherName", "`prefect_url`"),
        (lambda authority: authority.issue_cert("127.0.0.9"), "CertificateForAnotherName", "`prefect_url`"),
    ],
    ids=["not trusted", "expired", "for another name", "for another address"],
)
def test_what_is_wrong_with_a_certificate_is_told_apart(
    server: PrefectServer,
    agent: AgentFactory,
    authority: trustme.CA,
    authority_file: str,
    issue: object,
    kind: str,
    option: str,
) -> None:
    assert callable(issue)
    with Proxy(server.url, tls=terminating(issue(authority))) as proxy:
        url = f"{proxy.url}/api"
        result = agent(prefect_url=url, tls_ca_cert=authority_file).run()
    assert (result.gauge("health"), result.gauge("ready")) == (0, 0)
    assert result.error_type.endswith(kind)
    assert url in result.error
    assert option in result.error
    others = {"`tls_ca_cert`", "renew", "`prefect_url`"} - {option}
    assert not [other for other in others if other in result.error]


def test_a_proxy_that_wants_a_client_certificate_gets_it(
    server: PrefectServer, agent: AgentFactory, authority: trustme.CA, authority_file: str, tmp_path: Path
) -> None:
    client = authority.issue_cert("agent.example")
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    client.cert_chain_pems[0].write_to_path(str(certificate))
    client.private_key_pem.write_to_path(str(key))
    with Proxy(server.url, tls=terminating(authority.issue_cert(HOST), clients=authority)) as proxy:
        options = {"prefect_url": f"{proxy.url}/api", "tls_ca_cert": authority_file}
        collects_all_layers(agent, server, **options, tls_cert=str(certificate), tls_private_key=str(key))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("has_one", [False, True], ids=["none", "of another authority"])
def test_a_client_certificate_that_is_missing_or_not_trusted_is_told_by_its_option(
    server: PrefectServer,
    agent: AgentFactory,
    authority: trustme.CA,
    authority_file: str,
    tmp_path: Path,
    version: ssl.TLSVersion,
    has_one: bool,
) -> None:
    tls = terminating(authority.issue_cert(HOST), clients=authority)
    tls.minimum_version = tls.maximum_version = version
    options: dict[str, str] = {}
    if has_one:
        stranger = tmp_path / "stranger.pem"
        trustme.CA().issue_cert("agent.example").private_key_and_cert_chain_pem.write_to_path(str(stranger))
        options = {"tls_cert": str(stranger)}
    with Proxy(server.url, tls=tls) as proxy:
        url = f"{proxy.url}/api"
        result = agent(prefect_url=url, tls_ca_cert=authority_file, **options).run()
    assert (result.gauge("health"), result.gauge("ready")) == (0, 0)
    assert url in result.error
    assert "`tls_cert`" in result.error


@pytest.mark.parametrize("option", ["tls_ca_cert", "tls_cert"])
def test_a_tls_file_that_is_none_is_told_by_its_option(
    server: PrefectServer, agent: AgentFactory, tmp_path: Path, option: str
) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("this is no certificate")
    url = server.api_url.replace("http://", "https://")
    result = agent(prefect_url=url, **{option: str(garbage)}).run()
    assert (result.gauge("health"), result.gauge("ready")) == (0, 0)
    assert f"`{option}`" in result.error
    assert url in result.error


def test_a_redirect_to_a_login_page_is_not_taken_for_the_address_of_the_api(agent: AgentFactory) -> None:
    login = Answer(302, headers={"Location": "https://sso.example/login?back=secret-state"})
    with RespondingServer(lambda _: login) as gate:
        result = agent(prefect_url=f"{gate.url}/api").run()
    assert "https://sso.example/login." in result.error
    assert "secret-state" not in result.error
    assert "proxy's login page" in result.error
    assert "`headers`" in result.error
