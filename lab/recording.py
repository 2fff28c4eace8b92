"""What a real server answered, kept to be answered again in the same process, where sockets would take too long."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

IDENTITY = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d)")
KEPT_HEADERS = ("Content-Type", "Date")
WORKERS = re.compile(r"/work_pools/[^/]*/workers/")

ADAPTER = HTTPAdapter()

Send = Callable[..., requests.Response]


@dataclass(frozen=True)
class RecordedAnswer:
    """The status, headers and whole body of an answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Recording:
    """Answers by the endpoint that gave them, and by what it was asked for, apart from ids and times.

    What the server refused is in `refusals` instead.
    """

    def __init__(self) -> None:
        self.refusals: list[RecordedAnswer] = []
        self._answers: dict[str, dict[str, list[RecordedAnswer]]] = defaultdict(lambda: defaultdict(list))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._answers))

    def add(self, request: requests.PreparedRequest, answer: RecordedAnswer) -> None:
        if answer.status < 400:
            self._answers[endpoint_of(request)][question_of(request)].append(answer)
        else:
            self.refusals.append(answer)

    def choose(self, request: requests.PreparedRequest, dice: Random) -> RecordedAnswer:
        """An answer to a like question, else any of the endpoint's; 404 from an endpoint that was not recorded."""
        questions = self._answers.get(endpoint_of(request), {})
        alike = questions.get(question_of(request)) or [answer for answers in questions.values() for answer in answers]
        return dice.choice(alike) if alike else RecordedAnswer(404, b'{"detail": "Not Found"}')


def endpoint_of(request: requests.PreparedRequest) -> str:
    """The method and the path, the same for all pools."""
    return f"{request.method} {WORKERS.sub('/work_pools/*/workers/', urlsplit(request.url or '').path)}"


def question_of(request: requests.PreparedRequest) -> str:
    """What is asked for, the same for all ids and times."""
    body = request.body or b""
    text = IDENTITY.sub("id", body.decode() if isinstance(body, bytes) else body)
    return re.sub(r'"id"(?:, *"id")+', '"id"', MOMENT.sub("time", text))


@contextmanager
def recorded(recording: Recording) -> Iterator[None]:
    """Put all that is answered meanwhile to this process into the recording."""

    def send(original: Send, adapter: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> Any:
        response = original(adapter, request, **options)
        # The body is kept unpacked, so without the headers that tell how it was packed.
        headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        answer = RecordedAnswer(response.status_code, response.content, headers)
        recording.add(request, answer)
        return response_of(request, answer)

    with _instead_of_sending(send):
        yield


@contextmanager
def answered_by(answer: Callable[[requests.PreparedRequest], RecordedAnswer]) -> Iterator[None]:
    """Let `answer` take the place of the network for this process."""
    with _instead_of_sending(lambda _, __, request, **options: response_of(request, answer(request))):
        yield


@contextmanager
def _instead_of_sending(send: Callable[..., requests.Response]) -> Iterator[None]:
    original = HTTPAdapter.send
    is_over = False

    def instead(adapter: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        # The adapters of a check that is made meanwhile keep this method for good.
        return HTTPAdapter.send(adapter, request, **options) if is_over else send(original, adapter, request, **options)

    try:
        with patch.object(HTTPAdapter, "send", instead):
            yield
    finally:
        is_over = True


def response_of(request: requests.PreparedRequest, answer: RecordedAnswer) -> requests.Response:
    """The answer as requests makes it of what came over a socket, with all that urllib3 does to it on the way."""
    raw = HTTPResponse(
        body=io.BytesIO(answer.body),
        headers=dict(answer.headers),
        status=answer.status,
        preload_content=False,
        request_method=request.method,
    )
    response: requests.Response = ADAPTER.build_response(request, raw)
    return response
