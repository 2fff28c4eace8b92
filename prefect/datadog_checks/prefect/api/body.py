"""The bodies of answers, unpacked as they come, within a limit of memory that all of them share."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from .errors import UnreadableAnswer

CHUNK_BYTES = 65536
# A page of 200 runs is half a megabyte as a rule. One that is larger than this is asked for again in smaller pages.
MOST_BODY_BYTES = 4 * 1024 * 1024
# What answers that are read side by side may take together.
MOST_BYTES_AT_ONCE = 2 * MOST_BODY_BYTES
# Of an answer whose status says all, no more is read than its words can be in.
MOST_ERROR_BYTES = 256 * 1024


class AnswerMemory:
    """How much memory the answers take that are being read. May be used from several threads."""

    def __init__(self) -> None:
        self._taken = 0
        self._lock = threading.Lock()

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Room for the answers to one request, to be left when they are not needed any more."""
        room = Room(self)
        try:
            yield room
        finally:
            self.take(-room.taken)

    def take(self, number: int) -> bool:
        """Whether there is room for so many bytes more, which are counted as taken in either case."""
        with self._lock:
            self._taken += number
            return self._taken <= MOST_BYTES_AT_ONCE


class Room:
    def __init__(self, memory: AnswerMemory) -> None:
        self._memory = memory
        self.taken = 0

    def read(self, request: str, response: requests.Response, wants_body: bool) -> bytes:
        """The body; of an error, or one that is not wanted, the beginning. Raises `UnreadableAnswer`."""
        if 300 <= response.status_code < 400 or response.status_code == 401:
            return b""
        is_cut = response.status_code >= 400 or not wants_body
        raw, body = response.raw, io.BytesIO()
        # It waits for bytes that can be unpacked; the connection sees to it that this has an end.
        while part := raw.read1(CHUNK_BYTES, decode_content=True):
            body.write(part)
            self.taken += len(part)
            has_room = self._memory.take(len(part))
            if is_cut and body.tell() > MOST_ERROR_BYTES:
                break
            if body.tell() > MOST_BODY_BYTES:
                raise UnreadableAnswer(request, f"the answer is longer than {MOST_BODY_BYTES >> 20} MiB")
            if not has_room:
                raise UnreadableAnswer(request, "answers that are read at the same time are too long together")
        return body.getvalue()
