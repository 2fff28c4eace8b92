"""Finds where the known objects of a large set differ from the server's, by counts alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datadog_checks.prefect.api.paging import MOST_IDS


@dataclass
class CountBisection:
    """Compares the server's counts with the known ones, and halves the parts that differ.

    `count` asks the server for the count of these ids; `known` is the expected count. `found` gets each part that
    differs, as soon as it is a single id or neither count exceeds `small_enough`; `agrees` gets the others. `requests`
    limits the requests; the next bisection goes on where this one stopped.
    """

    count: Callable[[Sequence[str]], int]
    known: Callable[[Sequence[str]], int]
    found: Callable[[Sequence[str]], None]
    small_enough: int
    requests: int
    agrees: Callable[[Sequence[str]], None] = lambda ids: None

    def look_into(self, ids: Sequence[str], start: int = 0) -> int | None:
        """Compare all ids, beginning at this position and wrapping around. Raises `ApiError`.

        Returns the position where the requests ran out; None if all were compared.
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
        """Whether the requests were enough to find all differences."""
        known = self.known(ids)
        if counted == known:
            self.agrees(ids)
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
