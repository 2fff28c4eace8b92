"""Random histories of events, late arrivals, failures and restarts: no event is ever lost or given out twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datadog_checks.prefect.api.errors import Unreachable

from .events_endpoint import EventsEndpoint

INTERVAL = timedelta(seconds=15)
# The look-back is cut to whole minutes, and the next check run may be 400 s away.
VISIBLE_WITHIN_SECONDS = 3100
SET_BACK_BY_AT_MOST_SECONDS = 1800

DISTURBANCES = {
    "none": (st.just(0), st.just(0)),
    "set back": (st.just(0), st.integers(1, 600)),
    "restart": (st.just(0), st.just(0)),
    "fail": (st.integers(1, 6), st.just(0)),
    "partly": (st.integers(0, 5), st.just(0)),
    "short of time": (st.integers(1, 4), st.just(0)),
    "arrive meanwhile": (st.integers(1, 6), st.integers(0, VISIBLE_WITHIN_SECONDS)),
}
# How many events, and how long ago the first of them occurred.
arrivals = st.tuples(st.integers(0, 60), st.integers(-600, VISIBLE_WITHIN_SECONDS))
disturbances = st.one_of([st.tuples(st.just(kind), *numbers) for kind, numbers in DISTURBANCES.items()])
passing_seconds = st.integers(0, 400)
ROUNDS = st.lists(st.tuples(arrivals, disturbances, passing_seconds), max_size=6)


class History:
    """A server and the check that reads its events, with what the server sent and what the check gave out."""

    def __init__(self) -> None:
        self.endpoint = EventsEndpoint()
        self.feed = self.endpoint.feed()
        self.sent: list[str] = []
        self.given_out: Counter[str] = Counter()
        self.saved: str | None = None
        self._latest = self.endpoint.clock
        self.run()
        # The feed reaches back to its beginning only, which is more than an hour ago when the events begin.
        for _ in range(3):
            self.pass_time(1500)
            self.send(100, 1459)
            self.run()

    def pass_time(self, seconds: float) -> None:
        earliest = self._latest - timedelta(seconds=SET_BACK_BY_AT_MOST_SECONDS)
        self.endpoint.clock = max(earliest, self.endpoint.clock + timedelta(seconds=seconds))
        self._latest = max(self._latest, self.endpoint.clock)

    def send(self, number: int, seconds_ago: float) -> None:
        """Events become visible, 14.6 s apart; none that occurred before what a clock set back still reaches."""
        reach = VISIBLE_WITHIN_SECONDS - (self._latest - self.endpoint.clock).total_seconds()
        for index in range(number):
            name = f"e{len(self.sent)}"
            self.endpoint.happen(name, seconds_ago=min(reach, max(-600, seconds_ago - 14.6 * index)))
            self.sent.append(name)

    def run(self, commit: int | None = None) -> None:
        """One check run, which commits the first events only where it is told so."""
        try:
            reading = self.feed.read(INTERVAL)
        except Unreachable:
            return
        finally:
            self.endpoint.before_answer = lambda number: None
            self.endpoint.left = 15.0
        assert reading.lost is None
        taken = reading.events[:commit]
        self.given_out.update(event.id for event in taken)
        self.feed.commit(taken)
        self.saved = json.dumps(self.feed.document())

    def disturb(self, kind: str, number: int, seconds: int) -> None:
        if kind == "set back":
            self.pass_time(-seconds)
        elif kind == "restart":
            self.feed = self.endpoint.feed(json.loads(self.saved or "null"))
        elif kind != "none":
            self.endpoint.before_answer = self._disturbance(kind, len(self.endpoint.requests) + number, seconds)
            self.run(number if kind == "partly" else None)

    def check(self) -> None:
        """What an undisturbed check run leaves behind: all that was visible is given out, and once."""
        assert self.given_out == Counter(self.sent)

    def _disturbance(self, kind: str, at: int, seconds: int) -> Callable[[int], None]:
        def disturb(number: int) -> None:
            if kind == "fail" and number >= at:
                raise Unreachable("http://prefect.test/api", "reset")
            if kind == "short of time" and number >= at:
                self.endpoint.left = 7.0
            if kind == "arrive meanwhile" and number <= at:
                self.send(3, seconds)

        return disturb


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(ROUNDS)
def test_no_event_is_lost_or_given_out_twice(
    rounds: list[tuple[tuple[int, int], tuple[str, int, int], int]],
) -> None:
    world = History()
    for arriving, disturbance, seconds in rounds:
        world.send(*arriving)
        world.disturb(*disturbance)
        world.pass_time(seconds)
        world.run()
        world.check()
