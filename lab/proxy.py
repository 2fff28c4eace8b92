"""Servers on the loopback interface that are not Prefect, and a proxy that spoils some of Prefect's answers."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import requests
import trustme

from .loopback import LoopbackServer, QuietHandler

# The host is the one that the client knows, which the server takes for its own, and http for the scheme.
FORWARDED_HEADERS = ("Accept", "Authorization", "Content-Type", "Host", "Prefect-Csrf-Client", "Prefect-Csrf-Token")
RETURNED_HEADERS = ("Content-Type", "Date", "Location", "Retry-After")
FORWARDING_SECONDS = 60.0


@dataclass(frozen=True)
class Request:
    """`port` is the client's, the same for all requests of one connection."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    port: int


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; one that is `cut_off` has only half of the body that it announces.

    `seconds_a_byte` is how long the server takes for each byte of the body.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_off: bool = False
    seconds_a_byte: float = 0.0


# What becomes of an answer; None closes the connection without one.
Fault = Callable[[Answer], Answer | None]


class RespondingServer(LoopbackServer):
    """Gives to each request the answer of `respond`, or closes the connection where that is None."""

    def __init__(self, respond: Callable[[Request], Answer | None], tls: ssl.SSLContext | None = None) -> None:
        class Handler(_Handler):
            def answer_to(self, request: Request) -> Answer | None:
                return respond(request)

        super().__init__(Handler, tls)


class Proxy(RespondingServer):
    """Forwards everything to the server at `target`, and spoils what it was told to.

    What it serves at the path `prefix`, of which the server knows nothing, is what the server has at `beneath`.
    `passed` lists the requests with the status that came back.
    """

    def __init__(self, target: str, prefix: str = "", tls: ssl.SSLContext | None = None, beneath: str = "") -> None:
        super().__init__(self._respond, tls)
        self._target = target + beneath
        self._prefix = prefix
        self._withheld: set[str] = set()
        self.passed: list[tuple[Request, int]] = []
        self._lock = threading.Lock()
        self._faults: list[tuple[re.Pattern[str], Fault, int | None]] = []

    def spoil(self, path: str, fault: Fault, times: int | None = None) -> None:
        """Let `fault` change the answers to paths in which the pattern `path` is found, all or the next `times`."""
        with self._lock:
            self._faults.append((re.compile(path), fault, times))

    def withhold(self, header: str) -> None:
        """Pass this header of requests on no more."""
        self._withheld.add(header)

    def heal(self) -> None:
        with self._lock:
            self._faults.clear()

    def _respond(self, request: Request) -> Answer | None:
        if not request.path.startswith(f"{self._prefix}/"):
            return Answer(404, b"nothing here", {"Content-Type": "text/plain"})
        answer: Answer | None = self._forward(request)
        for fault in self._faults_for(request.path):
            answer = fault(answer) if answer is not None else None
        return answer

    def _faults_for(self, path: str) -> list[Fault]:
        with self._lock:
            applied, kept = [], []
            for pattern, fault, times in self._faults:
                hit = pattern.search(path) is not None
                left = times - 1 if times is not None and hit else times
                if hit:
                    applied.append(fault)
                if left != 0:
                    kept.append((pattern, fault, left))
            self._faults = kept
            return applied

    def _forward(self, request: Request) -> Answer:
        forwarded = [name for name in FORWARDED_HEADERS if name in request.headers and name not in self._withheld]
        headers = {name: request.headers[name] for name in forwarded}
        with requests.Session() as session:
            session.trust_env = False  # neither a proxy nor a .netrc
            answer = session.request(
                request.method,
                self._target + request.path.removeprefix(self._prefix),
                data=request.body,
                headers=headers,
                timeout=FORWARDING_SECONDS,
                allow_redirects=False,
            )
        with self._lock:
            self.passed.append((request, answer.status_code))
        returned = {name: answer.headers[name] for name in RETURNED_HEADERS if name in answer.headers}
        return Answer(answer.status_code, answer.content, returned)


def terminating(certificate: trustme.LeafCert, clients: trustme.CA | None = None) -> ssl.SSLContext:
    """TLS with this certificate; with `clients`, only for those that have a certificate of that authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    if clients:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def fails_with(status: int, **headers: str) -> Fault:
    """An error page of that status; `Retry_After="1"` becomes the header Retry-After."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Answer(status, b'{"detail": "spoilt"}', {"Content-Type": "application/json", **named})


def is_html(_: Answer) -> Answer:
    """A page of HTML with status 200, as of a proxy's login."""
    return Answer(200, b"<html><body>Sign in</body></html>", {"Content-Type": "text/html"})


def is_dropped(_: Answer) -> None:
    """No answer: the connection is closed."""


def is_cut_off(answer: Answer) -> Answer:
    return replace(answer, cut_off=True)


def trickles(answer: Answer) -> Answer:
    """A byte a second, all the time as if the answer were about to be complete."""
    return replace(answer, seconds_a_byte=1.0)


def with_objects(change: Callable[[dict[str, Any]], None]) -> Fault:
    """The same answer with each object of its list, or of its page of events, changed in place by `change`."""

    def fault(answer: Answer) -> Answer:
        document = json.loads(answer.body)
        for item in document if isinstance(document, list) else document["events"]:
            change(item)
        return replace(answer, body=json.dumps(document).encode())

    return fault


def with_clock_ahead(ahead: timedelta) -> Fault:
    """The same answer from a server whose clock is ahead."""

    def fault(answer: Answer) -> Answer:
        date = format_datetime(parsedate_to_datetime(answer.headers["Date"]) + ahead, usegmt=True)
        return replace(answer, headers={**answer.headers, "Date": date})

    return fault


def without_event(event_id: str) -> Fault:
    """The same page of events as if this one were still on its way."""

    def fault(answer: Answer) -> Answer:
        page = json.loads(answer.body)
        there = [event for event in page["events"] if event["id"] != event_id]
        page["total"] -= len(page["events"]) - len(there)
        return replace(answer, body=json.dumps({**page, "events": there}).encode())

    return fault


class _Handler(QuietHandler):
    def answer_to(self, request: Request) -> Answer | None:
        raise NotImplementedError

    def respond(self) -> None:
        headers, port = dict(self.headers.items()), self.client_address[1]
        answer = self.answer_to(Request(self.command, self.path, headers, self.read_body(), port))
        if answer is None:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.cut_off:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.close_connection = True
        elif answer.seconds_a_byte:
            self._trickle(answer)
        else:
            self.wfile.write(answer.body)

    def _trickle(self, answer: Answer) -> None:
        try:
            for number in range(len(answer.body)):
                self.wfile.write(answer.body[number : number + 1])
                time.sleep(answer.seconds_a_byte)
        except ConnectionError:
            self.close_connection = True  # nobody waits for it any more
