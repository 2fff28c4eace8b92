"""The header that the option `auth_token` sets, with a token from a file, OAuth or DC/OS.

The base class gets the token and writes the header; this module decides when. On its own, the base class would send
the first request without a token, get a new token after any refused request, and wait for it without a timeout.
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

# A reader without a timeout that is stuck for this long is abandoned, up to this many times.
GIVEN_UP_AFTER_SECONDS = 60.0
MOST_GIVEN_UP = 3
MOST_CAUSE_CHARACTERS = 200
# Addresses of objects in memory, which would make each message different.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class AuthToken:
    """The headers that hold the token. `handler` comes from `token_handler`. Thread-safe."""

    def __init__(self, handler: Any, source: str) -> None:
        """`source` says in messages where the token comes from."""
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
        """Headers to use instead of those that the server refused. Raises `TokenUnavailable`.

        The token is renewed at most once in a check run.
        """
        with self._lock:
            # Another thread may have renewed it already. A new token that is refused too is not renewed again.
            return self._headers if self._headers != instead_of else run.once(self._renew, run)

    def _renew(self, run: CheckRun) -> Mapping[str, str]:
        return self._read(run, error="refused")

    def _read(self, run: CheckRun, **reason: str) -> Mapping[str, str]:
        if not self._headers:
            # Without a reason to renew, a reader would keep its token, even an unusable one.
            reason = {"error": "there is no token yet"}
        try:
            written = self._background(reason).result(run.time.seconds_left())
        except TimeoutError:
            raise TokenUnavailable(self._source, "it did not arrive in time") from None
        except Exception as error:  # each reader raises its own types of errors
            self._reading = None
            raise TokenUnavailable(self._source, _cause(error)) from None
        self._reading = None
        # A reader whose token is still valid writes nothing, unless there is a reason to renew it.
        if not written and reason:
            raise TokenUnavailable(self._source, "no access token was returned")
        for name, value in written.items():
            if not value.isprintable() or not is_latin(value) or value != value.strip():
                raise TokenUnavailable(self._source, f"the token is empty or cannot be sent in the header `{name}`")
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
    """What went wrong, without the contents of requests and responses, which may hold secrets."""
    if isinstance(error, RequestException):
        status = getattr(error.response, "status_code", None)
        return f"status {status}" if status else plain_words(innermost(error))
    if isinstance(error, OSError) and error.filename:
        return error.strerror or type(error).__name__
    if isinstance(error, (TypeError, AttributeError, KeyError)) or "dictionary update" in str(error):
        return "the response is not a JSON object with an access token that is a string"
    words = ADDRESS.sub("", " ".join(str(error).split()))
    return f"{type(error).__name__}: {words[:MOST_CAUSE_CHARACTERS]}"
