"""PostgreSQL and Redis on the loopback interface, for servers whose API and services are two processes.

PREFECT_LAB_DATABASE=postgres makes all servers of the laboratory so. It wants Debian's packages `postgresql` and
`redis-server`, or their programs on the PATH; nothing that runs already is used or touched.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from .errors import LabError
from .ports import HOST, free_port
from .processes import LabProcess
from .waiting import wait_until

USER = "prefect"
TEMPLATE = "migrated"
START_SECONDS = 60.0
MIGRATION_SECONDS = 300.0
# Nothing is to be kept, so nothing has to reach the disk; each server has two processes with a pool of connections.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "500",
    "unix_socket_directories": "",
    "listen_addresses": HOST,
}


def is_wanted() -> bool:
    """Whether the laboratory's servers are to use PostgreSQL."""
    return os.environ.get("PREFECT_LAB_DATABASE", "") == "postgres"


class PostgresCluster:
    """A cluster of its own with an empty Prefect database to copy; it ends with this process."""

    def __init__(self, port: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="prefect-postgres-"))
        self._port = port
        self._password = secrets.token_hex(16)
        self._data = self.folder / "data"
        self._as_user = _unprivileged()
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [_program("postgres"), "-D", str(self._data), "-p", str(port), *settings]
        log_path = self.folder / "postgres.log"
        self._process = LabProcess(command, _environment(), self.folder, log_path, user=self._as_user)

    def start(self) -> None:
        """Make the cluster and start it. Raises `LabError` when that cannot be done."""
        password_file = self.folder / "password"
        password_file.write_text(self._password)
        if self._as_user:
            for path in (self.folder, password_file):
                shutil.chown(path, self._as_user)
        authentication = ["-U", USER, "--auth=scram-sha-256", f"--pwfile={password_file}"]
        _run([_program("initdb"), "-D", str(self._data), *authentication, "--no-sync"], _environment(), self._as_user)
        self._process.start()
        is_ready = [_program("pg_isready"), "-q", "-h", HOST, "-p", str(self._port)]
        wait_until(
            lambda: subprocess.run(is_ready, check=False).returncode == 0, START_SECONDS, "An answer of PostgreSQL"
        )

    def stop(self) -> None:
        self._process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create(self, database: str, template: str = "template1") -> str:
        """Make a database as a copy of another; returns the URL that Prefect's server takes."""
        program = [_program("createdb"), "-h", HOST, "-p", str(self._port), "-U", USER, "-T", template, database]
        _run(program, {**_environment(), "PGPASSWORD": self._password})
        return f"postgresql+asyncpg://{USER}:{self._password}@{HOST}:{self._port}/{database}"


class PostgresBackend:
    """A database, and a Redis through which the two processes of one server tell each other events."""

    def __init__(self, folder: Path, prefect: str, environment: Mapping[str, str]) -> None:
        self._url = _cluster(prefect, tuple(environment.items())).create(f"server_{uuid.uuid4().hex}", TEMPLATE)
        self._redis_port = free_port()
        command = [_program("redis-server"), "--bind", HOST, "--port", str(self._redis_port), "--save", ""]
        self._redis = LabProcess(command, _environment(), folder, folder / "redis.log")

    def start(self) -> None:
        self._redis.start()
        ping = [_program("redis-cli"), "-h", HOST, "-p", str(self._redis_port), "ping"]
        wait_until(
            lambda: subprocess.run(ping, check=False, capture_output=True).stdout.strip() == b"PONG",
            START_SECONDS,
            "An answer of Redis",
        )

    def stop(self) -> None:
        self._redis.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Prefect's settings for both processes."""
        return {
            "PREFECT_API_DATABASE_CONNECTION_URL": self._url,
            "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
            "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_REDIS_MESSAGING_HOST": HOST,
            "PREFECT_REDIS_MESSAGING_PORT": str(self._redis_port),
            "PREFECT_SERVER_DOCKET_URL": f"redis://{HOST}:{self._redis_port}/1",
        }


@cache
def _cluster(prefect: str, environment: tuple[tuple[str, str], ...]) -> PostgresCluster:
    """The one cluster of this process, with the database that others are copies of."""
    cluster = PostgresCluster(free_port())
    atexit.register(cluster.stop)
    cluster.start()
    url = cluster.create(TEMPLATE)
    home = cluster.folder / "home"
    home.mkdir()
    settings = {**dict(environment), "PREFECT_HOME": str(home), "PREFECT_API_DATABASE_CONNECTION_URL": url}
    _run([prefect, "server", "database", "upgrade", "--yes"], settings)
    return cluster


def _run(command: list[str], environment: Mapping[str, str], user: str | None = None) -> None:
    done = subprocess.run(
        command,
        env=dict(environment),
        user=user,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MIGRATION_SECONDS,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{command[0]} ended with exit code {done.returncode}: {(done.stderr or done.stdout)[-500:]}")


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}


def _unprivileged() -> str | None:
    """PostgreSQL does not run as root: then the user that its package made; None where there is no need to change."""
    return "postgres" if hasattr(os, "geteuid") and os.geteuid() == 0 else None


def _program(name: str) -> str:
    """A program on the PATH, or of the newest of Debian's PostgreSQLs, which are not on it."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    found = str(newest[-1]) if newest else shutil.which(name)
    if not found:
        raise LabError(f"There is no {name} here: install the packages postgresql and redis-server.")
    return found
