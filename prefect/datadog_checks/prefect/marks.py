"""A compact memory of things that happened at known times, bounded in size, for telling what was seen before."""

from __future__ import annotations

import base64
import hashlib
import sys
from array import array
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

BUCKET = timedelta(minutes=1)


class Marks:
    """Things, each named by a key and the time at which it happened, kept as 64-bit digests by the minute."""

    def __init__(self, buckets: Mapping[int, set[int]] | None = None) -> None:
        self._buckets: dict[int, set[int]] = {number: set(digests) for number, digests in (buckets or {}).items()}

    def __len__(self) -> int:
        return sum(len(digests) for digests in self._buckets.values())

    def has(self, key: str, at: datetime) -> bool:
        return _digest(key) in self._buckets.get(bucket_of(at), ())

    def add(self, key: str, at: datetime) -> None:
        self._buckets.setdefault(bucket_of(at), set()).add(_digest(key))

    def update(self, other: Marks) -> None:
        for number, digests in other._buckets.items():
            self._buckets.setdefault(number, set()).update(digests)

    def count(self, first: int, end: int) -> int:
        """How many there are in the buckets from `first` to before `end`."""
        return sum(len(digests) for number, digests in self._buckets.items() if first <= number < end)

    def oldest_bucket(self, first: int) -> int:
        """The first bucket from `first` on with something in it; one of the far future when there is none."""
        return min((number for number in self._buckets if number >= first), default=sys.maxsize)

    def forget_before(self, bucket: int) -> None:
        for number in [number for number in self._buckets if number < bucket]:
            del self._buckets[number]

    def forget_down_to(self, most: int) -> int | None:
        """Forget the oldest buckets until at most `most` marks are left; returns the first bucket kept, if any went."""
        first_kept = None
        while len(self) > most and len(self._buckets) > 1:
            oldest = min(self._buckets)
            del self._buckets[oldest]
            first_kept = oldest + 1
        return first_kept

    def pack(self) -> dict[str, str]:
        return {str(number): _pack(digests) for number, digests in sorted(self._buckets.items())}

    @classmethod
    def unpack(cls, packed: Mapping[str, str]) -> Marks:
        """The inverse of `pack`; raises `ValueError`, `TypeError` or `AttributeError` for what it did not write."""
        return cls({int(number): _unpack(text) for number, text in packed.items()})


def bucket_of(moment: datetime) -> int:
    return int(moment.timestamp() // BUCKET.total_seconds())


def start_of(bucket: int) -> datetime:
    return datetime.fromtimestamp(bucket * BUCKET.total_seconds(), UTC)


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _pack(digests: Iterable[int]) -> str:
    return base64.b64encode(array("Q", sorted(digests)).tobytes()).decode("ascii")


def _unpack(text: str) -> set[int]:
    packed = array("Q")
    packed.frombytes(base64.b64decode(text, validate=True))
    return set(packed)
