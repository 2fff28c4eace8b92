"""Finding by counts what differs: all of it, and with no more requests than there may be."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datadog_checks.prefect.mirror import count_bisection
from datadog_checks.prefect.mirror.count_bisection import CountBisection

numbers = st.dictionaries(st.integers(0, 60).map(lambda number: f"{number:02}"), st.integers(0, 9), min_size=1)


class Asked:
    """A server that has so many things of each id, while we think otherwise."""

    def __init__(self, server: dict[str, int], known: dict[str, int], small_enough: int, requests: int) -> None:
        self.server = server
        self.found: set[str] = set()
        self.requests = 0
        self.bisection = CountBisection(
            self.count, lambda ids: sum(known[name] for name in ids), self.found.update, small_enough, requests
        )

    def count(self, ids: Sequence[str]) -> int:
        self.requests += 1
        return sum(self.server.get(name, 0) for name in ids)


@given(numbers, st.data(), st.integers(0, 12), st.integers(0, 70))
def test_what_differs_is_found_wherever_the_survey_begins(
    known: dict[str, int], data: st.DataObject, small_enough: int, start: int
) -> None:
    more = data.draw(st.dictionaries(st.sampled_from(sorted(known)), st.integers(1, 5)))
    server = {name: number + more.get(name, 0) for name, number in known.items()}
    asked = Asked(server, known, small_enough, requests=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count_bisection, "MOST_IDS", 16)
        assert asked.bisection.look_into(sorted(known), start) is None
    assert more.keys() <= asked.found


@given(numbers, st.integers(0, 20))
def test_no_more_requests_are_made_than_there_may_be_and_the_next_survey_goes_on(
    known: dict[str, int], most: int
) -> None:
    server = {name: number + 1 for name, number in known.items()}
    start: int | None = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count_bisection, "MOST_IDS", 8)
        asked = Asked(server, known, 0, requests=most)
        stopped_at = asked.bisection.look_into(sorted(known), start or 0)
    # To tell two halves apart takes one request.
    assert asked.requests <= most
    assert stopped_at is None or stopped_at < len(known)
    if stopped_at is None:
        assert asked.found == known.keys()


def test_where_all_is_as_known_one_request_a_part_is_enough() -> None:
    known = {f"{number:04}": 3 for number in range(1200)}
    asked = Asked(known, known, 50, requests=100)
    assert asked.bisection.look_into(sorted(known)) is None
    assert (asked.requests, asked.found) == (3, set())


def test_one_that_differs_among_a_thousand_takes_a_request_a_halving() -> None:
    known = {f"{number:04}": 20 for number in range(512)}
    asked = Asked({**known, "0300": 21}, known, 50, requests=100)
    assert asked.bisection.look_into(sorted(known)) is None
    assert "0300" in asked.found
    assert len(asked.found) <= 2
    assert asked.requests == 1 + 8
