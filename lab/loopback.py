"""Web servers of our own on the loopback interface, on a free port, while a `with` block lasts."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from .ports import HOST


class LoopbackServer:
    """Lets `handler` answer each request in a thread of its own, from entry to exit; with `tls`, over TLS."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> None:
        self._server = ThreadingHTTPServer((HOST, 0), handler)
        self._scheme = "https" if tls else "http"
        if tls:
            # A handshake that fails ends in accept(), where socketserver passes over it.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"{self._scheme}://{HOST}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open, sends each part of an answer at once, and says nothing on stderr."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each body waits 40 ms for the acknowledgement of its head

    def read_body(self) -> bytes:
        """The request's body, empty where none is announced."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def respond(self) -> None:
        """Answer a GET or a POST."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.respond()

    do_POST = do_CONNECT = do_GET  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: Any) -> None:
        pass
