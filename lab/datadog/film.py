"""What `make dashboard` draws: check runs of the demo and the lab's plant on one server, or of an existing one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from lab.agent import Agent, CheckRunResult
from lab.demo import DEMO_SETTINGS
from lab.errors import LabError
from lab.light_worker import Job
from lab.plant import CLUSTER, Plan, Plant
from lab.prefect_api import PrefectApi
from lab.scenario import Scenario
from lab.server import PrefectServer

from .series import Recording

HOST = "demo-agent"
INTERVAL_SECONDS = 5.0
STEP_SECONDS = 0.5
# What is beside the demo's own flows: something fails, crashes, is tried again, pauses.
TROUBLED = (
    Plan(
        "customer-import",
        "import-customers",
        CLUSTER,
        "bulk",
        12,
        Job(9, ("fetch", "match", "store"), {"COMPLETED": 0.8, "FAILED": 0.15, "CRASHED": 0.05}, 0.3, 0.15, 0.08),
    ),
    Plan("invoices", "send-invoices", CLUSTER, "critical", 15, Job(4, ("render", "send"), retries=0.1)),
)

Progress = Callable[[str], None]


class FilmingAgent(Agent):
    """An Agent whose check runs are recorded, one after the other also when several threads ask for them."""

    def __init__(self, instance: Mapping[str, Any], recording: Recording) -> None:
        super().__init__(instance)
        self._recording, self._lock = recording, threading.Lock()

    def run(self) -> CheckRunResult:
        with self._lock:
            result = super().run()
            self._recording.add(result, time.time(), HOST)
            return result


def film_demo(seconds: float, progress: Progress, with_plant: bool = True) -> Recording:
    """The demo of `make check`, on a server that has more to do or not, for so long or for as long as it takes."""
    recording = Recording(INTERVAL_SECONDS)
    with PrefectServer(DEMO_SETTINGS) as server:
        agent = FilmingAgent(
            {
                "prefect_url": server.api_url,
                "collect_events": True,
                "tags": ["team:data"],
                "service": "prefect",
                "skip_proxy": True,
                "min_collection_interval": INTERVAL_SECONDS,
            },
            recording,
        )
        plant = Plant(PrefectApi(server.api_url), seed=4, more=TROUBLED)
        if with_plant:
            plant.set_up()
        demo = _Background(lambda: Scenario(server, agent, progress).play())
        begin = time.monotonic()
        number = 0
        while demo.is_running or time.monotonic() < begin + seconds:
            while time.monotonic() < begin + number * INTERVAL_SECONDS:
                plant.step()
                time.sleep(STEP_SECONDS)
            if not demo.is_running:
                demo.result()
            if (result := agent.run()).error:
                raise LabError(result.error)
            number = int((time.monotonic() - begin) / INTERVAL_SECONDS) + 1
        demo.result()
        for service in ("server", "worker"):
            text = (server.folder / f"{service}.log").read_text(encoding="utf-8", errors="replace")
            recording.logs += [(f"prefect-{service}", line) for line in text.splitlines()]
    return recording


def film_existing(url: str, seconds: float, interval: float) -> Recording:
    """Check runs of an existing server."""
    recording = Recording(interval)
    agent = FilmingAgent({"prefect_url": url, "collect_events": True}, recording)
    begin = time.monotonic()
    number = 0
    while number * interval <= seconds:
        time.sleep(max(0.0, begin + number * interval - time.monotonic()))
        if (result := agent.run()).error:
            raise LabError(result.error)
        number += 1
    return recording


class _Background:
    """A call in a thread of its own, whose error is raised by `result`."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            self._error = error

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> None:
        self._thread.join()
        if self._error:
            raise self._error
