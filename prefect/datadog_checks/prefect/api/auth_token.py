"""The header that the option `auth_token` makes: from a file, from OAuth, or from DC/OS.

The base class reads and writes it; when to do so is decided here. Left to itself, it would send the first request
without the token, get a new one at each refusal of whatever kind, and wait for it without end.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from requests import RequestException

from datadog_checks.prefect.credentials import is_latin

from .check_run import CheckRun
from .connection_messages import innermost, plain_words
from .errors import TokenUnavailable
from .transport import Background

# A reader that knows no timeout is left to itself after a minute, and so many of them are.
GIVEN_UP_AFTER_SECONDS = 60.0
MOST_GIVEN_UP = 3
MOST_CAUSE_CHARACTERS = 200
# Where objects are in memory, which would make each message another one.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class AuthToken:
    """The headers that hold the token; `handler` is that of `token_handler`. May be used from several threads."""

    def __init__(self, handler: Any, source: str) -> None:
        """`source` names where the token comes from, for messages."""
        self._handler = handler
        self._source = source
        self._headers: dict[str, str] = {}
        self._lock = threading.Lock()
        self._reading: Background[dict[str, str]] | None = None
        self._reading_since = 0.0
        self._given_up = 0

    def headers(self, run: CheckRun) -> Mapping[str, str]:
        """The headers for the next request. Raises `TokenUnavailable`."""
        with self._lock:
            return self._read(run)

    def renewed(self, run: CheckRun, instead_of: Mapping[str, str]) -> Mapping[str, str]:
        """The headers in place of those that the server refused, renewed once in a check run for all requests."""
        with self._lock:
            # One that stays refused is not renewed at each request.
            return self._headers if self._headers != instead_of else run.once(self._renew, run)

    def _renew(self, run: CheckRun) -> Mapping[str, str]:
        return self._read(run, error="refused")

    def _read(self, run: CheckRun, **reason: str) -> Mapping[str, str]:
        if not self._headers:
            # What a reader has, it keeps, be it of no use.
            reason = {"error": "there is no token yet"}
        try:
            written = self._background(reason).result(run.time.seconds_left())
        except TimeoutError:
            raise TokenUnavailable(self._source, "it did not come in time") from None
        except Exception as error:  # each reader raises errors of its own
            self._reading = None
            raise TokenUnavailable(self._source, _cause(error)) from None
        self._reading = None
        # A reader that still has a good token writes none.
        if not written and reason:
            raise TokenUnavailable(self._source, "there is no access token")
        for name, value in written.items():
            if not value.isprintable() or not is_latin(value) or value != value.strip():
                raise TokenUnavailable(self._source, f"it is empty, or cannot be sent in a header `{name}`")
        self._headers = written or self._headers
        return self._headers

    def _background(self, reason: Mapping[str, str]) -> Background[dict[str, str]]:
        is_stuck = time.monotonic() - self._reading_since > GIVEN_UP_AFTER_SECONDS
        if self._reading is not None and is_stuck and self._given_up < MOST_GIVEN_UP:
            self._reading, self._given_up = None, self._given_up + 1
        if self._reading is None:
            self._reading, self._reading_since = Background(lambda: self._poll(reason)), time.monotonic()
        return self._reading

    def _poll(self, reason: Mapping[str, str]) -> dict[str, str]:
        written: dict[str, str] = {}
        self._handler.poll(default_options={"headers": written}, **reason)
        return written


def _cause(error: Exception) -> str:
    """What went wrong, without what was sent or came back, which may hold secrets."""
    if isinstance(error, RequestException):
        status = getattr(error.response, "status_code", None)
        return f"status {status}" if status else plain_words(innermost(error))
    if isinstance(error, OSError) and error.filename:
        return error.strerror or type(error).__name__
    if isinstance(error, (TypeError, AttributeError, KeyError)) or "dictionary update" in str(error):
        return "what comes back is no JSON object with an access token that is a text"
    words = ADDRESS.sub("", " ".join(str(error).split()))
    return f"{type(error).__name__}: {words[:MOST_CAUSE_CHARACTERS]}"
