"""What the check remembers across restarts, in the Agent's persistent cache."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

FORMAT = 1
SLOTS = 2
MOST_REASON_CHARACTERS = 200
# Usually, an Agent command was run as root and created files that the Agent's user cannot write.
REMEDY = (
    "The Agent's user must own the files in the Agent's run folder (on Linux: `sudo chown -R dd-agent: "
    "/opt/datadog-agent/run`). Run the Agent's commands as that user: `sudo -u dd-agent -- datadog-agent check prefect`"
)
UNUSABLE = "It is damaged, or of another version of this check."
# State older than a week is of no use: Prefect keeps events for a week.
STALE_SECONDS = 8 * 86400.0
# The file name begins with the name of the instance, if it has one.
FILE = re.compile(r".*?([0-9a-f]{16})_(?:flow_runs|task_runs|vanished_tag_sets|deployments|events_[0-9a-f]{8})_[01]")

Document = dict[str, Any]
Version = tuple[int, Document | None]
Read = Callable[[str], str]
Write = Callable[[str, str], None]


class StateStore:
    """JSON documents by name.

    Each is read once, when its owner is created: `agent check` writes the same files as the running Agent, which must
    not lose its state to that. Each is written to two slots in turn, with a number and a checksum, because the Agent
    does not replace files atomically: a kill may leave a partial file.

    `read` and `write` are the Agent's functions and may raise any exception. A document that cannot be stored stays in
    its owner's memory.
    """

    def __init__(self, read: Read, write: Write, warn: Callable[[str], None]) -> None:
        self._read = read
        self._write = write
        self._warn = warn
        self._numbers: dict[str, int] = {}
        self._failure = ""

    def load(self, name: str) -> Document | None:
        """The newest valid version of a document, or None if it was never saved.

        Warns if only the older version is valid. Raises `ValueError`, with the reason, if no version is.
        """
        reasons: list[str] = []
        versions = [version for slot in range(SLOTS) if (version := self._stored(name, slot, reasons)) is not None]
        self._numbers[name], newest = max(versions, key=lambda version: version[0], default=(0, None))
        if newest is None and reasons:
            raise ValueError(reasons[0])
        if reasons:
            self._warn(
                f"The last interval of {name} may be counted twice: the newer of its two files cannot be used. "
                f"{reasons[0]}"
            )
        return newest

    def _stored(self, name: str, slot: int, reasons: list[str]) -> Version | None:
        """The version in a slot: one without data if nothing was ever written, None if it is unusable."""
        try:
            text = self._read(_key(name, slot))
            return _unpack(text) if text else (0, None)
        except (ValueError, RecursionError):
            reasons.append(UNUSABLE)
        except Exception as error:  # RuntimeError if the Agent may not read the file
            reasons.append(f"It cannot be read ({str(error)[:MOST_REASON_CHARACTERS]}). {REMEDY}.")
        return None

    def report_unreadable(self, name: str, reason: object) -> None:
        """Warn that counting starts over."""
        self._warn(f"Counting of {name} starts one collection interval ago: its stored state cannot be read. {reason}")

    def save(self, name: str, data: Document) -> None:
        """Store the next version of a document. A failure is kept for `report_unwritten`.

        Collectors save in `commit`, when what they counted is submitted; `check.py` saves the tag sets that vanished.
        """
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        text = _pack(number, json.dumps(data, separators=(",", ":")))
        try:
            self._write(_key(name, number % SLOTS), text)
        except Exception as error:  # RuntimeError if the Agent may not write the file
            self._failure = self._failure or f"{name}: {str(error)[:MOST_REASON_CHARACTERS]}"

    def report_unwritten(self) -> None:
        """Warn of the first document that could not be stored since the last call."""
        if self._failure:
            self._warn(
                f"Counting will start over when the Agent restarts: the state cannot be stored ({self._failure}). "
                f"{REMEDY}."
            )
            self._failure = ""


def take_over(names: list[str], old_read: Read, old_write: Write, read: Read, write: Write) -> None:
    """Move documents from their old place, unless there are documents in the new one."""
    keys = [_key(name, slot) for name in names for slot in range(SLOTS)]
    try:
        if any(read(key) for key in keys):
            return
        for key in keys:
            if text := old_read(key):
                write(key, text)
                old_write(key, "")
    except Exception:  # reported when the documents are loaded or saved
        return


def remove_stale(run_path: str, own: str) -> None:
    """Delete files of removed instances: those last written more than eight days before the newest file.

    `own` is the digest of this instance, whose files are always kept.
    """
    try:
        files = [
            file
            for file in (Path(run_path) / "prefect").iterdir()
            if (match := FILE.fullmatch(file.name)) and match[1] != own
        ]
        newest = max((file.stat().st_mtime for file in Path(run_path, "prefect").iterdir()), default=0.0)
        for file in files:
            if newest - file.stat().st_mtime > STALE_SECONDS:
                file.unlink()
    except OSError:
        return


def compress(value: Any, level: int) -> str:
    """JSON of a value that would be too large as it is, as text. `level` is that of zlib."""
    text = json.dumps(value, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), level)).decode("ascii")


def decompress(text: str) -> Any:
    """The inverse of `compress`. Raises `ValueError` if the text is damaged."""
    try:
        return json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from None


def aware_moment(text: Any) -> datetime:
    """Parse a time in ISO 8601; raises `ValueError` if it has no zone."""
    if not isinstance(text, str):
        raise ValueError("not a time")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment


def why_unreadable(error: Exception) -> str:
    """What to say of an error that a stored document caused when its owner read it."""
    # Messages of other errors may hold parts of the document.
    return str(error) if type(error) is ValueError else UNUSABLE


def _key(name: str, slot: int) -> str:
    return f"{name}_{slot}"


def _pack(number: int, body: str) -> str:
    text = f"{FORMAT} {number} {body}"
    return f"{_checksum(text)} {text}"


def _unpack(stored: str) -> Version:
    """The number and the data of a version. Raises `ValueError` if it is damaged or has another format."""
    checksum, _, text = stored.partition(" ")
    if checksum != _checksum(text) or not text.startswith(f"{FORMAT} "):
        raise ValueError("damaged")
    _, number, body = text.split(" ", 2)
    data = json.loads(body)
    if not isinstance(data, dict):
        raise ValueError("no document")
    return int(number), data


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
