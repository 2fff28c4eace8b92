"""Which version of Prefect the laboratory's servers are of, and what it lacks that a test may need."""

from __future__ import annotations

import re
import subprocess
from functools import cache

from .errors import LabError
from .postgres import is_wanted as postgres_is_wanted
from .server import programs_folder

# Since which version a server can do what a test asks of it, and why the test says nothing about an older one.
CAPABILITIES: dict[str, tuple[tuple[int, int, int], str]] = {
    "auth string": ((3, 2, 0), "the server has no PREFECT_SERVER_API_AUTH_STRING: no request is refused"),
    "base path": ((3, 2, 15), "the server has no PREFECT_SERVER_API_BASE_PATH: the API is always at /api"),
    "an address of IPv6": ((3, 6, 20), "`prefect server start` takes no address of IPv6 for a host"),
    "kinds of retries": (
        (3, 1, 3),
        "runs do not tell where they wait for a retry: all that are named AwaitingRetry are taken for in-process ones",
    ),
    "work pools of runs without a deployment": (
        (3, 2, 15),
        "the server takes no run that has a work pool and no deployment, which the workload of the experiment makes",
    ),
    "log lines of beginnings and ends": ((3, 2, 0), "the log does not tell which flow a run is of, nor that it exited"),
    "run counts in events": ((3, 4, 0), "events do not say how often a run has run"),
    "ends of task runs": ((3, 6, 22), "task runs cannot be asked for by their end: one without an event is not told"),
    "all bad events and objects": ((3, 8, 8), "the server may take some of them for what they are, and refuse them"),
    "events of deployments": ((3, 6, 23), "the server sends no events of deployments that are created or updated"),
}

# What PostgreSQL cannot do instead.
NOT_ON_POSTGRES = {
    "a database file": "the truth is read from SQLite's file, which PostgreSQL has not",
    "NUL in texts": "PostgreSQL keeps no NUL in its texts",
}


@cache
def server_version() -> str:
    """The version of Prefect in the virtual environment that servers are started from, such as 3.8.8."""
    program = "from importlib.metadata import version; print(version('prefect'))"
    try:
        return subprocess.check_output([programs_folder() / "python", "-c", program], text=True).strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"There is no Prefect in {programs_folder().parent}: {error}") from error


def reason_to_skip(capability: str) -> str | None:
    """Why a test that needs this cannot say anything about the laboratory's servers; None where it can."""
    if capability in NOT_ON_POSTGRES:
        return NOT_ON_POSTGRES[capability] if postgres_is_wanted() else None
    since, reason = CAPABILITIES[capability]
    numbers = tuple(int(number) for number in re.findall(r"\d+", server_version())[:3])
    if numbers >= since:
        return None
    return f"Prefect {server_version()} lacks {capability}: {reason}"
