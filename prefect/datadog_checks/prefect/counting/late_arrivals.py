"""How many events became visible after the look-back, by totals alone: the check warns of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

WATCHED = 60

# The server's total of events in the minutes from the first number to before the second.
TotalOf = Callable[[int, int], int]


class LateArrivals:
    """The number of events in each of the last minutes that left the look-back, without gaps."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts = dict(counts or {})
        self._changed = False

    def close(self, first: int, counts: Mapping[int, int]) -> None:
        """Append the minutes that just left the look-back, beginning with `first`, and drop the oldest."""
        if not counts:
            return
        if self._counts and max(self._counts) + 1 != first:
            self._counts.clear()
        self._counts.update(counts)
        self._changed = True
        for number in sorted(self._counts)[:-WATCHED]:
            del self._counts[number]

    def count_arrivals(self, total_of: TotalOf) -> int:
        """The number of events that arrived in these minutes since they left the look-back, each told once.

        Asks the server only after a change, about once a minute.
        """
        if not self._changed or not self._counts:
            return 0
        arrived = self._count_between(min(self._counts), max(self._counts) + 1, total_of)
        if arrived < 0:
            # Known events are gone, for example after a restored backup: begin anew.
            self._counts.clear()
        self._changed = False
        return max(0, arrived)

    def _count_between(self, first: int, end: int, total_of: TotalOf) -> int:
        arrived = total_of(first, end) - sum(self._counts[number] for number in range(first, end))
        if arrived > 0 and end - first == 1:
            self._counts[first] += arrived
        elif arrived > 0:
            middle = (first + end) // 2
            self._count_between(first, middle, total_of)
            self._count_between(middle, end, total_of)
        return arrived

    def pack(self) -> dict[str, int]:
        return {str(number): count for number, count in self._counts.items()}

    @classmethod
    def unpack(cls, packed: Mapping[str, int]) -> LateArrivals:
        """The inverse of `pack`; raises `ValueError`, `TypeError` or `AttributeError` for anything else."""
        counts = {int(number): int(count) for number, count in packed.items()}
        if counts and len(counts) != max(counts) - min(counts) + 1:
            raise ValueError("minutes are missing")
        return cls(counts)
