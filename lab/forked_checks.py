"""Check runs in forked processes of their own, and what they cost in time and memory; it needs Linux.

A process that has loaded everything, and made idle check runs, is forked for each task, so that no task has to load
anything and none finds memory that another one has left.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from socketserver import ForkingTCPServer, StreamRequestHandler
from types import TracebackType
from typing import Any
from urllib.request import ProxyHandler, build_opener

from .errors import LabError
from .ports import HOST

PACKAGE = Path(__file__).parents[1]
MEBIBYTE = 1 << 20
IDLE_RUNS = 3
# The process is killed when it takes longer; what it takes more of than this it does not get.
MOST_SECONDS = 45
MOST_MEBIBYTES = 384


@dataclass(frozen=True)
class Outcome:
    """What came of a check run.

    `mebibytes` is the peak of its memory beyond that of an idle one; `unforeseen` are the tracebacks that the check
    logged; `about` names the metrics that have a tag with the identity that was asked for, and `after` is the error of
    the next run, when the server is healthy again, or the lack of a metric.
    """

    mebibytes: float
    seconds: float
    error: str
    error_type: str
    warnings: list[str]
    names: list[str]
    about: list[str]
    unforeseen: list[str]
    after: str = ""

    def line(self, name: str) -> str:
        """One line that says what it cost."""
        return f"{name:<72} {self.mebibytes:7.1f} MiB {self.seconds:6.1f} s"


class ForkedChecks:
    """Starts the process at entry and ends it at exit. `idle_url` is a healthy server's."""

    def __init__(self, idle_url: str) -> None:
        self._idle_url = idle_url

    def __enter__(self) -> ForkedChecks:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._idle_url], cwd=PACKAGE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__(None, None, None)
            raise LabError("The process that check runs are forked from did not start.")
        self._port = int(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(self, urls: Sequence[str], identity: str = "", recovers: bool = True) -> Iterator[Outcome]:
        """A check run of a new Agent for each URL, one after another, in one process.

        Raises `LabError` where one does not end, or takes its process with it.
        """
        task = {"urls": list(urls), "idle_url": self._idle_url, "identity": identity, "recovers": recovers}
        with socket.create_connection((HOST, self._port)) as connection, connection.makefile("rw") as stream:
            print(json.dumps(task), file=stream, flush=True)
            for number in range(1, len(urls) + 1):
                line = stream.readline()
                if not line:
                    raise LabError(f"Check run {number} of {len(urls)} died, or was killed after {MOST_SECONDS} s.")
                yield Outcome(**json.loads(line))


class _Tracebacks(logging.Handler):
    """Keeps the tracebacks that the check logs; what the libraries log is none of its."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("datadog_checks"):
            text = logging.Formatter().format(record)
            if "Traceback (most recent call last)" in text:
                self.seen.append(text)


class _Task(StreamRequestHandler):
    """Runs in the forked process."""

    def handle(self) -> None:
        task = json.loads(self.rfile.readline())
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEBIBYTES * MEBIBYTE, MOST_MEBIBYTES * MEBIBYTE))
        tracebacks = _Tracebacks()
        logging.getLogger().addHandler(tracebacks)
        _begin_measuring()
        _agent(task["idle_url"]).run()
        idle_peak = _peak_mebibytes()
        for url in task["urls"]:
            outcome = _run(url, task, idle_peak, tracebacks)
            self.wfile.write(json.dumps(asdict(outcome)).encode() + b"\n")


def _run(url: str, task: dict[str, Any], idle_peak: float, tracebacks: _Tracebacks) -> Outcome:
    tracebacks.seen.clear()
    agent = _agent(url)
    signal.alarm(MOST_SECONDS)
    _begin_measuring()
    begun = time.monotonic()
    result = agent.run()
    seconds, peak = time.monotonic() - begun, _peak_mebibytes()
    identity = task["identity"]
    about = {series.name for series in result.series if any(tag.endswith(f":{identity}") for tag in series.tags)}
    outcome = Outcome(
        mebibytes=peak - idle_peak,
        seconds=seconds,
        error=result.error,
        error_type=result.error_type,
        warnings=result.warnings,
        names=sorted(result.names()),
        about=sorted(about) if identity else [],
        unforeseen=list(tracebacks.seen),
        after=_after(url, agent) if task["recovers"] else "",
    )
    # What this run left over must not be taken for the memory of the next one.
    del agent, result
    gc.collect()
    return outcome


def _after(url: str, agent: Any) -> str:
    signal.alarm(MOST_SECONDS)
    with build_opener(ProxyHandler({})).open(f"{url}/heal"):
        result = agent.run()
    if result.error or result.matching("work_pool.is_ready"):
        return str(result.error)
    return f"no status of the pool; {result.warnings}"


def _agent(url: str) -> Any:
    from .agent import Agent, forget_everything

    forget_everything()
    # There is no TLS here, and to load the authorities that the host trusts takes longer than an idle check run.
    return Agent({"prefect_url": url, "skip_proxy": True, "collect_events": True, "tls_verify": False})


def _begin_measuring() -> None:
    """From now on the kernel keeps the peak of this process's memory."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mebibytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(line for line in lines if line.startswith("VmHWM:")).split()[1]
    return int(kibibytes) / 1024


class _Server(ForkingTCPServer):
    request_queue_size = 128
    max_children = 128

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Task)
        self._parent = os.getppid()

    def service_actions(self) -> None:
        super().service_actions()
        if os.getppid() != self._parent:
            raise SystemExit  # nobody is left to ask for anything


def main(idle_url: str) -> None:
    """Wait for tasks, until the end of the process that started this one."""
    for _ in range(IDLE_RUNS):
        result = _agent(idle_url).run()
        if result.error or result.warnings:
            raise LabError(f"An idle check run fails: {[result.error, *result.warnings]}")
    gc.collect()
    gc.freeze()  # what is there at the fork stays, and need not be looked through after each run
    with _Server() as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
