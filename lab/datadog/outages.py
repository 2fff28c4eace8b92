"""`make recordings`: what an Agent sees of a healthy server and of broken ones, recorded for the tests of the monitors.

Each is eighteen minutes of check runs, 15 seconds apart, of a real server: some minutes of health, then the fault.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab.agent import Agent
from lab.plant import CLUSTER, Plant
from lab.prefect_api import PrefectApi
from lab.proxy import Proxy, fails_with
from lab.server import FAST_EVENTS, PrefectServer

from .series import Recording

RECORDINGS = Path(__file__).with_name("recordings")
INTERVAL_SECONDS = 15.0
RUNS = 72
HEALTHY_RUNS = 14
STEP_SECONDS = 1.0
HOST = "agent-1"
TAGS = ["team:data"]


class Site:
    """A server with its plant, behind a proxy, and what can go wrong there."""

    def __init__(self, server: PrefectServer, proxy: Proxy) -> None:
        self.server, self.proxy = server, proxy
        self.api = PrefectApi(server.api_url)
        self.plant = Plant(self.api, seed=6)
        # The Agent asks the server itself, unless something is put in between.
        self.agent = self._agent(server.api_url)
        self.is_up = True
        self._replaced = 0

    def _agent(self, url: str) -> Agent:
        return Agent({"prefect_url": url, "skip_proxy": True, "tags": TAGS, "service": "prefect"})

    def stop_worker(self) -> None:
        self.plant.workers.remove(self.plant.worker_of(CLUSTER))

    def stop_polling(self) -> None:
        """The worker is set to another queue: nobody serves `bulk` any more."""
        self.plant.worker_of(CLUSTER).queues = ["critical"]

    def fail(self) -> None:
        self.plant.plans["orders-sync"].job.endings = {"FAILED": 0.6, "CRASHED": 0.4}

    def stop_server(self) -> None:
        self.server.stop()
        self.is_up = False

    def lose_database(self) -> None:
        """The readiness endpoint answers as Prefect's does when its database cannot be reached."""
        self.proxy.spoil("/api/ready$", fails_with(503))
        self.agent = self._agent(self.server.api_url.replace(self.server.url, self.proxy.url))

    def replace_worker(self) -> None:
        """A new pod takes over from the last, as after each deployment of the workers."""
        old = self.plant.worker_of(CLUSTER)
        self._replaced += 1
        new = self.plant.add_worker(CLUSTER, f"{CLUSTER}-worker-{self._replaced}")
        new.take_over(old)
        self.plant.workers.remove(old)

    def slow_down(self) -> None:
        self.plant.plans["train-model"].job.seconds *= 3

    def overload(self) -> None:
        self.plant.worker_of(CLUSTER).most_runs = 1

    def limit(self) -> None:
        """The queue may run one at a time, just when there is more to do than usual."""
        self.api.update_work_queue(CLUSTER, "bulk", concurrency_limit=1)
        for _ in range(12):
            self.api.create_deployment_run(self.plant.ids["train-model"])


# What is done after the healthy part, and whether it is done again every minute.
FAULTS: dict[str, tuple[Callable[[Site], None] | None, bool]] = {
    "healthy": (None, False),
    "stopped_worker": (Site.stop_worker, False),
    "stopped_polling": (Site.stop_polling, False),
    "failing_flow": (Site.fail, False),
    "stopped_server": (Site.stop_server, False),
    "replaced_workers": (Site.replace_worker, True),
    "lost_database": (Site.lose_database, False),
    "slow_flow": (Site.slow_down, False),
    "overloaded_worker": (Site.overload, False),
    "tight_limit": (Site.limit, False),
}


def record(fault: str) -> Recording:
    """Eighteen minutes of check runs, in which the fault comes after three and a half minutes."""
    act, again = FAULTS[fault]
    recording = Recording(INTERVAL_SECONDS)
    with PrefectServer(FAST_EVENTS) as server, Proxy(server.url) as proxy:
        site = Site(server, proxy)
        site.plant.set_up()
        begin = time.monotonic()
        for number in range(RUNS):
            while time.monotonic() < begin + number * INTERVAL_SECONDS:
                if site.is_up:
                    site.plant.step()
                time.sleep(STEP_SECONDS)
            if act and (number == HEALTHY_RUNS or (again and number > HEALTHY_RUNS and number % 4 == 0)):
                act(site)
            recording.add(site.agent.run(), time.time(), HOST)
    return recording


def main() -> int:
    for fault in sys.argv[1:] or FAULTS:
        print(f"Recording {fault}: {RUNS * INTERVAL_SECONDS / 60:.0f} minutes ...", file=sys.stderr, flush=True)
        RECORDINGS.mkdir(exist_ok=True)
        record(fault).save(RECORDINGS / f"{fault}.json.gz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
