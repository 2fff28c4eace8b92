"""Which transitions were counted before their events came, so that these add nothing when they come."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .seen_keys import SeenKeys, bucket_of, start_of

# Bound the stored state; what is older than the oldest transition that is kept is not counted any more.
MOST_COUNTED = 40_000
MOST_IN_FULL = 5_000


class Ledger:
    """Transitions by their keys and times.

    What is counted in a check run is staged by `add` until `commit`; `begin` drops what was staged and not committed.
    """

    def __init__(self, counted: SeenKeys | None = None) -> None:
        self._counted = counted or SeenKeys()
        self._staged: dict[str, datetime] = {}

    def begin(self) -> None:
        self._staged = {}

    def has(self, key: str, at: datetime) -> bool:
        return key in self._staged or self._counted.has(key, at)

    def add(self, key: str, at: datetime) -> None:
        self._staged[key] = at

    def commit(self, came: Mapping[str, datetime], forget_before: datetime) -> datetime | None:
        """Keep what was staged, without what the events that `came` tell.

        Returns since when transitions are remembered, if older ones had to be forgotten.
        """
        for key, at in self._staged.items():
            self._counted.add(key, at)
        for key, at in came.items():
            self._counted.discard(key, at)
        self._staged = {}
        self._counted.forget_before(bucket_of(forget_before))
        self._counted.coarsen_but_newest(MOST_IN_FULL)
        first_kept = self._counted.first_of_newest(MOST_COUNTED)
        if first_kept is None:
            return None
        self._counted.forget_before(first_kept)
        return start_of(first_kept)

    def pack(self) -> dict[str, str]:
        return self._counted.pack()

    @classmethod
    def unpack(cls, packed: Any) -> Ledger:
        """The inverse of `pack`; raises `ValueError` for what it did not write."""
        try:
            return cls(SeenKeys.unpack(packed))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"damaged: {error}") from None
