"""Finding out where what is known of a large set differs from the server, by counts alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datadog_checks.prefect.api.paging import MOST_IDS


@dataclass
class CountBisection:
    """Compares the server's counts with one's own, in parts that are halved where they differ.

    `count` asks the server about the things of these ids, `known` says what it should answer. What differs goes to
    `found` when it is one thing, or weighs no more than `small_enough` by either count. No more than `requests` are
    made; what they did not suffice for is looked into from where the last one stopped.
    """

    count: Callable[[Sequence[str]], int]
    known: Callable[[Sequence[str]], int]
    found: Callable[[Sequence[str]], None]
    small_enough: int
    requests: int

    def look_into(self, ids: Sequence[str], start: int = 0) -> int | None:
        """Compare all, beginning at this position; returns where it stopped, None when it did not. Raises `ApiError`.

        Positions wrap around: what lies before the start comes last.
        """
        start = min(start, len(ids))
        parts = [(position, len(ids)) for position in range(start, len(ids), MOST_IDS)]
        parts += [(position, start) for position in range(0, start, MOST_IDS)]
        for position, end in parts:
            part = ids[position : min(position + MOST_IDS, end)]
            if self.requests <= 0 or not self._compare(part, self._ask(part)):
                return position
        return None

    def _compare(self, ids: Sequence[str], counted: int) -> bool:
        """Whether there were requests enough to find all that differs."""
        known = self.known(ids)
        if counted == known:
            return True
        if len(ids) == 1 or max(counted, known) <= self.small_enough:
            self.found(ids)
            return True
        if self.requests <= 0:
            return False
        middle = len(ids) // 2
        counted_left = self._ask(ids[:middle])
        left_done = self._compare(ids[:middle], counted_left)
        return self._compare(ids[middle:], counted - counted_left) and left_done

    def _ask(self, ids: Sequence[str]) -> int:
        self.requests -= 1
        return self.count(ids)
