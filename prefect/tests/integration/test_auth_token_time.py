"""A server for tokens that takes for ever takes no more of a check run than its time: health is told, and the cause."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from datadog_checks.prefect.config.settings import LEAST_BUDGET_SECONDS
from lab.loopback import LoopbackServer, QuietHandler
from lab.ports import HOST
from lab.proxy import Answer, Request, RespondingServer, terminating

from ..conftest import AgentFactory
from .tokens import BEARER, Gate, dcos_reader, new_key, oauth_reader

# Far from what is too long without a limit, and from what a busy machine adds.
TOLERANCE_SECONDS = 10.0
# When a server hangs up, so that a test of a check that would wait for ever ends.
GIVING_UP_SECONDS = 40.0
A_SECOND = 1.0

UNHURRIED = Answer(200, b'{"access_token": "a", "token": "a"}' + b" " * 10, {"Content-Type": "application/json"})

StartServer = Callable[[ExitStack, ssl.SSLContext | None], str]


@pytest.fixture(autouse=True)
def loopback_is_behind_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fetches tokens does not know the option `skip_proxy`."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


class _SlowHead(QuietHandler):
    """A header a second."""

    def respond(self) -> None:
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(int(GIVING_UP_SECONDS)):
                self.wfile.write(f"X-Filler-{number}: 1\r\n".encode())
                time.sleep(A_SECOND)
        except OSError:
            pass  # nobody waits for it any more
        self.close_connection = True


def silent(stack: ExitStack, tls: ssl.SSLContext | None) -> str:
    """It takes a request and does not answer."""
    over = threading.Event()

    def wait(_: Request) -> None:
        over.wait(GIVING_UP_SECONDS)

    server = stack.enter_context(RespondingServer(wait, tls))
    stack.callback(over.set)
    return server.url


def slow_head(stack: ExitStack, tls: ssl.SSLContext | None) -> str:
    return stack.enter_context(LoopbackServer(_SlowHead, tls)).url


def slow_body(stack: ExitStack, tls: ssl.SSLContext | None) -> str:
    answer = Answer(UNHURRIED.status, UNHURRIED.body, UNHURRIED.headers, seconds_a_byte=A_SECOND)
    return stack.enter_context(RespondingServer(lambda _: answer, tls)).url


@pytest.mark.parametrize("start", [silent, slow_head, slow_body], ids=["silent", "slow head", "slow body"])
@pytest.mark.parametrize("kind", ["oauth", "dcos"])
def test_a_token_that_does_not_come_ends_the_check_run_in_time_with_health_and_the_cause(
    agent: AgentFactory,
    gate: Gate,
    authority: trustme.CA,
    authority_file: str,
    tmp_path: Path,
    kind: str,
    start: StartServer,
) -> None:
    with ExitStack() as stack:
        reader: dict[str, Any]
        if kind == "oauth":
            url = start(stack, terminating(authority.issue_cert(HOST)))
            reader = oauth_reader(f"{url}/token", options={"verify": authority_file})
        else:
            new_key(tmp_path / "dcos.key")
            url = start(stack, None)
            reader = dcos_reader(f"{url}/token", tmp_path / "dcos.key")
        a = agent(prefect_url=f"{gate.url}/api", auth_token={"reader": reader, "writer": BEARER}, timeout=3)
        begun = time.monotonic()
        result = a.run()
        took = time.monotonic() - begun
    assert took < LEAST_BUDGET_SECONDS + TOLERANCE_SECONDS
    assert (result.gauge("health"), result.gauge("ready")) == (0, 0)
    assert "`auth_token`" in result.error
    assert f"{url}/token" in result.error
    assert "`prefect_url`" not in result.error
