"""Cases of hostile servers, played side by side, and what must hold in each of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from datadog_checks.prefect.config.settings import LEAST_BUDGET_SECONDS
from lab.forked_checks import ForkedChecks, Outcome
from lab.hostile import Answer, HostileServer, Scene

MOST_MEBIBYTES = 64.0
# What a busy machine adds.
TOLERANCE_SECONDS = 10.0
MOST_CHARACTERS = 10_000
OUR_ERRORS = "datadog_checks.prefect."
# How many cases at a time: most wait, for the end of the time or between attempts, the others unpack and parse.
BUSY, WAITING = 12, 60


@dataclass(frozen=True)
class Case:
    """Scenes that are played one after another, by name.

    `identity` is in the tags of what must be there nevertheless. A case that `waits` costs little while it lasts. One
    that does not `recover` leaves a time to wait behind, which the next check run keeps to.
    """

    name: str
    scenes: Mapping[str, Scene]
    waits: bool = False
    identity: str = ""
    recovers: bool = True


def case(
    name: str, answer: Answer, *paths: str, waits: bool = False, busy: bool = False, recovers: bool = True
) -> Case:
    """A case of one scene, in which all these paths have the same answer."""
    return Case(name, {name: Scene(dict.fromkeys(paths, answer), busy=busy)}, waits, recovers=recovers)


def on_each(name: str, answer: Answer, *paths: str, waits: bool = False, busy: bool = False) -> list[Case]:
    """The same answer on one path after another."""
    return [case(f"{name} on {path}", answer, path, waits=waits, busy=busy) for path in paths]


class Stand:
    """Plays cases side by side, so that the times that they wait do not add up."""

    def __init__(self, server: HostileServer, checks: ForkedChecks) -> None:
        self._server = server
        self._checks = checks
        self._busy, self._waiting = ThreadPoolExecutor(BUSY), ThreadPoolExecutor(WAITING)
        self._played: dict[str, Future[list[Outcome]]] = {}
        self._costs: dict[str, Outcome] = {}

    def begin_all(self, cases: Iterable[Case]) -> None:
        """Play each as soon as there is room for it, first those of many scenes, which would be the last to end."""
        for case in sorted(cases, key=lambda case: len(case.scenes), reverse=True):
            executor = self._waiting if case.waits else self._busy
            self._played[case.name] = executor.submit(self._play, case)

    def outcomes(self, case: Case) -> dict[str, Outcome]:
        """What came of each scene, which is printed as well."""
        outcomes = dict(zip(case.scenes, self._played[case.name].result(), strict=True))
        self._costs.update(outcomes)
        for name, outcome in outcomes.items():
            sys.stdout.write(f"\n{outcome.line(name)}")
        return outcomes

    def summary(self) -> str:
        """Lines about the dearest check runs."""
        lines = [f"Hostile server, {len(self._costs)} check runs: the most memory and the most time"]
        by_memory = sorted(self._costs.items(), key=lambda cost: cost[1].mebibytes, reverse=True)
        by_time = sorted(self._costs.items(), key=lambda cost: cost[1].seconds, reverse=True)
        lines += [outcome.line(name) for name, outcome in (*by_memory[:3], *by_time[:3])]
        return "\n".join(lines)

    def end(self) -> None:
        """Begin no other case."""
        for executor in (self._busy, self._waiting):
            executor.shutdown(cancel_futures=True)

    def _play(self, case: Case) -> list[Outcome]:
        urls = [self._server.url_of(scene) for scene in case.scenes.values()]
        return list(self._checks.run(urls, case.identity, case.recovers))


def assert_stands(outcomes: Mapping[str, Outcome]) -> None:
    """All within time and memory, with a health, and nothing that no code foresaw; healthy again with the server."""
    problems = [f"{name}: {problem}" for name, outcome in outcomes.items() for problem in _problems_of(outcome)]
    assert not problems, "\n".join(problems)


def _problems_of(outcome: Outcome) -> Iterator[str]:
    if outcome.mebibytes > MOST_MEBIBYTES:
        yield f"{outcome.mebibytes:.0f} MiB more than an idle run"
    if outcome.seconds > LEAST_BUDGET_SECONDS + TOLERANCE_SECONDS:
        yield f"{outcome.seconds:.1f} s"
    if "prefect.server.health" not in outcome.names:
        yield "no health"
    if outcome.error_type and not outcome.error_type.startswith(OUR_ERRORS):
        yield f"{outcome.error_type}: {outcome.error:.300}"
    if any(len(text) > MOST_CHARACTERS for text in (outcome.error, *outcome.warnings)):
        yield "an error or a warning that is longer than a screen"
    if outcome.unforeseen:
        yield f"unforeseen: {outcome.unforeseen[0].strip().splitlines()[-1]:.300}"
    if outcome.after:
        yield f"afterwards: {outcome.after:.300}"
