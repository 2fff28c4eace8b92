"""A compact memory of keys with their times, bounded in size: was this one seen before?"""

from __future__ import annotations

import base64
import hashlib
import sys
import zlib
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate

BUCKET_SECONDS = 60

# With 64 bits, digests of a minute do not collide. With 28 bits, one new key in 67,000 collides in a minute with 4,000
# keys: rare enough for old minutes, in which few events arrive.
FINE_BITS = 64
COARSE_BITS = 28
DELTA_BYTES = 8


@dataclass
class _Bucket:
    """The digests of one minute, cut to `bits`, and the number of keys that count."""

    bits: int = FINE_BITS
    count: int = 0
    digests: set[int] = field(default_factory=set)
    packed: str | None = None

    def cut(self, digest: int) -> int:
        return digest >> (FINE_BITS - self.bits)

    def coarsen(self) -> None:
        self.digests = {digest >> (self.bits - COARSE_BITS) for digest in self.digests}
        self.bits, self.packed = COARSE_BITS, None


class SeenKeys:
    """A set of keys, each with a time, kept as digests by the minute."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}

    def __len__(self) -> int:
        return sum(bucket.count for bucket in self._buckets.values())

    def has(self, key: str, at: datetime) -> bool:
        bucket = self._buckets.get(bucket_of(at))
        return bucket is not None and bucket.cut(_digest(key)) in bucket.digests

    def add(self, key: str, at: datetime) -> None:
        bucket = self._buckets.setdefault(bucket_of(at), _Bucket())
        digest = bucket.cut(_digest(key))
        if digest not in bucket.digests:
            bucket.digests.add(digest)
            bucket.count += 1
            bucket.packed = None

    def discard(self, key: str, at: datetime) -> None:
        bucket = self._buckets.get(bucket_of(at))
        if bucket is not None and (digest := bucket.cut(_digest(key))) in bucket.digests:
            bucket.digests.remove(digest)
            bucket.count -= 1
            bucket.packed = None
            if not bucket.digests:
                del self._buckets[bucket_of(at)]

    def count(self, first: int, end: int) -> int:
        """The number of keys in the buckets from `first` to before `end`."""
        return sum(bucket.count for number, bucket in self._buckets.items() if first <= number < end)

    def counts(self, first: int, end: int) -> dict[int, int]:
        """The same for each bucket, empty ones included."""
        return {number: self._buckets[number].count if number in self._buckets else 0 for number in range(first, end)}

    def recount(self, present: Mapping[int, int]) -> None:
        """Set the number of keys that count in each bucket. All keys stay known."""
        for number, bucket in self._buckets.items():
            bucket.count, bucket.packed = present.get(number, 0), None

    def oldest_bucket(self, first: int) -> int:
        """The first bucket from `first` on that is not empty; `sys.maxsize` if there is none."""
        return min((number for number in self._buckets if number >= first), default=sys.maxsize)

    def forget_before(self, first: int) -> None:
        for number in [number for number in self._buckets if number < first]:
            del self._buckets[number]

    def first_of_newest(self, most: int) -> int | None:
        """The first bucket to keep, so that about `most` keys are left; None if there are no more than that.

        The newest bucket is always kept.
        """
        first, left = None, len(self)
        for number in sorted(self._buckets)[:-1]:
            if left <= most:
                break
            left -= self._buckets[number].count
            first = number + 1
        return first

    def coarsen_but_newest(self, most: int) -> None:
        """Keep about `most` keys, the newest ones, with full digests, and shorten the others."""
        fine = 0
        for _, bucket in sorted(self._buckets.items(), reverse=True):
            fine += bucket.count
            if fine > most and bucket.bits > COARSE_BITS:
                bucket.coarsen()

    def pack(self) -> dict[str, str]:
        for bucket in self._buckets.values():
            bucket.packed = bucket.packed or f"{bucket.bits}:{bucket.count}:{_pack(bucket.digests)}"
        return {str(number): bucket.packed or "" for number, bucket in sorted(self._buckets.items())}

    @classmethod
    def unpack(cls, packed: Mapping[str, str]) -> SeenKeys:
        """The inverse of `pack`; raises `ValueError`, `TypeError` or `AttributeError` for anything else."""
        keys = cls()
        for number, text in packed.items():
            bits, count, digests = text.split(":")
            keys._buckets[int(number)] = _Bucket(int(bits), int(count), _unpack(digests), text)
        return keys


def bucket_of(moment: datetime) -> int:
    return int(moment.timestamp() // BUCKET_SECONDS)


def start_of(bucket: int) -> datetime:
    return datetime.fromtimestamp(bucket * BUCKET_SECONDS, UTC)


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=FINE_BITS // 8).digest(), "little")


def _pack(digests: Collection[int]) -> str:
    """Encode numbers as text: the differences of the sorted numbers, all first bytes, then all second bytes, and so on.

    Nearly all upper bytes of the differences are zero, which compresses well.
    """
    ordered = sorted(digests)
    deltas = array("Q", (after - before for before, after in zip([0, *ordered], ordered, strict=False))).tobytes()
    planes = b"".join(deltas[number::DELTA_BYTES] for number in range(DELTA_BYTES))
    return base64.b85encode(zlib.compress(planes)).decode("ascii")


def _unpack(text: str) -> set[int]:
    try:
        planes = zlib.decompress(base64.b85decode(text))
    except zlib.error as error:
        raise ValueError(str(error)) from None
    size = len(planes) // DELTA_BYTES
    deltas = array("Q", bytes(len(planes)))
    packed = memoryview(deltas).cast("B")
    for number in range(DELTA_BYTES):
        packed[number::DELTA_BYTES] = planes[number * size : (number + 1) * size]
    return set(accumulate(deltas))
