"""What the check remembers across restarts, in the Agent's persistent cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

FORMAT = 1
SLOTS = 2

Document = dict[str, Any]
Version = tuple[int, Document | None]


class StateStore:
    """Documents of JSON by name.

    Each is read once, when its owner is made: `agent check` shares the cache's files with the running Agent, and must
    not take anything from it by writing in between. Each is written to two slots in turn, with a number and a checksum:
    the Agent does not replace a file in one step, so that a kill may leave half of one.
    """

    def __init__(
        self, read: Callable[[str], str], write: Callable[[str, str], None], warn: Callable[[str], None]
    ) -> None:
        self._read = read
        self._write = write
        self._warn = warn
        self._numbers: dict[str, int] = {}

    def load(self, name: str) -> Document | None:
        """The newest good version of a document, or None where there is none.

        Says so when only an older version is good; raises `ValueError` when no version is.
        """
        stored = [self._stored(name, slot) for slot in range(SLOTS)]
        versions = [version for version in stored if version is not None]
        self._numbers[name], newest = max(versions, key=lambda version: version[0], default=(0, None))
        is_damaged = len(versions) < len(stored)
        if newest is None and is_damaged:
            raise ValueError("damaged, or of another format")
        if is_damaged:
            self._warn(f"the last stored state of {name} is damaged: what it had counted may be counted again")
        return newest

    def _stored(self, name: str, slot: int) -> Version | None:
        """What is in a slot: a version without data where nothing was ever written, None where it is damaged."""
        try:
            text = self._read(_key(name, slot))
        except UnicodeDecodeError:
            return None
        return _unpack(text) if text else (0, None)

    def report_unreadable(self, name: str) -> None:
        """Say that counting starts anew."""
        self._warn(f"the stored state of {name} cannot be read: counting starts one collection interval ago")

    def save(self, name: str, data: Document) -> None:
        """Store the next version of a document that was loaded before."""
        number = self._numbers[name] = self._numbers[name] + 1
        self._write(_key(name, number % SLOTS), _pack(number, json.dumps(data, separators=(",", ":"))))


def _key(name: str, slot: int) -> str:
    return f"{name}_{slot}"


def _pack(number: int, body: str) -> str:
    text = f"{FORMAT} {number} {body}"
    return f"{_checksum(text)} {text}"


def _unpack(stored: str) -> Version | None:
    """The number and the data of a version; None for one that is damaged or of another format."""
    checksum, _, text = stored.partition(" ")
    if checksum != _checksum(text) or not text.startswith(f"{FORMAT} "):
        return None
    _, number, body = text.split(" ", 2)
    return int(number), json.loads(body)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
