"""A proxy between the check and a real Prefect server that spoils answers and delays events, all by a seed."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Any
from urllib.parse import urlsplit

import requests

from .errors import LabError
from .late_events import LateEvents
from .loopback import LoopbackServer, QuietHandler

FORWARDED_HEADERS = ("Accept", "Authorization", "Content-Type", "Prefect-Csrf-Client", "Prefect-Csrf-Token")
RETURNED_HEADERS = ("Content-Type", "Date", "Location")
FORWARDING_SECONDS = 60.0
SLOW_SECONDS = 0.03

HTML = b"<!DOCTYPE html><html><body>Please sign in</body></html>"


class Fault(Enum):
    """What may become of a request instead of its answer; the values are for people."""

    UNAVAILABLE = "503"
    ERROR = "500"
    BAD_GATEWAY = "502"
    TOO_MANY = "429 with Retry-After"
    DROPPED_UNREAD = "connection dropped before the request was read"
    DROPPED_READ = "connection dropped after the request was read"
    HALF_BODY = "half of the announced body"
    HALF_CHUNKED = "chunked body broken off"
    HTML = "HTML with status 200"
    CUT_JSON = "JSON cut in the middle"
    SLOW = "slow answer"


STATUSES = {Fault.UNAVAILABLE: 503, Fault.ERROR: 500, Fault.BAD_GATEWAY: 502, Fault.TOO_MANY: 429}


@dataclass(frozen=True)
class ProxiedAnswer:
    """The status, headers and whole body of an answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class FaultProxy(LoopbackServer):
    """Forwards to the server at `target`, its URL without a path, and deals a fault to a share `rate` of the requests.

    Which ones depends on the seed, the number of the check run, and how many times the run asked for a path: the same
    requests have the same fate in each replay. `events`, where given, answers requests for events instead of the
    server. `before_request` is called with the number of the run and of the request within it before each request is
    dealt with, so that things can happen in the middle of a check run. As a context manager it listens from entry to
    exit.
    """

    def __init__(self, target: str, seed: int, rate: float, events: LateEvents | None = None) -> None:
        class Handler(_Handler):
            proxy = self

        super().__init__(Handler)
        self.rate = rate
        self.before_request: Callable[[int, int], None] = lambda run, number: None
        self.requests = 0
        self.dealt: Counter[Fault] = Counter()
        self.problems: list[str] = []
        self._target = target
        self._seed = seed
        self._events = events
        self._run = 0
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def begin_run(self) -> None:
        """A check run begins: dice are cast anew, and events that are late come nearer."""
        with self._lock:
            self._run += 1
            self._asked.clear()
            if self._events is not None:
                self._events.begin_run()

    def deal(self, method: str, path: str) -> tuple[Fault | None, Random]:
        """The fate of the next request, and dice for its details."""
        with self._lock:
            self.before_request(self._run, self._asked.total())
            self.requests += 1
            request = f"{method} {urlsplit(path).path}"
            self._asked[request] += 1
            dice = Random(f"{self._seed}/{self._run}/{request}/{self._asked[request]}")
            if dice.random() >= self.rate:
                return None, dice
            fault = dice.choice(list(Fault))
            self.dealt[fault] += 1
            return fault, dice

    def answer(
        self, session: requests.Session, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> ProxiedAnswer:
        """The true answer to a request."""
        page = self._page_of_events(method, path, body)
        if page is not None:
            return ProxiedAnswer(200, json.dumps(page).encode(), {"Content-Type": "application/json"})
        answer = session.request(
            method,
            self._target + path,
            data=body,
            headers={name: headers[name] for name in FORWARDED_HEADERS if name in headers},
            timeout=FORWARDING_SECONDS,
            allow_redirects=False,
        )
        returned = {name: answer.headers[name] for name in RETURNED_HEADERS if name in answer.headers}
        return ProxiedAnswer(answer.status_code, answer.content, returned)

    def _page_of_events(self, method: str, path: str, body: bytes) -> dict[str, Any] | None:
        if self._events is None:
            return None
        request = method, urlsplit(path).path.removeprefix("/api")
        with self._lock:
            if request == ("POST", "/events/filter"):
                return self._events.first_page(json.loads(body or b"{}"))
            if request == ("GET", "/events/filter/next"):
                return self._events.next_page(path)
        return None


class _Handler(QuietHandler):
    proxy: FaultProxy

    def setup(self) -> None:
        super().setup()
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor a .netrc

    def finish(self) -> None:
        self._session.close()
        super().finish()

    def respond(self) -> None:
        try:
            self._deal()
        except ConnectionError:
            self.close_connection = True  # the check did not wait for all of the answer
        except (LabError, requests.RequestException) as error:
            self.proxy.problems.append(f"{self.command} {self.path}: {error}")
            self._send(ProxiedAnswer(500, b'{"detail": "the laboratory itself is at fault"}'))

    def _deal(self) -> None:
        fault, dice = self.proxy.deal(self.command, self.path)
        if fault is Fault.DROPPED_UNREAD:
            self.close_connection = True
            return
        body = self.read_body()
        if fault in STATUSES:
            headers = {"Retry-After": str(dice.randint(0, 1))} if fault is Fault.TOO_MANY else {}
            self._send(ProxiedAnswer(STATUSES[fault], b'{"detail": "spoilt"}', headers))
        elif fault is Fault.HTML:
            self._send(ProxiedAnswer(200, HTML, {"Content-Type": "text/html"}))
        else:
            answer = self.proxy.answer(self._session, self.command, self.path, dict(self.headers), body)
            self._send_spoilt(fault, answer)

    def _send_spoilt(self, fault: Fault | None, answer: ProxiedAnswer) -> None:
        half = answer.body[: len(answer.body) // 2]
        if fault is Fault.DROPPED_READ:
            self.close_connection = True
        elif fault is Fault.HALF_BODY:
            self._send_head(answer, "Content-Length", str(len(answer.body)))
            self.wfile.write(half)
            self.close_connection = True
        elif fault is Fault.HALF_CHUNKED:
            self._send_head(answer, "Transfer-Encoding", "chunked")
            if half:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(half), half))
            self.close_connection = True
        elif fault is Fault.CUT_JSON and not _is_json(half):
            self._send(ProxiedAnswer(answer.status, half, answer.headers))
        elif fault is Fault.CUT_JSON:
            self._send(ProxiedAnswer(503, b""))  # half a number is a number, and no client could tell
        else:
            if fault is Fault.SLOW:
                time.sleep(SLOW_SECONDS)
            self._send(answer)

    def _send(self, answer: ProxiedAnswer) -> None:
        self._send_head(answer, "Content-Length", str(len(answer.body)))
        self.wfile.write(answer.body)

    def _send_head(self, answer: ProxiedAnswer, name: str, value: str) -> None:
        self.send_response_only(answer.status)
        for header, content in {"Date": self.date_time_string(), **answer.headers, name: value}.items():
            self.send_header(header, content)
        self.end_headers()


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
