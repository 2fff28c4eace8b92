"""A network that answers as it is told, in the place of `RequestsWrapper`, and a clock that moves only by waiting."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from urllib3 import HTTPResponse

from datadog_checks.prefect.api.client import Client
from datadog_checks.prefect.api.clock import ServerClock

URL = "http://prefect.test:4200/api"


class Time:
    """A monotonic clock and the sleep that moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@dataclass
class FakeResponse:
    """An answer of the network; chunks of the body may be errors, to be raised in their place."""

    status_code: int = 200
    chunks: tuple[bytes | Exception, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    closed: bool = False

    @property
    def raw(self) -> FakeBody | HTTPResponse:
        if "Content-Encoding" in self.headers:
            packed = b"".join(chunk for chunk in self.chunks if isinstance(chunk, bytes))
            return HTTPResponse(io.BytesIO(packed), self.headers, preload_content=False)
        return FakeBody(self)

    def close(self) -> None:
        self.closed = True


class FakeBody:
    """The body of a response, as urllib3 gives it to who reads what is there."""

    connection = None

    def __init__(self, response: FakeResponse) -> None:
        self._response = response
        self._chunks = iter(response.chunks)

    def read1(self, _: int, decode_content: bool) -> bytes:
        assert decode_content
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if chunk:
                return chunk
        return b""


def answer(body: object = None, status: int = 200, **headers: str) -> FakeResponse:
    """An answer with JSON in it; headers are given with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return FakeResponse(status, (json.dumps(body).encode(),), named)


@dataclass(frozen=True)
class Sent:
    """A request as the wrapper got it."""

    method: str
    url: str
    options: dict[str, Any]


Outcome = FakeResponse | Exception | Callable[[], FakeResponse]


class FakeHttp:
    """Gives the outcomes it was made with, one a request, the last one for ever."""

    def __init__(self, *outcomes: Outcome, timeout: tuple[float, float] = (10.0, 10.0)) -> None:
        self.options = {"timeout": timeout}
        # What the client makes keep to its time; nothing is sent with it.
        self.session = requests.Session()
        self.sent: list[Sent] = []
        self._outcomes = list(outcomes)

    def get(self, url: str, **options: Any) -> FakeResponse:
        return self._next("get", url, options)

    def post(self, url: str, **options: Any) -> FakeResponse:
        return self._next("post", url, options)

    def _next(self, method: str, url: str, options: dict[str, Any]) -> FakeResponse:
        self.sent.append(Sent(method, url, options))
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome() if callable(outcome) else outcome


def client_of(http: FakeHttp, time: Time, budget: float = 15.0, headers: Mapping[str, str] | None = None) -> Client:
    """A client on that network, at the beginning of a check run."""
    client = Client(
        http,  # type: ignore[arg-type]
        URL,
        headers or {},
        clock=lambda: ServerClock(wall=time.monotonic, monotonic=time.monotonic),
        sleep=time.sleep,
        monotonic=time.monotonic,
    )
    client.start_run(budget)
    return client
