"""What was seen and what was counted: told apart, packed, and kept within bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from datadog_checks.prefect.counting import event_feed
from datadog_checks.prefect.counting import ledger as ledger_module
from datadog_checks.prefect.counting.ledger import Ledger
from datadog_checks.prefect.counting.seen_keys import SeenKeys, bucket_of, start_of

from .builders import T0, after


def keys(*seconds: float) -> SeenKeys:
    found = SeenKeys()
    for second in seconds:
        found.add(f"mark {second}", after(second))
    return found


def test_a_mark_is_known_by_its_key_and_its_minute() -> None:
    found = keys(5)
    assert found.has("mark 5", after(5))
    assert not found.has("mark 6", after(5))
    assert not found.has("mark 5", after(65))


def test_marks_are_counted_by_minutes_each_once() -> None:
    found = keys(0, 59, 60, 125, 125)
    first = bucket_of(T0)
    assert len(found) == 4
    assert [found.count(first, first + minutes) for minutes in (0, 1, 2, 3)] == [0, 2, 3, 4]
    assert found.oldest_bucket(0) == first


def test_a_minute_begins_where_its_bucket_says() -> None:
    assert start_of(bucket_of(T0)) == T0
    assert start_of(bucket_of(after(59.999999))) == T0
    assert start_of(bucket_of(after(60))) == after(60)


def test_marks_before_a_minute_are_forgotten() -> None:
    found = keys(0, 60, 120)
    found.forget_before(bucket_of(after(60)))
    assert [found.has(f"mark {second}", after(second)) for second in (0, 60, 120)] == [False, True, True]


def test_the_newest_minutes_are_kept_and_the_last_one_always() -> None:
    found = keys(0, 1, 60, 120, 121)
    assert found.first_of_newest(5) is None
    assert found.first_of_newest(3) == bucket_of(after(60))
    assert found.first_of_newest(1) == bucket_of(after(120))


def test_a_mark_that_is_taken_out_is_not_known_any_more() -> None:
    found = keys(0, 1, 60)
    found.discard("mark 0", T0)
    found.discard("mark 60", after(60))
    found.discard("never there", after(1))
    assert [found.has(f"mark {second}", after(second)) for second in (0, 1, 60)] == [False, True, False]
    assert len(found) == 1
    assert list(found.pack()) == [str(bucket_of(T0))]


def test_what_is_gone_stays_known_but_does_not_count() -> None:
    found = keys(0, 1, 60)
    found.recount({bucket_of(T0): 1})
    assert len(found) == 1
    assert found.counts(bucket_of(T0), bucket_of(T0) + 3) == {bucket_of(T0) + n: n == 0 for n in range(3)}
    assert all(found.has(f"mark {second}", after(second)) for second in (0, 1, 60))


def test_marks_of_older_minutes_are_kept_in_short_and_still_known() -> None:
    found = keys(*range(600))
    found.coarsen_but_newest(120)
    again = SeenKeys.unpack(found.pack())
    for kept in (found, again):
        assert len(kept) == 600
        assert all(kept.has(f"mark {second}", after(second)) for second in range(600))
        assert not any(kept.has(f"other {second}", after(second)) for second in range(600))
    again.add("another", T0)
    again.discard("mark 1", after(1))
    assert (again.has("another", T0), again.has("mark 1", after(1)), len(again)) == (True, False, 600)
    sizes = [len(text) for text in again.pack().values()]
    assert max(sizes[:8]) < min(sizes[8:])


def test_an_hour_of_a_hundred_task_transitions_a_second_takes_less_than_a_megabyte() -> None:
    # Of three transitions of a task run, the one into Pending is not asked for.
    number = 100 * 3600 * 2 // 3
    seen = SeenKeys()
    for index in range(number):
        seen.add(f"mark {index}", after(index * 3600 / number))
    assert number <= event_feed.MOST_REMEMBERED
    seen.coarsen_but_newest(event_feed.MOST_IN_FULL)
    ledger = Ledger()
    for index in range(ledger_module.MOST_COUNTED):
        ledger.add(f"mark {index}", after(index * 600 / ledger_module.MOST_COUNTED))
    ledger.commit({}, forget_before=T0)
    size = len(json.dumps({"seen": seen.pack(), "counted": ledger.pack()}))
    assert 500_000 < size < 1_000_000


def test_marks_survive_packing() -> None:
    packed = keys(0, 1, 3600).pack()
    assert list(packed) == [str(bucket_of(T0)), str(bucket_of(after(3600)))]
    again = SeenKeys.unpack(packed)
    assert again.pack() == packed
    assert again.has("mark 3600", after(3600))


def test_what_is_counted_is_known_at_once_and_for_good_when_it_is_committed() -> None:
    ledger = Ledger()
    ledger.begin()
    ledger.add("run", T0)
    assert ledger.has("run", T0)
    ledger.commit({}, forget_before=after(-3600))
    ledger.begin()
    assert ledger.has("run", T0)
    assert Ledger.unpack(ledger.pack()).has("run", T0)


def test_what_is_not_committed_is_dropped_when_the_next_check_run_begins() -> None:
    ledger = Ledger()
    ledger.add("run", T0)
    assert ledger.pack() == {}
    ledger.begin()
    assert not ledger.has("run", T0)


def test_what_is_older_than_any_witness_is_forgotten() -> None:
    ledger = Ledger()
    ledger.add("old", T0)
    ledger.add("new", after(3600))
    ledger.commit({}, forget_before=after(3600))
    assert (ledger.has("old", T0), ledger.has("new", after(3600))) == (False, True)


def test_no_more_than_so_many_transitions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MOST_COUNTED", 10)
    ledger = Ledger()
    for number in range(50):
        ledger.add(f"run {number}", after(60 * number))
    assert ledger.commit({}, forget_before=T0) == after(60 * 40)
    assert [ledger.has(f"run {number}", after(60 * number)) for number in (39, 40, 49)] == [False, True, True]


def test_what_an_event_has_told_meanwhile_needs_no_place_in_the_ledger() -> None:
    ledger = Ledger()
    ledger.add("earlier", T0)
    ledger.commit({}, forget_before=T0)
    ledger.begin()
    ledger.add("now", after(1))
    ledger.add("not yet", after(2))
    ledger.commit({"earlier": T0, "now": after(1)}, forget_before=T0)
    assert [ledger.has("earlier", T0), ledger.has("now", after(1)), ledger.has("not yet", after(2))] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    "packed", [None, [], 5, "text", {"minute": ""}, {"1": None}, {"1": 5}, {"1": "%"}, {"1": "YWJj"}, {"1": "ü"}]
)
def test_a_damaged_ledger_is_a_value_error(packed: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        Ledger.unpack(packed)
