"""The transport: one HTTP request with its retries, within the time that a check run may take."""

from __future__ import annotations

import io
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError, ReadTimeoutError

from datadog_checks.base.utils.http import RequestsWrapper
from datadog_checks.prefect.clock import ServerClock, http_date
from datadog_checks.prefect.credentials import Credentials

from .errors import (
    AccessDenied,
    ApiError,
    CsrfTokenRefused,
    NotPrefect,
    OutOfTime,
    Redirected,
    Rejected,
    TlsFilesUnusable,
    UnexpectedAnswer,
    Unreachable,
)
from .failures import innermost, plain_words, tls_error

ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.25
WORTH_RETRYING = frozenset({429, 502, 503, 504})
# Less than this is not enough for an answer; what is left of the budget goes to the next check run.
LEAST_TIMEOUT_SECONDS = 0.05
CHUNK_BYTES = 65536
# A page of 200 runs whose parameters are as large as Prefect lets them be is half of it.
MOST_BODY_BYTES = 256 * 1024 * 1024

# A CSRF token is renewed when a quarter of its life is left, or a minute.
CSRF_MARGIN = timedelta(minutes=1)

PROXY_WANTS_PASSWORD = "Tunnel connection failed: 407"

NO_URL = "a place that is no URL"

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Answer:
    """What came back: the status, the headers, and the body in full."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class _CsrfToken:
    """A token, and when to have a new one, by the server's clock; None where the server does not say."""

    headers: Mapping[str, str] = field(repr=False)
    renew_at: datetime | None


class _Authorization(AuthBase):
    """Sends the header `Authorization` as it is given, or as the instance's headers have it when None.

    Without one, requests would take user and password from a `.netrc` of the Agent's user.
    """

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request


class _Transient(Exception):
    """Worth another try; carries the error to end in, and how long the server asks to wait."""

    def __init__(self, error: ApiError, wait_seconds: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_seconds = wait_seconds


class Client:
    """Sends requests to one Prefect API.

    It keeps connections alive, never follows a redirect, tries again what a busy server or a bad network broke, and
    stops when the check run's time is used up. Requests may be sent from several threads. `url` has no trailing slash;
    `headers` go with every request.
    `has_answered` tells whether there was an answer, be it any, in this check run.
    """

    def __init__(
        self,
        http: RequestsWrapper,
        url: str,
        clock: ServerClock,
        headers: Mapping[str, str],
        credentials: Credentials | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.clock = clock
        self._http = http
        self._headers = dict(headers)
        # One for the life of the check: each client has one token, and a new one voids it.
        self._csrf_client = str(uuid.uuid4())
        self._csrf_token: _CsrfToken | None = None
        self._csrf_lock = threading.Lock()
        self._clock_lock = threading.Lock()
        self._credentials = credentials or Credentials()
        # Where an option of the base class makes the header, requests has its own object for it.
        self._auth: dict[str, Any] = {}
        if self._credentials.authorization or not http.options.get("auth"):
            self._auth = {"auth": _Authorization(self._credentials.authorization)}
        self._sleep = sleep
        self._monotonic = monotonic
        self._budget = 0.0
        self._deadline = 0.0
        self._hold_until = 0.0
        self.has_answered = False

    def begin_run(self, budget_seconds: float) -> None:
        """Start the time that the requests of one check run may take together."""
        self._budget = budget_seconds
        self._deadline = self._monotonic() + budget_seconds
        self._hold_until = 0.0
        self.has_answered = False
        self.clock.begin_run()

    def seconds_left(self) -> float:
        return max(0.0, self._deadline - self._monotonic())

    def get(self, path: str, parse: Callable[[bytes], Parsed], params: Mapping[str, str] | None = None) -> Parsed:
        """The parsed answer to a GET; see `post`."""
        return self._ask("get", path, parse, params=params)

    def post(self, path: str, parse: Callable[[bytes], Parsed], body: Mapping[str, Any]) -> Parsed:
        """The parsed answer to a POST of JSON.

        `parse` raises `ValueError` for a body that is not what was asked for, or `RecursionError` as parsers of JSON
        do for one that is nested without end. Raises `ApiError`.
        """
        return self._ask("post", path, parse, json=body)

    def status_of(self, path: str) -> Answer:
        """The answer to a GET whatever its status; raises `ApiError` when there is none."""
        return self._retrying(f"GET {path}", lambda: self._exchange("get", path))

    def _ask(self, method: str, path: str, parse: Callable[[bytes], Parsed], **options: Any) -> Parsed:
        request = f"{method.upper()} {path}"

        def attempt() -> Parsed:
            token = self._csrf_token_of_now()
            answer = self._exchange(method, path, token, **options)
            if _wants_csrf_token(answer):
                token = self._new_csrf_token(instead_of=token)
                answer = self._exchange(method, path, token, **options)
                if _wants_csrf_token(answer):
                    raise CsrfTokenRefused(self.url, answer.status)
            self._refuse_bad_status(request, path, answer)
            try:
                return parse(answer.body)
            except (ValueError, RecursionError) as error:
                raise _Transient(self._not_as_expected(request, answer, error)) from None

        return self._retrying(request, attempt)

    def _retrying(self, request: str, attempt: Callable[[], Parsed]) -> Parsed:
        for number in range(ATTEMPTS):
            self._wait_for_hold(request)
            try:
                return attempt()
            except _Transient as failure:
                last = failure
            if number + 1 < ATTEMPTS:
                wait = FIRST_WAIT_SECONDS * 2**number * random.uniform(0.5, 1.5)
                self._hold_until = self._monotonic() + max(wait, last.wait_seconds)
                if self._hold_until >= self._deadline:
                    break
        raise last.error

    def _wait_for_hold(self, request: str) -> None:
        if self._hold_until >= self._deadline:
            raise OutOfTime(request, self._budget)
        if (wait := self._hold_until - self._monotonic()) > 0:
            self._sleep(wait)

    def _exchange(self, method: str, path: str, csrf_token: _CsrfToken | None = None, **options: Any) -> Answer:
        """One request and its whole answer; busy servers and broken connections are `_Transient`."""
        request = f"{method.upper()} {path}"
        sent = self._monotonic()
        left = self._deadline - sent
        if left <= LEAST_TIMEOUT_SECONDS:
            raise OutOfTime(request, self._budget)
        connect, read = self._http.options["timeout"]
        timeout = (min(connect, left), min(read, left))
        try:
            response = getattr(self._http, method)(
                self.url + path,
                persist=True,
                stream=True,
                allow_redirects=False,
                timeout=timeout,
                extra_headers={**self._headers, **(csrf_token.headers if csrf_token else {})},
                **self._auth,
                **options,
            )
            try:
                body = self._read_body(request, response, max(timeout))
                answer = Answer(response.status_code, response.headers, body)
            finally:
                response.close()
        except requests.exceptions.SSLError as error:
            raise tls_error(self.url, innermost(error)) from None
        except (requests.exceptions.RequestException, HTTPError) as error:
            raise self._no_answer(request, max(timeout), error) from None
        except ValueError:
            # requests looks at where a redirect leads even when it is not to follow it.
            raise Redirected(self.url, NO_URL) from None
        except OSError as error:
            # Not from the network, whose errors requests wraps, but from reading the files of the TLS options.
            raise TlsFilesUnusable(self.url, plain_words(error)) from None
        self.has_answered = True
        with self._clock_lock:
            self.clock.observe(answer.headers.get("Date"), sent, self._monotonic())
        if answer.status in WORTH_RETRYING:
            busy = Rejected(request, answer.status, _detail(answer.body))
            raise _Transient(busy, _retry_after_seconds(answer.headers))
        return answer

    def _no_answer(self, request: str, timeout_seconds: float, error: Exception) -> Exception:
        """What to raise when a connection fails: a lost one is worth another try, one that keeps us waiting is not."""
        cause = innermost(error)
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return Unreachable(self.url, f"no connection to {request} within {timeout_seconds:.3g} s")
        if isinstance(error, requests.exceptions.Timeout) or isinstance(cause, (ReadTimeoutError, TimeoutError)):
            if self._monotonic() >= self._deadline:
                return OutOfTime(request, self._budget)
            return Unreachable(self.url, f"no answer to {request} within {timeout_seconds:.3g} s")
        words = plain_words(cause)
        if isinstance(error, requests.exceptions.ProxyError):
            if PROXY_WANTS_PASSWORD in str(cause):
                return AccessDenied(self.url, 407, ("proxy",))
            words = f"the HTTP proxy on the way, see `proxy` and `skip_proxy`, gives no connection ({words})"
        if self.url.startswith("https:") and isinstance(cause, (ConnectionResetError, BrokenPipeError)):
            # With TLS 1.3 the alert that says so may be lost with the connection.
            words += " (as a proxy does that wants a client certificate, which `tls_cert` names)"
        return _Transient(Unreachable(self.url, words))

    def _read_body(self, request: str, response: requests.Response, timeout_seconds: float) -> bytes:
        """The whole body, read as it comes: who asks for more waits for all of it, however slowly it trickles in."""
        raw = response.raw
        parts = io.BytesIO()
        while (left := self._deadline - self._monotonic()) > 0:
            # A connection that is not kept alive has given its socket away; then the last wait may be too long.
            if raw.connection is not None and raw.connection.sock is not None:
                raw.connection.sock.settimeout(min(left, timeout_seconds))
            # Unpacked, it would only return when some bytes can be.
            part = raw.read1(CHUNK_BYTES, decode_content=False)
            if not part:
                return _unpacked(request, parts.getvalue(), response.headers.get("Content-Encoding"))
            if parts.tell() + len(part) > MOST_BODY_BYTES:
                raise _too_long(request)
            parts.write(part)
        raise OutOfTime(request, self._budget)

    @property
    def has_csrf_token(self) -> bool:
        """Whether the server has asked for a CSRF token."""
        return self._csrf_token is not None

    def _csrf_token_of_now(self) -> _CsrfToken | None:
        """The token, or a new one before the server refuses it; None as long as it has not asked for one."""
        token = self._csrf_token
        if token is None or token.renew_at is None or self.clock.now() < token.renew_at:
            return token
        try:
            return self._new_csrf_token(instead_of=token)
        except Rejected:
            # The protection was switched off, or the server is another one: whether it wants a token will show.
            self._csrf_token = None
            return None

    def _new_csrf_token(self, instead_of: _CsrfToken | None) -> _CsrfToken:
        """The token that replaces one; of requests that run side by side, the first gets it for all."""
        with self._csrf_lock:
            if self._csrf_token is None or self._csrf_token is instead_of:
                self._csrf_token = self._fetch_csrf_token()
            return self._csrf_token

    def _fetch_csrf_token(self) -> _CsrfToken:
        """Get the token that a server with CSRF protection wants with each POST."""
        answer = self._exchange("get", "/csrf-token", params={"client": self._csrf_client})
        self._refuse_bad_status("GET /csrf-token", "/csrf-token", answer)
        try:
            document = json.loads(answer.body)
            headers = {"Prefect-Csrf-Token": str(document["token"]), "Prefect-Csrf-Client": self._csrf_client}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._not_as_expected("GET /csrf-token", answer, error) from None
        return _CsrfToken(headers, _renewal_time(document.get("expiration"), self.clock.now()))

    def _refuse_bad_status(self, request: str, path: str, answer: Answer) -> None:
        if 200 <= answer.status < 300:
            return
        if 300 <= answer.status < 400:
            target, elsewhere = _redirect_target(self.url, path, answer.headers.get("Location"))
            raise Redirected(self.url, target, elsewhere)
        if answer.status == 407:
            raise AccessDenied(self.url, answer.status, ("proxy",))
        if answer.status in (401, 403):
            raise AccessDenied(self.url, answer.status, self._credentials.options)
        raise Rejected(request, answer.status, _detail(answer.body))

    def _not_as_expected(self, request: str, answer: Answer, error: Exception) -> ApiError:
        if "html" in answer.headers.get("Content-Type", "") or answer.body.lstrip()[:1] == b"<":
            return NotPrefect(self.url, f"{request} gives a page of HTML, such as a proxy's login, where JSON belongs")
        return UnexpectedAnswer(request, f"the answer is not what Prefect sends ({type(error).__name__})")


def _unpacked(request: str, body: bytes, encoding: str | None) -> bytes:
    if not encoding:
        return body
    packed = HTTPResponse(io.BytesIO(body), {"Content-Encoding": encoding}, preload_content=False)
    unpacked = packed.read(MOST_BODY_BYTES + 1, decode_content=True)
    if len(unpacked) > MOST_BODY_BYTES:
        raise _too_long(request)
    return unpacked


def _too_long(request: str) -> UnexpectedAnswer:
    return UnexpectedAnswer(request, f"the answer is longer than {MOST_BODY_BYTES >> 20} MiB")


def _redirect_target(url: str, path: str, location: str | None) -> tuple[str, bool]:
    """What to configure in place of `url` for the request to arrive; without a query, which may hold a token.

    And whether the redirect leads to another path than the one that was asked for.
    """
    if not location:
        return "a place that it does not name", False
    try:
        target = urlsplit(urljoin(url + path, location))
    except ValueError:
        return NO_URL, False
    host = target.netloc.rpartition("@")[2]
    found = target.path.rstrip("/")
    return f"{target.scheme}://{host}{found.removesuffix(path)}", not found.endswith(path.rstrip("/"))


def _renewal_time(expiration: Any, now: datetime) -> datetime | None:
    try:
        until = datetime.fromisoformat(str(expiration))
    except ValueError:
        return None
    if until.tzinfo is None:
        return None
    return until - min(CSRF_MARGIN, (until - now) / 4)


def _wants_csrf_token(answer: Answer) -> bool:
    return answer.status == 403 and "csrf token" in _detail(answer.body).lower()


def _detail(body: bytes) -> str:
    """The server's own words for what it refused, in one short line."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return str(detail)[:200]


def _retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait, given as a number or as a date; 0 where it does not."""
    header = headers.get("Retry-After") or ""
    try:
        seconds = float(header)
    except ValueError:
        until, now = http_date(header), http_date(headers.get("Date"))
        seconds = (until - now).total_seconds() if until and now else 0.0
    return seconds if seconds > 0 else 0.0
