"""Sends one HTTP request with its retries, within the time budget of the check run."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, ReadTimeoutError

from datadog_checks.base.utils.http import RequestsWrapper
from datadog_checks.prefect.credentials import Credentials, token_handler, token_source

from .auth_token import AuthToken
from .body import AnswerMemory, Room
from .check_run import CheckRun
from .clock import ServerClock, http_date
from .connection_messages import innermost, plain_words, tls_error
from .csrf import CsrfToken, CsrfTokens
from .errors import (
    AccessDenied,
    ApiError,
    CsrfTokenRefused,
    NoAnswerInTime,
    NotPrefect,
    Redirected,
    Rejected,
    TlsFilesUnusable,
    UnexpectedAnswer,
    Unreachable,
    UnreadableAnswer,
)
from .time_budget import TimeBudget
from .transport import bound

ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.25
WORTH_RETRYING = frozenset({429, 502, 503, 504})
# How much of a redirect's target a message shows.
MOST_TARGET_CHARACTERS = 200

PROXY_WANTS_PASSWORD = "Tunnel connection failed: 407"

NO_URL = "an invalid URL"

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Answer:
    """A response: the status, the headers, and the body. The body of an error may be cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Authorization(AuthBase):
    """Sets the header `Authorization` to a value, or leaves it as it is if the value is None.

    Without an auth object, requests would use the credentials in the `.netrc` of the Agent's user.
    """

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request


class _Transient(Exception):
    """A failure that is worth a retry; `error` is what to raise when no retry is left."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error


class Client:
    """Sends requests to one Prefect API.

    It keeps connections alive, never follows redirects, retries when the server is busy or the connection breaks, and
    stops when the time budget is used up. Thread-safe. `url` has no trailing slash; `headers` are sent with every
    request; `run` is the current check run.
    """

    def __init__(
        self,
        http: RequestsWrapper,
        url: str,
        headers: Mapping[str, str],
        credentials: Credentials | None = None,
        clock: Callable[[], ServerClock] = ServerClock,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.new_clock = clock
        self.sleep = sleep
        self.monotonic = monotonic
        # When an endpoint that answered with `Retry-After` may be requested again; outlives the check run.
        self._paused_until: dict[str, float] = {}
        self.run = CheckRun(self._time_budget(0.0), clock())
        self._http = http
        self._is_bound = False
        self._headers = dict(headers)
        self._csrf = CsrfTokens(self._fetch_csrf_token, lambda: self.run.clock.now())
        self._lock = threading.Lock()
        self._parsing = threading.Lock()
        self._memory = AnswerMemory()
        self._credentials = credentials or Credentials()
        self._token: AuthToken | None = None
        if self._credentials.auth_token:
            settings = self._credentials.auth_token
            self._token = AuthToken(token_handler(settings), token_source(settings))
            http.auth_token_handler = None
        # If an option of the base class sets the header, its auth object is used.
        self._auth: dict[str, Any] = {}
        if self._credentials.authorization or not http.options.get("auth"):
            self._auth = {"auth": _Authorization(self._credentials.authorization)}

    def start_run(self, budget_seconds: float) -> CheckRun:
        """Start a check run, whose requests may take `budget_seconds` in total."""
        self.run = CheckRun(self._time_budget(budget_seconds), self.new_clock(), before=self.run)
        return self.run

    def _time_budget(self, seconds: float) -> TimeBudget:
        return TimeBudget(seconds, self._paused_until, self.sleep, self.monotonic)

    def get(self, path: str, parse: Callable[[bytes], Parsed], params: Mapping[str, str] | None = None) -> Parsed:
        """The parsed response to a GET; see `post`."""
        return self._ask("get", path, parse, params=params)

    def post(self, path: str, parse: Callable[[bytes], Parsed], body: Mapping[str, Any]) -> Parsed:
        """The parsed response to a POST of JSON.

        `parse` raises `ValueError` if the body is not what was requested, and `OverflowError` or `RecursionError` if it
        is too large or nested too deeply. Raises `ApiError`, which is `UnreadableAnswer` in the latter two cases.
        """
        return self._ask("post", path, parse, json=body)

    def status_of(self, path: str) -> Answer:
        """The response to a GET with any status, with the beginning of its body. Raises `ApiError` if there is none."""
        return self._retrying(f"GET {path}", path, lambda room: self._exchange("get", path, room, wants_body=False))

    def _ask(self, method: str, path: str, parse: Callable[[bytes], Parsed], **options: Any) -> Parsed:
        request = f"{method.upper()} {path}"

        def attempt(room: Room) -> Parsed:
            token = self._current_csrf_token()
            answer = self._exchange(method, path, room, token, **options)
            if _wants_csrf_token(answer):
                answer = self._exchange(method, path, room, self._new_csrf_token(instead_of=token), **options)
                if _wants_csrf_token(answer):
                    raise CsrfTokenRefused(self.url, answer.status)
            self._refuse_bad_status(request, path, answer)
            try:
                # One at a time: the parsed objects may take many times the memory of the body.
                with self._parsing:
                    return parse(answer.body)
            except (RecursionError, OverflowError):
                # Raised below: as its context, these errors would keep all that was parsed so far in memory.
                pass
            except ValueError as error:
                raise _Transient(self._not_as_expected(request, answer, error)) from None
            raise UnreadableAnswer(request, "the response is too large, or nested too deeply")

        return self._retrying(request, path, attempt)

    def _retrying(self, request: str, path: str, attempt: Callable[[Room], Parsed]) -> Parsed:
        for number in range(ATTEMPTS):
            try:
                with self._memory.room() as room:
                    return attempt(room)
            except _Transient as failure:
                last = failure.error
            wait = FIRST_WAIT_SECONDS * 2**number * random.uniform(0.5, 1.5)
            if number + 1 < ATTEMPTS and not self.run.time.wait(path, wait):
                break
        raise last

    def _exchange(
        self, method: str, path: str, room: Room, csrf_token: CsrfToken | None = None, **options: Any
    ) -> Answer:
        """One request and its response. Raises `_Transient` if the server is busy or the connection breaks."""
        headers = {**self._headers, **(csrf_token.headers if csrf_token else {})}
        if self._token is None:
            return self._send(method, path, room, headers, **options)
        token = self._token.headers(self.run)
        answer = self._send(method, path, room, {**headers, **token}, **options)
        if answer.status == 401:
            renewed = self._token.renewed(self.run, instead_of=token)
            answer = self._send(method, path, room, {**headers, **renewed}, **options)
        return answer

    def _send(
        self, method: str, path: str, room: Room, headers: Mapping[str, str], wants_body: bool = True, **options: Any
    ) -> Answer:
        request, time = f"{method.upper()} {path}", self.run.time
        connect, read = self._http.options["timeout"]
        left = time.patience(request, path, read)
        sent = time.monotonic()
        timeout = (min(connect, left), min(read, left))
        try:
            self._bind()
            response = getattr(self._http, method)(
                self.url + path,
                persist=True,
                stream=True,
                allow_redirects=False,
                timeout=timeout,
                extra_headers=headers,
                **self._auth,
                **options,
            )
            try:
                self.run.has_answered = True
                answer = Answer(response.status_code, response.headers, room.read(request, response, wants_body))
            finally:
                response.close()
        except requests.exceptions.SSLError as error:
            raise tls_error(self.url, innermost(error)) from None
        except (requests.exceptions.RequestException, HTTPError) as error:
            raise self._no_answer(request, path, max(timeout), time.monotonic() - sent, error) from None
        except ValueError:
            # requests parses the target of a redirect even if it must not follow it.
            raise Redirected(self.url, NO_URL) from None
        except OSError as error:
            # requests wraps errors of the network, so this comes from reading the files of the TLS options.
            raise TlsFilesUnusable(self.url, plain_words(error)) from None
        if answer.status == 500:
            # The server drops the connection after a 500, usually while the next request is being sent.
            self._http.session.close()
        with self._lock:
            self.run.clock.observe(answer.headers.get("Date"), sent, time.monotonic())
        if answer.status in WORTH_RETRYING:
            if seconds := _retry_after_seconds(answer.headers):
                time.pause(path, seconds)
            raise _Transient(Rejected(request, answer.status, _detail(answer.body)))
        return answer

    def _bind(self) -> None:
        if not self._is_bound:
            with self._lock:
                if not self._is_bound:
                    bound(self._http, lambda: self.run.time.seconds_left())
                    self._is_bound = True

    def _no_answer(self, request: str, path: str, timeout_seconds: float, waited: float, error: Exception) -> Exception:
        """What to raise when a connection fails: a lost one is retried, a timeout is not."""
        cause = innermost(error)
        is_connecting = isinstance(error, requests.exceptions.ConnectTimeout)
        timed_out = isinstance(error, requests.exceptions.Timeout) or isinstance(
            cause, (ReadTimeoutError, TimeoutError)
        )
        if timed_out:
            self.run.time.waited_in_vain(path, waited)
            if self.run.time.seconds_left() <= 0 and not is_connecting:
                return NoAnswerInTime(request, waited)
            what = "connection to" if is_connecting else "answer to"
            return Unreachable(self.url, f"no {what} {request} within {timeout_seconds:.3g} s")
        words = plain_words(cause)
        if isinstance(error, requests.exceptions.ProxyError):
            if PROXY_WANTS_PASSWORD in str(cause):
                return AccessDenied(self.url, 407, ("proxy",))
            words = f"the HTTP proxy does not connect ({words}), see `proxy` and `skip_proxy`"
        if self.url.startswith("https:") and isinstance(cause, (ConnectionResetError, BrokenPipeError)):
            # With TLS 1.3, the alert that asks for a client certificate may be lost with the connection.
            words += " (possibly a proxy that requires a client certificate, see `tls_cert`)"
        return _Transient(Unreachable(self.url, words))

    # CSRF tokens

    @property
    def has_csrf_token(self) -> bool:
        """Whether the server has asked for a CSRF token."""
        return self._csrf.current is not None

    def _current_csrf_token(self) -> CsrfToken | None:
        """The current token, renewed before it expires; None as long as the server has not asked for one."""
        token = self._csrf.current
        if not self._csrf.is_due():
            return token
        try:
            return self._new_csrf_token(instead_of=token)
        except Rejected:
            # CSRF protection was switched off, or the server was replaced. If it wants a token, it will say so.
            self._csrf.forget()
            return None

    def _new_csrf_token(self, instead_of: CsrfToken | None) -> CsrfToken:
        try:
            return self._csrf.renew(instead_of)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            cause = f"the response is not one that Prefect sends ({type(error).__name__})"
            raise UnexpectedAnswer("GET /csrf-token", cause) from None

    def _fetch_csrf_token(self, client: str) -> bytes:
        with self._memory.room() as room:
            answer = self._exchange("get", "/csrf-token", room, params={"client": client})
        self._refuse_bad_status("GET /csrf-token", "/csrf-token", answer)
        return answer.body

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
            return NotPrefect(self.url, f"{request} returns HTML instead of JSON, such as a proxy's login page")
        return UnexpectedAnswer(request, f"the response is not one that Prefect sends ({type(error).__name__})")


def _redirect_target(url: str, path: str, location: str | None) -> tuple[str, bool]:
    """The URL to configure instead of `url`, and whether the redirect leads to another path than the requested one.

    The URL has no query, which may hold a token.
    """
    if not location:
        return "an unnamed target", False
    try:
        target = urlsplit(urljoin(url + path, location))
    except ValueError:
        return NO_URL, False
    host = target.netloc.rpartition("@")[2]
    found = target.path.rstrip("/")
    place = f"{target.scheme}://{host}{found.removesuffix(path)}"[:MOST_TARGET_CHARACTERS]
    return place, not found.endswith(path.rstrip("/"))


def _wants_csrf_token(answer: Answer) -> bool:
    return answer.status == 403 and "csrf token" in _detail(answer.body).lower()


def _detail(body: bytes) -> str:
    """The server's reason for an error, cut to 200 characters, on one line; empty if it gives none."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return " ".join(str(detail)[:200].split())


def _retry_after_seconds(headers: Mapping[str, str]) -> float:
    """The seconds that the server asks to wait, given as a number or a date; 0 if it does not ask."""
    header = headers.get("Retry-After") or ""
    try:
        seconds = float(header)
    except ValueError:
        until, now = http_date(header), http_date(headers.get("Date"))
        seconds = (until - now).total_seconds() if until and now else 0.0
    return seconds if seconds > 0 else 0.0
