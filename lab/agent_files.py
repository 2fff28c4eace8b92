"""The Agent's persistent cache as the Agent has it: a file for each key, in its run folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

CHECK = "prefect"
_NOT_IN_FILE_NAMES = re.compile("[^a-zA-Z0-9_-]")


class AgentFiles:
    """What the stub of the Agent keeps in memory, in `run_path` instead: see `getFileForKey` in the Agent's source.

    The first part of a key, up to its colon, names the folder, the rest the file, without what is not a letter of file
    names everywhere. `read` and `write` take the place of the stub's methods.
    """

    def __init__(self, run_path: Path) -> None:
        self.run_path = run_path
        self._folder = run_path / CHECK

    def read(self, key: str) -> str:
        path = self._path(key)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def write(self, key: str, value: str) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value, encoding="utf-8")

    def names(self) -> set[str]:
        """The check's files that have something in them."""
        files = self._folder.iterdir() if self._folder.exists() else []
        return {path.name for path in files if path.stat().st_size}

    def owned_by(self, identity: str) -> set[str]:
        """Those of one `persistent_cache_id`."""
        return {name for name in self.names() if name.partition("_")[0] == identity}

    def leave_only(self, identity: str, renamed: str) -> None:
        """Delete all but the files of one `persistent_cache_id`, and let them be of another one."""
        for path in list(self._folder.iterdir()):
            owner, _, rest = path.name.partition("_")
            if owner == identity:
                path.replace(path.with_name(f"{renamed}_{rest}"))
            else:
                path.unlink()

    def make_older(self, names: set[str], seconds: float) -> None:
        """Let files be of so long ago."""
        for name in names:
            path = self._folder / name
            written = path.stat().st_mtime - seconds
            os.utime(path, (written, written))

    def _path(self, key: str) -> Path:
        folder, colon, file = key.partition(":")
        parts = [folder, file] if colon else [folder]
        return self.run_path.joinpath(*(_NOT_IN_FILE_NAMES.sub("", part) for part in parts))
