"""The bodies of responses, decompressed as they arrive, within one memory limit for all of them."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from .errors import UnreadableAnswer

CHUNK_BYTES = 65536
# Usually, a page of 200 runs has half a megabyte. A page that exceeds this limit is requested again in smaller pages.
MOST_BODY_BYTES = 4 * 1024 * 1024
# The limit for all responses that are read at the same time.
MOST_BYTES_AT_ONCE = 2 * MOST_BODY_BYTES
# Of an error, or of a body that nobody needs, only the beginning is read.
MOST_ERROR_BYTES = 256 * 1024


class AnswerMemory:
    """How much memory the responses take that are being read. Thread-safe."""

    def __init__(self) -> None:
        self._taken = 0
        self._lock = threading.Lock()

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Room for the responses to one request, released when the context ends."""
        room = Room(self)
        try:
            yield room
        finally:
            self.take(-room.taken)

    def take(self, number: int) -> bool:
        """Take this many bytes. Returns whether there is room for them; they count as taken even if not."""
        with self._lock:
            self._taken += number
            return self._taken <= MOST_BYTES_AT_ONCE


class Room:
    """The memory that the responses to one request have taken."""

    def __init__(self, memory: AnswerMemory) -> None:
        self._memory = memory
        self.taken = 0

    def read(self, request: str, response: requests.Response, wants_body: bool) -> bytes:
        """The body, or only its beginning if it is an error or not wanted. Raises `UnreadableAnswer`."""
        if 300 <= response.status_code < 400 or response.status_code == 401:
            return b""
        is_cut = response.status_code >= 400 or not wants_body
        raw, body = response.raw, io.BytesIO()
        # This blocks until there are bytes to decompress. The connection enforces the deadline.
        while part := raw.read1(CHUNK_BYTES, decode_content=True):
            body.write(part)
            self.taken += len(part)
            has_room = self._memory.take(len(part))
            if is_cut and body.tell() > MOST_ERROR_BYTES:
                break
            if body.tell() > MOST_BODY_BYTES:
                raise UnreadableAnswer(request, f"the response is larger than {MOST_BODY_BYTES >> 20} MiB")
            if not has_room:
                raise UnreadableAnswer(request, "the responses that are being read are too large together")
        return body.getvalue()
