"""Keys that were seen: told apart, packed, and kept within bounds."""

from __future__ import annotations

import json

from datadog_checks.prefect.counting import event_feed
from datadog_checks.prefect.counting.seen_keys import SeenKeys, bucket_of, start_of

from .builders import T0, after


def keys(*seconds: float) -> SeenKeys:
    found = SeenKeys()
    for second in seconds:
        found.add(f"key {second}", after(second))
    return found


def test_a_key_is_known_by_its_key_and_its_minute() -> None:
    found = keys(5)
    assert found.has("key 5", after(5))
    assert not found.has("key 6", after(5))
    assert not found.has("key 5", after(65))


def test_keys_are_counted_by_minutes_each_once() -> None:
    found = keys(0, 59, 60, 125, 125)
    first = bucket_of(T0)
    assert len(found) == 4
    assert [found.count(first, first + minutes) for minutes in (0, 1, 2, 3)] == [0, 2, 3, 4]
    assert found.oldest_bucket(0) == first


def test_a_minute_begins_where_its_bucket_says() -> None:
    assert start_of(bucket_of(T0)) == T0
    assert start_of(bucket_of(after(59.999999))) == T0
    assert start_of(bucket_of(after(60))) == after(60)


def test_keys_before_a_minute_are_forgotten() -> None:
    found = keys(0, 60, 120)
    found.forget_before(bucket_of(after(60)))
    assert [found.has(f"key {second}", after(second)) for second in (0, 60, 120)] == [False, True, True]


def test_the_newest_minutes_are_kept_and_the_last_one_always() -> None:
    found = keys(0, 1, 60, 120, 121)
    assert found.first_of_newest(5) is None
    assert found.first_of_newest(3) == bucket_of(after(60))
    assert found.first_of_newest(1) == bucket_of(after(120))


def test_a_key_that_is_taken_out_is_not_known_any_more() -> None:
    found = keys(0, 1, 60)
    found.discard("key 0", T0)
    found.discard("key 60", after(60))
    found.discard("never there", after(1))
    assert [found.has(f"key {second}", after(second)) for second in (0, 1, 60)] == [False, True, False]
    assert len(found) == 1
    assert list(found.pack()) == [str(bucket_of(T0))]


def test_what_is_gone_stays_known_but_does_not_count() -> None:
    found = keys(0, 1, 60)
    found.recount({bucket_of(T0): 1})
    assert len(found) == 1
    assert found.counts(bucket_of(T0), bucket_of(T0) + 3) == {bucket_of(T0) + n: n == 0 for n in range(3)}
    assert all(found.has(f"key {second}", after(second)) for second in (0, 1, 60))


def test_keys_of_older_minutes_are_kept_in_short_and_still_known() -> None:
    found = keys(*range(600))
    found.coarsen_but_newest(120)
    again = SeenKeys.unpack(found.pack())
    for kept in (found, again):
        assert len(kept) == 600
        assert all(kept.has(f"key {second}", after(second)) for second in range(600))
        assert not any(kept.has(f"other {second}", after(second)) for second in range(600))
    again.add("another", T0)
    again.discard("key 1", after(1))
    assert (again.has("another", T0), again.has("key 1", after(1)), len(again)) == (True, False, 600)
    sizes = [len(text) for text in again.pack().values()]
    assert max(sizes[:8]) < min(sizes[8:])


def test_an_hour_of_a_hundred_task_transitions_a_second_takes_less_than_a_megabyte() -> None:
    # Of three transitions of a task run, the one into Pending is not asked for.
    number = 100 * 3600 * 2 // 3
    seen = SeenKeys()
    for index in range(number):
        seen.add(f"key {index}", after(index * 3600 / number))
    assert number <= event_feed.MOST_REMEMBERED
    seen.coarsen_but_newest(event_feed.MOST_IN_FULL)
    expected = SeenKeys()
    for index in range(event_feed.MOST_EXPECTED):
        expected.add(f"key {index}", after(index * 600 / event_feed.MOST_EXPECTED))
    expected.coarsen_but_newest(event_feed.MOST_EXPECTED_IN_FULL)
    size = len(json.dumps({"seen": seen.pack(), "counted": expected.pack()}))
    assert 500_000 < size < 1_000_000


def test_keys_survive_packing() -> None:
    packed = keys(0, 1, 3600).pack()
    assert list(packed) == [str(bucket_of(T0)), str(bucket_of(after(3600)))]
    again = SeenKeys.unpack(packed)
    assert again.pack() == packed
    assert again.has("key 3600", after(3600))
