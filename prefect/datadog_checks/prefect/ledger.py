"""Which transitions were counted, so that the second witness of one adds nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .marks import Marks, bucket_of, start_of

# Bounds the stored state; what is older than the oldest transition that is kept is not counted any more.
MOST_COUNTED = 50_000


class Ledger:
    """Transitions by what makes each unique: the run, and the time of its new state.

    What is counted in a check run is staged by `add` until `commit`; `begin` drops what was staged and not committed.
    """

    def __init__(self, counted: Marks | None = None) -> None:
        self._counted = counted or Marks()
        self._staged = Marks()

    def begin(self) -> None:
        self._staged = Marks()

    def has(self, run: str, at: datetime) -> bool:
        key = _key(run, at)
        return self._counted.has(key, at) or self._staged.has(key, at)

    def add(self, run: str, at: datetime) -> None:
        self._staged.add(_key(run, at), at)

    def commit(self, forget_before: datetime) -> datetime | None:
        """Keep what was staged; returns since when transitions are remembered, if older ones had to be forgotten."""
        self._counted.update(self._staged)
        self._staged = Marks()
        self._counted.forget_before(bucket_of(forget_before))
        first_kept = self._counted.forget_down_to(MOST_COUNTED)
        return None if first_kept is None else start_of(first_kept)

    def pack(self) -> dict[str, str]:
        return self._counted.pack()

    @classmethod
    def unpack(cls, packed: Any) -> Ledger:
        """The inverse of `pack`; raises `ValueError` for what it did not write."""
        try:
            return cls(Marks.unpack(packed))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"damaged: {error}") from None


def _key(run: str, at: datetime) -> str:
    return f"{run} {at.timestamp():.6f}"
