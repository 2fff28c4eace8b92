"""A check run ends within its time, however slow the server is, with what it has until then."""

from __future__ import annotations

import gzip
import json
import time

import pytest
from datadog_checks.base.utils.http import RequestsWrapper

from datadog_checks.prefect.api.client import Client
from datadog_checks.prefect.api.errors import OutOfTime
from datadog_checks.prefect.collectors import COLLECTORS, Events
from datadog_checks.prefect.config.settings import LEAST_BUDGET_SECONDS
from lab.prefect_api import PrefectApi
from lab.proxy import Answer, Proxy, Request, RespondingServer, trickles

from ..conftest import AgentFactory
from .stage import Stage

SUBJECTS = [collector.subject for collector in COLLECTORS if collector is not Events]
# Far from what is too long without a deadline, and from what a busy machine adds.
TOLERANCE_SECONDS = 10.0


@pytest.fixture
def stage(api: PrefectApi) -> Stage:
    stage = Stage(api)
    stage.seen(stage.run("PENDING", "RUNNING"))
    return stage


class Slowness:
    """A fault: the answer is the right one, but comes late. `requests` counts those it was dealt to."""

    def __init__(self, seconds: float) -> None:
        self.requests = 0
        self._seconds = seconds

    def __call__(self, answer: Answer) -> Answer:
        self.requests += 1
        time.sleep(self._seconds)
        return answer


def left_out(warnings: list[str]) -> list[str]:
    """What the warnings say was left out for lack of time."""
    lacking = [warning for warning in warnings if " used up." in warning or "was not answered within" in warning]
    return [warning.removeprefix("Missing: ").partition(". ")[0] for warning in lacking]


def test_of_a_server_that_takes_five_seconds_for_each_answer_there_is_what_fits_in_the_time(
    proxy: Proxy, stage: Stage, agent: AgentFactory
) -> None:
    slow = Slowness(seconds=5)
    proxy.spoil("", slow)
    result = agent(prefect_url=f"{proxy.url}/api", **stage.only_this).run()
    assert (result.gauge("health"), result.gauge("ready")) == (1, 1)
    assert result.names() == {"prefect.server.health", "prefect.server.ready"}
    assert left_out(result.warnings) == ["the server's version", *SUBJECTS]
    # What was not answered is not asked again with less patience in the same check run.
    assert slow.requests <= 3 + len(SUBJECTS)
    assert "was not answered within" in result.error


def test_an_answer_that_trickles_in_takes_nothing_from_those_that_do_not_need_it(
    proxy: Proxy, stage: Stage, agent: AgentFactory
) -> None:
    proxy.spoil("/work_queues/filter", trickles)
    begun = time.monotonic()
    result = agent(prefect_url=f"{proxy.url}/api", **stage.only_this).run()
    assert time.monotonic() - begun < LEAST_BUDGET_SECONDS + TOLERANCE_SECONDS
    assert result.error == ""
    assert result.gauge("work_pool.is_not_ready", work_pool_id=stage.pool["id"]) == 1
    assert len(result.matching("work_pool.workers.online")) == 1
    assert left_out(result.warnings) == ["work queues", "work queue backlogs", "work queue concurrency"]
    assert result.gauge("flow_runs.running", deployment_id=stage.deployment["id"]) == 1
    assert result.gauge("deployment.is_ready", deployment_id=stage.deployment["id"]) == 0
    families = {name.removeprefix("prefect.server.").partition(".")[0] for name in result.names()}
    # Other tests may have left limits on the server.
    assert families - {"concurrency_limit"} == {"health", "ready", "work_pool", "flow_runs", "deployment"}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_body_that_trickles_in_is_broken_off_when_the_time_is_up(packed: bool, connection: str) -> None:
    body = json.dumps(list(range(10_000))).encode()
    headers = {"Content-Encoding": "gzip"} if packed else {}
    answer = Answer(200, gzip.compress(body) if packed else body, {**headers, "Connection": connection}, False, 0.1)
    with RespondingServer(lambda _: answer) as server:
        http = RequestsWrapper({"skip_proxy": True}, {})
        client = Client(http, server.url, {})
        client.start_run(budget_seconds=1)
        begun = time.monotonic()
        with pytest.raises(OutOfTime):
            client.get("/thing", json.loads)
        assert time.monotonic() - begun < 1 + TOLERANCE_SECONDS


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_body_that_comes_in_pieces_is_whole_and_its_connection_kept(packed: bool) -> None:
    body = json.dumps(list(range(5))).encode()
    headers = {"Content-Encoding": "gzip"} if packed else {}
    answer = Answer(200, gzip.compress(body) if packed else body, headers, False, 0.001)
    ports = set()

    def respond(request: Request) -> Answer:
        ports.add(request.port)
        return answer

    with RespondingServer(respond) as server:
        client = Client(RequestsWrapper({"skip_proxy": True}, {}), server.url, {})
        client.start_run(budget_seconds=15)
        for _ in range(3):
            assert client.get("/thing", json.loads) == [0, 1, 2, 3, 4]
    assert len(ports) == 1
