"""A real Prefect server on the loopback interface, with an empty home of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import requests

from .errors import LabError
from .ports import HOST, free_port, port_is_free
from .postgres import PostgresBackend
from .postgres import is_wanted as postgres_is_wanted
from .processes import LabProcess, kill_processes_of
from .waiting import wait_until

START_SECONDS = 180.0
REPOSITORY = Path(__file__).resolve().parents[1]

# What a caller's shell says about Python, Prefect or Datadog is not for the server: it must come up the same anywhere.
_FOREIGN_PREFIXES = ("PREFECT_", "PYTHON", "DD_", "VIRTUAL_ENV")

# Events and task runs become visible at once: each is written alone. Left over ones wait for a second instead of five.
FAST_EVENTS = {
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "1",
}

# Without Python's cyclic garbage collection. Collecting an SQLite cursor blocks the server's event loop while a thread
# waits for the database's lock, and who holds the lock waits for the event loop: now and then the server would stand
# still for the 60 s that SQLite waits for a lock. Older versions serve from a process of their own, hence no option.
_SITE_CUSTOMIZE = "import gc; gc.disable()\n"


class PrefectServer:
    """A server process on a free port (or on `port`), and a temporary `folder` that holds its home and its log.

    `env` adds settings, e.g. `{"PREFECT_SERVER_API_DEFAULT_LIMIT": "50"}`. As a context manager it is started on
    entry, stopped and removed on exit. `stop` and `start` in between keep home and port: the server was down.
    With PREFECT_LAB_DATABASE=postgres it is two processes, the API and its services, on PostgreSQL.
    """

    def __init__(self, env: Mapping[str, str] | None = None, port: int | None = None, host: str = HOST) -> None:
        self._programs = programs_folder()
        self._extra = dict(env or {})
        self.folder = Path(tempfile.mkdtemp(prefix="prefect-lab-"))
        self.home = self.folder / "home"
        self.home.mkdir()
        if (empty := self._programs.parent / "empty.db").exists() and not postgres_is_wanted():
            # Half of what a start takes is to make the tables.
            shutil.copy(empty, self.home / "prefect.db")
        (self.folder / "tmp").mkdir()
        self.host = host
        self.port = port or free_port(host)
        self.log_path = self.folder / "server.log"
        (self.folder / "site").mkdir()
        (self.folder / "site" / "sitecustomize.py").write_text(_SITE_CUSTOMIZE)
        self._backend: PostgresBackend | None = None
        self._services: LabProcess | None = None
        self._was_started = False
        command = self.command("prefect", "server", "start", "--host", host, "--port", str(self.port))
        environment = {**self.environment(), "PYTHONPATH": str(self.folder / "site")}
        if postgres_is_wanted():
            [program] = self.command("prefect")
            self._backend = PostgresBackend(self.folder, program, self.environment())
            environment |= self._backend.environment
            services = self.command("prefect", "server", "services", "start")
            self._services = LabProcess(services, environment, self.home, self.folder / "services.log")
            command.append("--no-services")
        self._process = LabProcess(command, environment, self.home, self.log_path)

    @property
    def pid(self) -> int | None:
        """The id of the process that answers, None before the first start."""
        return self._process.pid

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def api_url(self) -> str:
        return self.url + self._extra.get("PREFECT_SERVER_API_BASE_PATH", "/api")

    @property
    def auth(self) -> tuple[str, str] | None:
        """User and password that the API asks for, None when it asks for none."""
        user, separator, password = self._extra.get("PREFECT_SERVER_API_AUTH_STRING", "").partition(":")
        return (user, password) if separator else None

    def __enter__(self) -> PrefectServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the server and return when its API answers. Raises `LabError` when it does not come up."""
        if not port_is_free(self.port, self.host):
            raise LabError(f"Port {self.port} on {self.host} is taken by another program.")
        try:
            if self._backend and not self._was_started:
                self._backend.start()
            self._was_started = True
            self._process.start()
            if self._services:
                self._services.start()
        except OSError as error:
            raise LabError(f"The Prefect server cannot be run from {self._programs}: {error.strerror}.") from error
        wait_until(self._is_up, START_SECONDS, f"An answer of the Prefect server at {self.api_url}/health")

    def stop(self) -> None:
        """Stop the server and leave its home and port for another `start`; workers and flow runs go on without it."""
        self._process.stop()
        if self._services:
            self._services.stop()

    def close(self) -> None:
        """Stop the server, kill all that works with it (workers, flow runs), and remove its folder."""
        try:
            self.stop()
        finally:
            if self._backend:
                self._backend.stop()
            kill_processes_of(f"PREFECT_HOME={self.home}")
            shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line of a program of the server's virtual environment."""
        return [str(self._programs / program), *arguments]

    def process(self, name: str, command: Sequence[str]) -> LabProcess:
        """A process, not started yet, that works with this server; `name` is its log's. `close` ends it too."""
        return LabProcess(command, self.environment(), self.home, self.folder / f"{name}.log")

    def environment(self) -> dict[str, str]:
        """Environment variables for the server and for all that talks to it."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_PREFIXES)}
        environment |= {
            "HOME": str(self.home),
            "TMPDIR": str(self.folder / "tmp"),  # workers leave things behind
            "PATH": os.pathsep.join([str(self._programs), os.environ.get("PATH", os.defpath)]),
            "NO_PROXY": self.host,
            "no_proxy": self.host,
            "DO_NOT_TRACK": "1",
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_LOGGING_COLORS": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        if self.auth:
            environment["PREFECT_API_AUTH_STRING"] = ":".join(self.auth)
        return environment | self._extra

    def _is_up(self) -> bool:
        if not self._process.is_running and "already in use" in self._process.last_log_lines():
            # Older versions do not take a port back that was in use a minute ago.
            self._process.start()
        if not self._process.is_running:
            raise LabError(
                f"The Prefect server ended with exit code {self._process.exit_code} before it answered; "
                f"the end of its log: {self._process.last_log_lines()}"
            )
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy on the way to the loopback interface
                return session.get(f"{self.api_url}/health", timeout=2).json() is True
        except (requests.RequestException, ValueError):
            return False


def programs_folder() -> Path:
    """The folder of the server's programs, of PREFECT_LAB_VENV or of the one that the Makefile makes."""
    venv = Path(os.environ.get("PREFECT_LAB_VENV") or REPOSITORY / ".venvs" / "server")
    folder = venv / ("Scripts" if os.name == "nt" else "bin")
    if not folder.is_dir():
        raise LabError(f"There is no virtual environment with Prefect in {venv}; `make check` makes one.")
    return folder
