"""One experiment of the fault laboratory: check runs through a bad proxy, and what they submitted beside the truth."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from datadog_checks.prefect.api.client import Client
from datadog_checks.prefect.api.clock import ServerClock

from .agent import CheckedAgent, CheckRunResult, forget_everything
from .errors import LabError
from .faults import Fault, FaultProxy
from .late_events import LateEvents
from .poison import is_about, is_canonical
from .prefect_api import PrefectApi
from .server import FAST_EVENTS, PrefectServer
from .totals import Totals, missing, totals_of
from .truth import count_events, has_all_events, read_truth
from .waiting import wait_until
from .workload import Workload

CHECK_RUNS = 32
FLOW_RUNS = 80
RESTART_EVERY = 4
# Events are late by up to three check runs; one run more has them all.
RUNS_UNTIL_SEEN = 5
QUIET_RUNS = 3
RECORDING_SECONDS = 120.0
MOST_LAST_RUNS = 30
MOST_LINES = 20

# What changes states and statuses by itself, at times of its own, is left out, so that a seed tells the whole story.
SERVER_SETTINGS = {
    **FAST_EVENTS,
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
}


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment; `lost` and `twice` are lines of text, empty where all totals equal the truth."""

    seed: int
    rate: float
    drop_rate: float
    results: list[CheckRunResult]
    requests: int
    dealt: Counter[Fault]
    truth: Totals
    lost: list[str]
    twice: list[str]
    seconds: float
    poison_ids: frozenset[str]

    @property
    def is_exact(self) -> bool:
        return not self.lost and not self.twice

    @property
    def complaints(self) -> list[str]:
        """The errors and warnings of all check runs, with the number of the run, but those about bad events."""
        return [
            f"run {number}: {text}"
            for number, result in enumerate(self.results)
            for text in (*([result.error] if result.error else []), *result.warnings)
            if not is_about(text, self.poison_ids)
        ]

    def line(self) -> str:
        """One line of numbers."""
        counts, samples, events = self.truth.size
        dropped = f" drop {self.drop_rate:g}" if self.drop_rate else ""
        return (
            f"seed {self.seed} rate {self.rate:g}{dropped}: {len(self.results)} check runs, {self.requests} requests, "
            f"{self.dealt.total()} faults, {counts} counts, {samples} samples, {events} events, "
            f"{len(self.lost)} lost, {len(self.twice)} twice, {self.seconds:.0f} s"
        )

    def details(self) -> str:
        """What was lost or came twice, a line each, and how to see it again."""
        lines = [
            f"  {what:<6} {line}"
            for what, lines in (("lost", self.lost), ("twice", self.twice))
            for line in [*lines[:MOST_LINES], *(["..."] if len(lines) > MOST_LINES else [])]
        ]
        dropped = f" DROP={self.drop_rate:g}" if self.drop_rate else ""
        return "\n".join([*lines, f"  replay with make soak SEED={self.seed} RATE={self.rate:g}{dropped}"])


def run_experiment(seed: int, rate: float, drop_rate: float = 0.0, flow_runs: int = FLOW_RUNS) -> Outcome:
    """Start a server, let the seed's workload happen on it while an Agent checks it through faults, and compare.

    `rate` is the share of requests that are spoilt, `drop_rate` that of events that nobody ever sees. Raises `LabError`
    when something other than the check fails.
    """
    begun = time.monotonic()
    forget_everything()
    # the client's waits between its attempts are dealt by the seed, too
    random.seed(seed)
    try:
        with PrefectServer(SERVER_SETTINGS) as server:
            return _Experiment(server, seed, rate, drop_rate, flow_runs).outcome(begun)
    finally:
        forget_everything()


class _Experiment:
    def __init__(self, server: PrefectServer, seed: int, rate: float, drop_rate: float, flow_runs: int) -> None:
        self._seed = seed
        self._rate = rate
        self._drop_rate = drop_rate
        self._workload = Workload(server.api_url, seed, CHECK_RUNS, flow_runs)
        self._database = server.home / "prefect.db"
        self._events = LateEvents(
            PrefectApi(server.api_url),
            seed,
            self._workload.key_of,
            partial(count_events, self._database),
            drop_rate=drop_rate,
        )
        self._proxy = FaultProxy(server.url, seed, 0.0, self._events)
        self._agent = CheckedAgent(
            {"prefect_url": f"{self._proxy.url}/api", "collect_events": True, "skip_proxy": True}
        )
        self._hasten()
        self._results: list[CheckRunResult] = []

    def outcome(self, begun: float) -> Outcome:
        with self._proxy:
            # The first check run finds nothing; from then on everything counts.
            self._check()
            self._workload.set_up()
            self._proxy.before_request = self._workload.advance
            self._proxy.rate = self._rate
            for number in range(2, CHECK_RUNS + 1):
                self._workload.advance(number, 0)
                self._check()
            self._workload.finish()
            self._drain()
        if self._proxy.problems:
            raise LabError(f"The proxy failed: {self._proxy.problems[0]}")
        truth = read_truth(self._database)
        wanted = read_truth(self._database, unseen=self._events.dropped)
        submitted = totals_of(self._results)
        submitted.events = Counter({key: number for key, number in submitted.events.items() if is_canonical(key[1])})
        return Outcome(
            seed=self._seed,
            rate=self._rate,
            drop_rate=self._drop_rate,
            results=self._results,
            requests=self._proxy.requests,
            dealt=self._proxy.dealt,
            truth=truth,
            lost=missing(wanted, submitted),
            twice=missing(submitted, wanted),
            seconds=time.monotonic() - begun,
            poison_ids=frozenset(self._workload.poison_ids),
        )

    def _check(self) -> None:
        if self._results and len(self._results) % RESTART_EVERY == 0:
            self._agent.restart()
            self._hasten()
        self._proxy.begin_run()
        self._results.append(self._agent.run())

    def _drain(self) -> None:
        """Go on until everything is visible and has been collected."""
        sent = self._workload.sent_event_ids
        wait_until(lambda: has_all_events(self._database, sent), RECORDING_SECONDS, "The last events")
        for _ in range(RUNS_UNTIL_SEEN):
            self._check()
        self._proxy.rate = 0.0
        quiet = 0
        for _ in range(MOST_LAST_RUNS):
            waiting = self._events.hidden()
            self._check()
            quiet = 0 if waiting or self._results[-1].warnings or self._results[-1].error else quiet + 1
            if quiet == QUIET_RUNS:
                return
        result = self._results[-1]
        raise LabError(f"The check did not come to rest: {result.error} {result.warnings}")

    def _hasten(self) -> None:
        check: Any = self._agent.check
        check.check_initializations.append(lambda: hasten(check._api._client))


def hasten(client: Client) -> None:
    """Let a client's waits pass at once, in its own count of time: its budget shrinks, and nobody waits."""
    skipped = 0.0

    class UnhurriedClock(ServerClock):
        """That of the server does not hurry."""

        def observe(self, date_header: str | None, sent: float, received: float) -> None:
            super().observe(date_header, sent - skipped, received - skipped)

    def skip(seconds: float) -> None:
        nonlocal skipped
        skipped += seconds

    client.sleep = skip
    client.monotonic = lambda: time.monotonic() + skipped
    client.new_clock = UnhurriedClock
