"""Sockets with a deadline, for the HTTP wrapper of the base class.

`requests` limits each wait for bytes, not their sum: headers that trickle in, several addresses of a host, or the body
of a redirect may take any time. Here, everything that is read for a request ends when its time is up.
"""

from __future__ import annotations

import io
import math
import socket
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Generic, TypeVar

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import PoolManager
from urllib3.exceptions import ConnectTimeoutError

from datadog_checks.base.utils.http import RequestsWrapper

# How much of an unneeded body is read to keep the connection. If it is longer, the connection is closed.
MOST_DRAINED_BYTES = 65536
MOST_HEAD_BYTES = 256 * 1024

SecondsLeft = Callable[[], float]
Result = TypeVar("Result")


class Background(Generic[Result]):
    """Runs work that has no timeout in a thread of its own."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._result: list[Result] = []
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="prefect-background", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except Exception as error:  # raised by `result`
            self._failure = error

    def result(self, seconds: float) -> Result:
        """The result. Raises what the work raised, or `TimeoutError` if it takes longer than these seconds."""
        self._thread.join(seconds)
        if self._failure is not None:
            raise self._failure
        if not self._result:
            raise TimeoutError(f"not done within {seconds:.3g} s")
        return self._result[0]


class HttpInTime(RequestsWrapper):
    """The base class's wrapper, with a time limit for fetching intermediate certificates that a server omits."""

    def __init__(
        self,
        instance: Mapping[str, Any],
        init_config: Mapping[str, Any],
        remapper: dict[str, Any] | None = None,
        logger: Any = None,
    ) -> None:
        super().__init__(instance, init_config, remapper, logger)  # type: ignore[no-untyped-call]
        self.seconds_left: SecondsLeft = lambda: math.inf

    def fetch_intermediate_certs(self, *args: Any, **options: Any) -> list[Any]:
        fetch: Callable[..., list[Any]] = super().fetch_intermediate_certs
        try:
            return Background(lambda: fetch(*args, **options)).result(self.seconds_left())
        except TimeoutError:
            return []


def bound(http: RequestsWrapper, seconds_left: SecondsLeft) -> None:
    """Make a wrapper thread-safe, and end all its connections when no seconds are left.

    The base class mounts an adapter in each HTTPS request, usually the same one. That breaks a session while other
    threads look up theirs. Here, each adapter is mounted once, and the newest stays: it has the intermediate
    certificates that the server omits. Raises `OSError` if the files of the TLS options are unusable.
    """
    session, lock = http.session, threading.Lock()
    # No cookies: an API needs none, and their size is unlimited.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    known: weakref.WeakSet[BaseAdapter] = weakref.WeakSet()

    def mount(prefix: str, adapter: BaseAdapter) -> None:
        with lock:
            if adapter in known:
                return
            known.add(adapter)
            if isinstance(adapter, HTTPAdapter):
                _prepare(adapter, seconds_left)
            adapters = {**session.adapters, prefix: adapter}
            # Replaced as a whole, because other threads may iterate over it. The longest prefix must come first.
            session.adapters = OrderedDict(sorted(adapters.items(), key=lambda item: -len(item[0])))

    for prefix, adapter in session.adapters.items():
        mount(prefix, adapter)
    session.mount = mount
    if isinstance(http, HttpInTime):
        http.seconds_left = seconds_left


def _prepare(adapter: HTTPAdapter, seconds_left: SecondsLeft) -> None:
    send, proxy_manager_for = adapter.send, adapter.proxy_manager_for

    def send_bounded(*args: Any, **options: Any) -> requests.Response:
        response = send(*args, **options)
        if response.is_redirect or response.status_code == 401:
            # requests or its digest authentication would read the whole body, however long it is.
            _drain(response)
        return response

    def bounded_proxy_manager_for(*args: Any, **options: Any) -> PoolManager:
        return _with_deadline(proxy_manager_for(*args, **options), seconds_left)

    _with_deadline(adapter.poolmanager, seconds_left)
    adapter.send = send_bounded  # type: ignore[method-assign]
    adapter.proxy_manager_for = bounded_proxy_manager_for  # type: ignore[method-assign]


def _drain(response: requests.Response) -> None:
    left: int = MOST_DRAINED_BYTES
    while left > 0 and (part := response.raw.read(left, decode_content=False)):
        left -= len(part)
    if left <= 0:
        response.raw.close()
    response._content, response._content_consumed = b"", True  # type: ignore[attr-defined]


def _with_deadline(manager: PoolManager, seconds_left: SecondsLeft) -> PoolManager:
    classes: dict[str, Any] = manager.pool_classes_by_scheme
    for scheme, pool_class in classes.items():
        if not hasattr(pool_class.ConnectionCls, "seconds_left"):
            parts = {"seconds_left": staticmethod(seconds_left)}
            connection_class = type("TimedConnection", (_TimedConnection, pool_class.ConnectionCls), parts)
            timed = type("TimedPool", (pool_class,), {"ConnectionCls": connection_class})
            manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme, scheme: timed}
    return manager


class _TimedConnection:
    """Mixed into urllib3's connections."""

    seconds_left: SecondsLeft
    timeout: float | None

    def _new_conn(self) -> socket.socket:
        """Connect in the background: name resolution has no timeout, and each address of a host has its own."""
        seconds = min(self.timeout or self.seconds_left(), self.seconds_left())
        try:
            connect: Callable[[], socket.socket] = super()._new_conn  # type: ignore[misc]
            return Background(connect).result(seconds)
        except TimeoutError as error:
            raise ConnectTimeoutError(self, str(error)) from None

    def response_class(self, sock: socket.socket, *args: Any, **options: Any) -> HTTPResponse:
        """Called by http.client to read a response."""
        return _TimedResponse(self.seconds_left, sock, *args, **options)


class _TimedResponse(HTTPResponse):
    """Reads a response within the deadline, and limits the size of its headers."""

    def __init__(self, seconds_left: SecondsLeft, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._reader = _TimedReader(self.fp.detach(), sock, seconds_left)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        """Read the status and the headers."""
        self._reader.room = MOST_HEAD_BYTES
        super().begin()
        self._reader.room = math.inf


class _TimedReader(io.RawIOBase):
    """Reads from a socket, no longer than time is left, and no more than `room` bytes."""

    room: float = math.inf

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds_left: SecondsLeft) -> None:
        self._raw = raw
        self._sock = sock
        self._seconds_left = seconds_left
        self._patience = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._seconds_left()
        if left <= 0:
            raise TimeoutError("no time left")
        self._sock.settimeout(left if self._patience is None else min(left, self._patience))
        number = self._raw.readinto(buffer)
        self.room -= number or 0
        if self.room < 0:
            raise HTTPException(f"headers of more than {MOST_HEAD_BYTES} bytes")
        return number

    def close(self) -> None:
        self._raw.close()
        super().close()
