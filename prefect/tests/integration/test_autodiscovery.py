"""How the Agent finds servers by itself: the template for containers, and candidates that the check itself tries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from datadog_checks.base import stubs
from datadog_checks.base.utils.discovery import Port, Service

import datadog_checks.prefect
from datadog_checks.prefect import PrefectCheck
from lab.ports import HOST, free_port
from lab.proxy import Answer, RespondingServer
from lab.server import PrefectServer

from ..conftest import AgentFactory

HINTED_PORT = 4200

pytestmark = pytest.mark.usefixtures("clean_agent")


def service(*ports: int, host: str = HOST) -> Service:
    return Service(id="container_id://0a1b2c", host=host, ports=tuple(Port(number=port) for port in ports))


def discovered(*ports: int, host: str = HOST) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(PrefectCheck.discover_config(service(*ports, host=host).model_dump_json()))
    return found


def port_of(web: RespondingServer) -> int:
    return int(web.url.rpartition(":")[2])


@pytest.fixture(autouse=True)
def loopback_is_behind_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")


def test_the_template_for_containers_becomes_an_instance_that_collects(
    server: PrefectServer, agent: AgentFactory
) -> None:
    template = Path(datadog_checks.prefect.__file__).with_name("data") / "auto_conf.yaml"
    configuration = yaml.safe_load(template.read_text(encoding="utf-8"))
    assert configuration["ad_identifiers"] == ["prefect"]
    [instance] = configuration["instances"]
    # The Agent puts in the container's address; here the server is at another port than in its image.
    url = instance["prefect_url"].replace("%%host%%", HOST).replace(f":{HINTED_PORT}/", f":{server.port}/")
    assert url == server.api_url
    result = agent(**{**instance, "prefect_url": url}).run()
    assert (result.error, result.warnings) == ("", [])
    assert result.gauge("health") == 1


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


def test_a_server_with_nothing_but_a_closed_door_or_nothing_at_all_is_not_found() -> None:
    with RespondingServer(lambda _: Answer(401, b"no")) as gate:
        assert discovered(port_of(gate), free_port()) == []
    assert discovered() == []
    assert stubs.aggregator.metric_names == []
