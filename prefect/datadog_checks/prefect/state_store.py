"""What the check remembers across restarts, in the Agent's persistent cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

FORMAT = 1

Document = dict[str, Any]


class StateStore:
    """Documents of JSON by name.

    Each is read once, when its owner is made: `agent check` shares the cache's files with the running Agent, and must
    not take anything from it by writing in between.
    """

    def __init__(
        self, read: Callable[[str], str], write: Callable[[str, str], None], warn: Callable[[str], None]
    ) -> None:
        self._read = read
        self._write = write
        self._warn = warn

    def load(self, name: str) -> Document | None:
        """The document, or None where there is none; raises `ValueError` for one that cannot be read."""
        text = self._read(name)
        if not text:
            return None
        stored = json.loads(text)
        if not isinstance(stored, dict) or stored.get("format") != FORMAT or not isinstance(stored.get("data"), dict):
            raise ValueError("not a document of this format")
        data: Document = stored["data"]
        return data

    def report_unreadable(self, name: str) -> None:
        """Say that counting starts anew."""
        self._warn(f"the stored state of {name} cannot be read: counting starts one collection interval ago")

    def save(self, name: str, data: Document) -> None:
        self._write(name, json.dumps({"format": FORMAT, "data": data}, separators=(",", ":")))
