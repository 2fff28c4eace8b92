"""How the Agent finds servers by itself: the template for containers, and candidates that the check itself tries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from datadog_checks.base import stubs
from datadog_checks.base.utils.discovery import Port, Service

import datadog_checks.prefect
from datadog_checks.prefect import PrefectCheck
from lab.ports import HOST, free_port
from lab.prefect_api import PrefectApi
from lab.proxy import Answer, RespondingServer
from lab.server import PrefectServer
from lab.waiting import wait_until

from ..conftest import AgentFactory
from .stage import Stage

HINTED_PORT = 4200
WORKER_SECONDS = 90.0

pytestmark = pytest.mark.usefixtures("clean_agent")


def service(*ports: int, host: str = HOST) -> Service:
    return Service(id="container_id://0a1b2c", host=host, ports=tuple(Port(number=port) for port in ports))


def discovered(*ports: int, host: str = HOST) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(PrefectCheck.discover_config(service(*ports, host=host).model_dump_json()))
    return found


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def port_of(web: RespondingServer) -> int:
    return int(web.url.rpartition(":")[2])


@pytest.fixture(autouse=True)
def loopback_is_behind_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")


def test_the_template_for_containers_leaves_it_to_the_check_to_find_the_server() -> None:
    template = Path(datadog_checks.prefect.__file__).with_name("data") / "auto_conf.yaml"
    configuration = yaml.safe_load(template.read_text(encoding="utf-8"))
    # An instance here would win over what the check finds.
    assert configuration == {
        "ad_identifiers": ["prefect"],
        "discovery": {"metrics_prefix": "prefect.server"},
        "init_config": None,
        "instances": [],
    }


def test_the_port_that_prefect_has_by_itself_is_tried_first_and_the_others_after_it() -> None:
    candidates = list(PrefectCheck.generate_configs(service(8080, HINTED_PORT, 9090)))
    urls = [candidate["instances"][0]["prefect_url"] for candidate in candidates]
    assert urls == [f"http://{HOST}:{port}/api" for port in (HINTED_PORT, 8080, 9090)]


def test_an_address_of_ipv6_is_put_in_brackets() -> None:
    [candidate] = PrefectCheck.generate_configs(service(HINTED_PORT, host="fd00::1"))
    assert candidate["instances"][0]["prefect_url"] == f"http://[fd00::1]:{HINTED_PORT}/api"


def test_a_server_is_found_among_ports_that_are_not_prefect(server: PrefectServer, agent: AgentFactory) -> None:
    page = Answer(200, b"<!doctype html><title>It works!</title>", {"Content-Type": "text/html"})
    other = Answer(200, b"true", {"Content-Type": "application/json"})
    with RespondingServer(lambda _: page) as web, RespondingServer(lambda _: other) as api:
        [found] = discovered(free_port(), port_of(web), port_of(api), server.port)
    [instance] = found["instances"]
    assert instance["prefect_url"] == server.api_url
    # Nothing of the trial is left, and what was found can be run as it is.
    assert stubs.aggregator.metric_names == []
    result = agent(found["init_config"], **instance).run()
    assert (result.error, result.warnings) == ("", [])
    assert result.gauge("health") == 1


def test_what_was_found_is_found_again(server: PrefectServer) -> None:
    first, second = (discovered(free_port(), server.port) for _ in range(2))
    assert first == second == [{"init_config": {}, "instances": [{"prefect_url": server.api_url}]}]


def test_a_workers_container_is_no_server(server: PrefectServer, api: PrefectApi) -> None:
    """Its image is the server's, and its health check answers on a port of its own."""
    port, pool = free_port(), Stage(api).pool["name"]
    environment = ["/usr/bin/env", f"PREFECT_WORKER_WEBSERVER_HOST={HOST}", f"PREFECT_WORKER_WEBSERVER_PORT={port}"]
    start = server.command("prefect", "worker", "start", "--pool", pool, "--type", "process", "--with-healthcheck")
    worker = server.process("worker-with-healthcheck", [*environment, *start])
    worker.start()
    try:
        wait_until(lambda: answers(f"http://{HOST}:{port}/health"), WORKER_SECONDS, "The worker's health check")
        assert discovered(port) == []
    finally:
        worker.stop()
    assert stubs.aggregator.metric_names == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="Redis, which closes connections that speak HTTP"),
        pytest.param(
            Answer(404, b"<h1>404 Not Found</h1>", {"Content-Type": "text/html"}), id="nginx without the path"
        ),
        pytest.param(Answer(200, b"<h1>Welcome!</h1>", {"Content-Type": "text/html"}), id="nginx with a page for all"),
        pytest.param(Answer(200, b"{}", {"Content-Type": "application/json"}), id="an API"),
        pytest.param(Answer(401, b"{}", {"WWW-Authenticate": "Basic"}), id="a closed door"),
        pytest.param(Answer(302, b"", {"Location": "/login"}), id="a login page"),
    ],
)
def test_what_is_not_prefect_is_not_found(answer: Answer | None) -> None:
    with RespondingServer(lambda _: answer) as other:
        assert discovered(port_of(other)) == []
    assert stubs.aggregator.metric_names == []


def test_a_server_with_nothing_but_a_closed_door_or_nothing_at_all_is_not_found() -> None:
    with RespondingServer(lambda _: Answer(401, b"no")) as gate:
        assert discovered(port_of(gate), free_port()) == []
    assert discovered() == []
    assert stubs.aggregator.metric_names == []
