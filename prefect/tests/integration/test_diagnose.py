"""What `agent diagnose` tells of a server, and of what stands between it and the check."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest
import trustme
from datadog_checks.base.utils.diagnose import Diagnosis

from datadog_checks.prefect.diagnostics import STEPS
from lab.agent import Agent
from lab.ports import HOST, free_port
from lab.prefect_api import Json, PrefectApi
from lab.proxy import Answer, Proxy, RespondingServer, is_html, terminating, with_clock_ahead
from lab.server import PrefectServer

from ..conftest import AgentFactory
from .cloud import API_KEY, PrefectCloud
from .conftest import AUTH_STRING
from .stage import Stage

RESULTS = {
    Diagnosis.DIAGNOSIS_SUCCESS: "success",
    Diagnosis.DIAGNOSIS_WARNING: "warning",
    Diagnosis.DIAGNOSIS_FAIL: "fail",
}
SECRET = "hunter2-the-secret"


def diagnoses(agent: Agent) -> dict[str, Json]:
    """What the check tells, by step; each tells what was looked at, and what to do where something is wrong."""
    told = json.loads(agent.check.get_diagnoses())
    for entry in told:
        assert entry["rawerror"] is None
        entry["result"] = RESULTS[entry["result"]]
        assert entry["category"] == "prefect"
        assert entry["description"]
        assert entry["diagnosis"]
        assert bool(entry["remediation"]) == (entry["result"] != "success"), entry
    by_name = {entry["name"]: entry for entry in told}
    assert len(by_name) == len(told)
    return by_name


def results(agent: Agent) -> dict[str, str]:
    return {name: entry["result"] for name, entry in diagnoses(agent).items()}


def failure(agent: Agent, step: str) -> str:
    """Cause and remedy of the step that failed, which is the only one and the last."""
    told = diagnoses(agent)
    assert [name for name, entry in told.items() if entry["result"] == "fail"] == [step]
    assert list(told)[-1] == step
    return f"{told[step]['diagnosis']} {told[step]['remediation']}"


def test_a_server_without_fault_passes_every_step_before_and_after_a_check_run(agent: AgentFactory) -> None:
    a = agent()
    expected = dict.fromkeys(STEPS, "success")
    assert results(a) == expected
    assert a.run().error == ""
    assert results(a) == expected
    assert a.run().error == ""


def test_a_bad_option_is_named(agent: AgentFactory) -> None:
    assert "late_start_grace_seconds" in failure(agent(late_start_grace_seconds=-1), "configuration")


def test_a_missing_path_is_told_with_the_url_that_is_meant(server: PrefectServer, agent: AgentFactory) -> None:
    told = diagnoses(agent(prefect_url=server.url))
    assert told["url"]["result"] == "warning"
    assert f"{server.url}/api" in told["url"]["remediation"]
    assert told["api"]["result"] == "fail"
    assert "version" not in told


def test_nothing_listening_is_told_as_such(agent: AgentFactory) -> None:
    url = f"http://{HOST}:{free_port()}/api"
    text = failure(agent(prefect_url=url), "reachability")
    assert url in text
    assert "refused" in text


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_is_told_to_be_accepted_or_not(
    server: PrefectServer, agent: AgentFactory, authority: trustme.CA, authority_file: str, trusted: bool
) -> None:
    with Proxy(server.url, tls=terminating(authority.issue_cert(HOST))) as proxy:
        url = f"{proxy.url}/api"
        if trusted:
            assert results(agent(prefect_url=url, tls_ca_cert=authority_file)) == dict.fromkeys(STEPS, "success")
        else:
            assert "`tls_ca_cert`" in failure(agent(prefect_url=url), "tls")
            assert results(agent(prefect_url=url, tls_verify=False))["tls"] == "warning"


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_are_not_taken_are_told_by_their_option_and_not_shown(
    agent: AgentFactory, status: int
) -> None:
    with RespondingServer(lambda _: Answer(status, b"no")) as gate:
        a = agent(prefect_url=f"{gate.url}/api", auth_string=f"datadog:{SECRET}")
        text = failure(a, "credentials")
        assert "`auth_string`" in text
        assert str(status) in text
        assert SECRET not in a.check.get_diagnoses()


def test_a_login_page_is_not_taken_for_prefect(server: PrefectServer, agent: AgentFactory, proxy: Proxy) -> None:
    proxy.spoil("", is_html)
    assert "HTML" in failure(agent(prefect_url=f"{proxy.url}/api"), "api")


@pytest.mark.needs("auth string")
def test_csrf_protection_is_told_to_be_on(secured_server: PrefectServer, agent: AgentFactory) -> None:
    told = diagnoses(agent(prefect_url=secured_server.api_url, auth_string=AUTH_STRING))
    assert {name: entry["result"] for name, entry in told.items()} == dict.fromkeys(STEPS, "success")
    assert "is on" in told["csrf"]["diagnosis"]
    assert "`auth_string`" in told["credentials"]["diagnosis"]
    with Proxy(secured_server.url) as proxy:
        proxy.withhold("Prefect-Csrf-Token")
        assert "Prefect-Csrf-Token" in failure(agent(prefect_url=f"{proxy.url}/api", auth_string=AUTH_STRING), "csrf")


def test_an_older_version_is_told_to_be_too_old(agent: AgentFactory, proxy: Proxy) -> None:
    proxy.spoil("/admin/version", lambda answer: replace(answer, body=b'"2.20.25"'))
    assert "2.20.25" in failure(agent(prefect_url=f"{proxy.url}/api"), "version")


def test_a_run_that_ended_without_an_event_tells_that_events_do_not_arrive(
    api: PrefectApi, agent: AgentFactory, proxy: Proxy
) -> None:
    stage = Stage(api)
    stage.seen(stage.run("CANCELLED"))
    # The run that has just ended did so ten minutes ago, by the clock that the check is shown.
    proxy.spoil("", with_clock_ahead(timedelta(minutes=10)))
    a = agent(prefect_url=f"{proxy.url}/api")
    assert diagnoses(a)["events"]["result"] == "success"
    proxy.spoil("/events/filter", lambda answer: replace(answer, body=b'{"events": [], "total": 0, "next_page": null}'))
    assert "background services" in failure(a, "events")


@pytest.mark.parametrize(("minutes", "which"), [(10, "ahead of"), (-10, "behind")])
def test_clocks_that_differ_are_told_by_how_much(agent: AgentFactory, proxy: Proxy, minutes: int, which: str) -> None:
    proxy.spoil("", with_clock_ahead(timedelta(minutes=minutes)))
    told = diagnoses(agent(prefect_url=f"{proxy.url}/api"))["clock"]
    assert told["result"] == "warning"
    [(seconds, found)] = re.findall(r"(\d+) s (ahead of|behind) this host's", told["diagnosis"])
    assert found == which
    # Answers tell the time to about a second, and may take some.
    assert abs(int(seconds) - 600) < 30
    assert "NTP" in told["remediation"]


def test_prefect_cloud_passes_every_step(
    server: PrefectServer, agent: AgentFactory, authority: trustme.CA, authority_file: str
) -> None:
    with PrefectCloud(server.url, terminating(authority.issue_cert(HOST))) as cloud:
        a = agent(prefect_url=cloud.api_url, api_key=API_KEY, tls_ca_cert=authority_file)
        assert results(a) == dict.fromkeys(STEPS, "success")
        assert API_KEY not in a.check.get_diagnoses()
