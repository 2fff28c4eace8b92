"""Processes of the lab: started with a log file, stopped together with everything that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 10.0
KILL_SECONDS = 5.0


class LabProcess:
    """One process in a session of its own, so that a Ctrl-C in the terminal reaches only us: we stop it in order.

    `user` is who runs it, where that is not who runs us.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log_path: Path,
        user: str | None = None,
    ) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._folder = folder
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self.log_path = log_path

    def start(self) -> None:
        """Start the process; its output is appended to the log. Raises OSError when the program cannot be run."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._user,
            )

    @property
    def pid(self) -> int | None:
        """The process's id, None before the first start."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """How the process ended: a negative number is a signal's; None while it runs or was never started."""
        return self._process.poll() if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ask the process to end, wait for it, and kill what is left of its group, also when interrupted."""
        process = self._process
        if process is None:
            return
        try:
            if process.poll() is None:
                process.terminate()
                process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # killed below
        finally:
            _kill_group(process.pid)
            process.wait()
            self._process = None

    def last_log_lines(self, count: int = 5) -> str:
        """The end of the log on one line, for an error message."""
        with contextlib.suppress(OSError):
            lines = self.log_path.read_text(errors="replace").splitlines()
            return " | ".join([line.strip() for line in lines if line.strip()][-count:])
        return ""


def kill_processes_of(marker: str) -> None:
    """Kill the processes, other than this one, whose environment holds `marker` (`NAME=value`).

    Workers start flow runs in sessions of their own, and a worker that died leaves them orphaned: neither process
    groups nor parents lead to them, but their environment does.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while (pids := processes_of(marker)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def processes_of(marker: str) -> list[int]:
    """Ids of the processes, other than this one, whose environment holds `marker` (`NAME=value`)."""
    pids = _pids_by_proc(marker) if Path("/proc/self/environ").exists() else _pids_by_ps(marker)
    return [pid for pid in pids if pid != os.getpid()]


def _pids_by_proc(marker: str) -> list[int]:
    pids = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's; a zombie's environment is empty
                if marker.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    pids.append(int(folder.name))
    return pids


def _pids_by_ps(marker: str) -> list[int]:
    listing = subprocess.run(["ps", "axeww", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 1) for line in listing.splitlines())
    return [int(row[0]) for row in rows if len(row) == 2 and marker in row[1].split()]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
