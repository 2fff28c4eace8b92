"""Check runs in a process of their own, and what they cost.

The process does a run for each line that it reads, and answers with a line of JSON. The line `restart` gives it a new
check, as a restart of the Agent does, and has no answer.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import requests
from requests.adapters import HTTPAdapter

MEBIBYTE = 1 << 20


@dataclass
class Cost:
    """What one run took: seconds on the wall and of both processors, requests, bytes both ways, and mebibytes.

    `workers_seconds` is what the workers took, `stored` the characters of state that it wrote, `gauges` are the sums
    of gauges by name and `series` their number, and `warnings` the lines in the check's status.
    """

    wall: float = 0.0
    client_cpu: float = 0.0
    server_cpu: float = 0.0
    requests: float = 0
    sent_and_received: float = 0
    memory: float = 0.0
    workers_seconds: float = 0.0
    stored: float = 0
    gauges: dict[str, float] = field(default_factory=dict)
    series: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Metered:
    """The process, from entry to exit. `task` is what `main` takes; `server_pid` names the server whose time counts."""

    def __init__(self, task: dict[str, Any], server_pid: int | None) -> None:
        self._task = task
        self._server = psutil.Process(server_pid)

    def __enter__(self) -> Metered:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lab.metered", json.dumps(self._task)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def restart(self) -> None:
        """Go on with a new check, which has the stored state of the old one."""
        assert self._process.stdin is not None
        self._process.stdin.write("restart\n")

    def run(self) -> Cost:
        """One run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        before = self._server_cpu()
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        cost = Cost(**json.loads(self._process.stdout.readline()))
        cost.server_cpu = self._server_cpu() - before
        return cost

    def _server_cpu(self) -> float:
        times = self._server.cpu_times()
        return float(times.user + times.system)


class _Meter:
    """Counts what goes through `requests`, and what is submitted."""

    def __init__(self) -> None:
        self.cost = Cost()
        send = HTTPAdapter.send

        def metered(adapter: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            answer = send(adapter, request, **options)
            self.cost.requests += 1
            self.cost.sent_and_received += len(request.body or b"") + int(answer.headers.get("Content-Length") or 0)
            return answer

        HTTPAdapter.send = metered  # type: ignore[assignment,method-assign]

    def watch_state(self, check: Any) -> None:
        """Count what the check stores."""
        write = check.write_persistent_cache

        def metered(key: str, text: str) -> None:
            self.cost.stored += len(text)
            write(key, text)

        check.write_persistent_cache = metered

    def submit_metric(self, check: Any, check_id: str, kind: int, name: str, value: float, *_: Any) -> None:
        """In place of the stub's, which keeps all; the Agent's own is not Python and costs little."""
        if kind == 0:
            self.cost.gauges[name] = self.cost.gauges.get(name, 0.0) + value
            self.cost.series[name] = self.cost.series.get(name, 0) + 1


def main(task: dict[str, Any]) -> None:
    """Do runs as long as there are lines.

    `task` has the server's `url`, and `everything` for the baseline, or `at_a_time`: how many requests for workers go
    side by side.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    meter = _Meter()
    process = psutil.Process()
    run = _baseline(task) if task.get("everything") else _check(task, meter)
    for line in sys.stdin:
        if line == "restart\n":
            run = _check(task, meter)
            continue
        meter.cost = Cost()
        began, cpu_before = time.perf_counter(), time.process_time()
        meter.cost.warnings = run()
        meter.cost.wall = time.perf_counter() - began
        meter.cost.client_cpu = time.process_time() - cpu_before
        meter.cost.memory = process.memory_info().rss / MEBIBYTE
        print(json.dumps(asdict(meter.cost)), flush=True)


def _baseline(task: dict[str, Any]) -> Callable[[], list[str]]:
    from .read_everything import ReadEverything

    reader = ReadEverything(task["url"])

    def run() -> list[str]:
        reader.run()
        return []

    return run


def _check(task: dict[str, Any], meter: _Meter) -> Callable[[], list[str]]:
    from datadog_checks.prefect.collectors import work_pools
    from datadog_checks.prefect.output.submitter import Sheet

    from .agent import Agent, aggregator

    if task.get("at_a_time"):
        work_pools.SIDE_BY_SIDE = task["at_a_time"]
    collect = work_pools.Workers.collect

    def timed(self: work_pools.Workers, sheet: Sheet) -> None:
        began = time.perf_counter()
        collect(self, sheet)
        meter.cost.workers_seconds = time.perf_counter() - began

    work_pools.Workers.collect = timed  # type: ignore[method-assign]
    agent = Agent({"prefect_url": task["url"], "skip_proxy": True})
    aggregator.submit_metric = meter.submit_metric
    meter.watch_state(agent.check)

    def run() -> list[str]:
        report = agent.check.run()
        failure = [json.loads(report)[0]["message"]] if report else []
        return [*failure, *agent.check.get_warnings()]

    return run


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
