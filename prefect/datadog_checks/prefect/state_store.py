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
        """The document, or None where there is none; one that cannot be read is as none, with a warning."""
        text = self._read(name)
        if not text:
            return None
        try:
            stored = json.loads(text)
            if stored["format"] != FORMAT:
                raise ValueError(f"format {stored['format']}")
            data = stored["data"]
            if not isinstance(data, dict):
                raise ValueError("no document")
        except (ValueError, KeyError, TypeError):
            self.report_unreadable(name)
            return None
        return data

    def report_unreadable(self, name: str) -> None:
        self._warn(f"the stored state of {name} cannot be read: counting starts one collection interval ago")

    def save(self, name: str, data: Document) -> None:
        self._write(name, json.dumps({"format": FORMAT, "data": data}, separators=(",", ":")))
