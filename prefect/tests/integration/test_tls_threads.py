"""Requests that are sent side by side over TLS: none fails because of another, and nothing is missing."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import trustme
from datadog_checks.base.utils.http import RequestsWrapper

from datadog_checks.prefect.api.client import Client
from lab.ports import HOST
from lab.prefect_api import PrefectApi
from lab.proxy import Answer, Proxy, Request, RespondingServer, terminating
from lab.server import PrefectServer

from ..conftest import AgentFactory
from .stage import Stage

POOLS = 40
CHECK_RUNS = 30
THREADS = 8
# Long enough that the workers stay online through all check runs.
HEARTBEAT_SECONDS = 3600


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns every microsecond instead of 5,000: what goes wrong once in a day does so in a second."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    return terminating(authority.issue_cert(HOST))


@pytest.fixture
def pools(api: PrefectApi) -> Iterator[list[str]]:
    """Work pools of one name with a number, each with a worker."""
    prefix = Stage(api).name
    names = [f"{prefix}-{number:02}" for number in range(POOLS)]
    for name in names:
        api.create_work_pool(name)
        api.heartbeat(name, "worker", interval_seconds=HEARTBEAT_SECONDS)
    yield names
    for name in names:
        api.delete_work_pool(name)


def hangs_up(answer: Answer) -> Answer:
    """The same answer, the last one of its connection."""
    return replace(answer, headers={**answer.headers, "Connection": "close"})


@pytest.mark.parametrize("keeps_alive", [True, False], ids=["kept alive", "closed"])
@pytest.mark.usefixtures("restless_threads")
def test_every_check_run_over_tls_has_the_workers_of_all_pools(
    server: PrefectServer,
    agent: AgentFactory,
    pools: list[str],
    tls: ssl.SSLContext,
    authority_file: str,
    keeps_alive: bool,
) -> None:
    names = {"include": [f"^{pools[0].rpartition('-')[0]}-"]}
    with Proxy(server.url, tls=tls) as proxy:
        if not keeps_alive:
            proxy.spoil("", hangs_up)
        a = agent(prefect_url=f"{proxy.url}/api", tls_ca_cert=authority_file, work_pool_names=names)
        for number in range(CHECK_RUNS):
            result = a.run()
            assert (result.error, result.warnings) == ("", []), f"check run {number}"
            online = {name: len(result.matching("work_pool.workers.online", work_pool_name=name)) for name in pools}
            assert online == dict.fromkeys(pools, 1), f"check run {number}"
            assert sum(series.value for series in result.matching("work_pool.workers.online")) == POOLS
        ports = {request.port for request, _ in proxy.passed}
        # A connection for each of those that send side by side, or for each request.
        assert (len(ports) <= 2 * THREADS) == keeps_alive


@pytest.mark.parametrize(("keeps_alive", "requests"), [(True, 4000), (False, 1000)], ids=["kept alive", "closed"])
@pytest.mark.usefixtures("restless_threads")
def test_a_client_that_is_used_by_eight_threads_over_tls_gets_every_answer(
    tls: ssl.SSLContext, authority_file: str, keeps_alive: bool, requests: int
) -> None:
    def echo(request: Request) -> Answer:
        answer = Answer(200, request.body, {"Content-Type": "application/json"})
        return answer if keeps_alive else hangs_up(answer)

    with RespondingServer(echo, tls) as server:
        http = RequestsWrapper({"skip_proxy": True, "tls_ca_cert": authority_file}, {})
        client = Client(http, server.url, {})
        client.start_run(budget_seconds=300)

        def ask(number: int) -> str:
            try:
                return str(client.post(f"/echo/{number}", json.loads, {"number": number})["number"])
            except Exception as error:
                return f"{type(error).__name__}: {error}"

        with ThreadPoolExecutor(THREADS) as threads:
            answers = list(threads.map(ask, range(requests)))
    wrong = [answer for number, answer in enumerate(answers) if answer != str(number)]
    assert wrong == [], f"{len(wrong)} of {requests} requests failed"
