"""What was seen and what was counted: told apart, packed, and kept within bounds."""

from __future__ import annotations

from typing import Any

import pytest

from datadog_checks.prefect import ledger as ledger_module
from datadog_checks.prefect.ledger import Ledger
from datadog_checks.prefect.marks import Marks, bucket_of, start_of

from .builders import T0, after


def marks(*seconds: float) -> Marks:
    found = Marks()
    for second in seconds:
        found.add(f"mark {second}", after(second))
    return found


def test_a_mark_is_known_by_its_key_and_its_minute() -> None:
    found = marks(5)
    assert found.has("mark 5", after(5))
    assert not found.has("mark 6", after(5))
    assert not found.has("mark 5", after(65))


def test_marks_are_counted_by_minutes_each_once() -> None:
    found = marks(0, 59, 60, 125, 125)
    first = bucket_of(T0)
    assert len(found) == 4
    assert [found.count(first, first + minutes) for minutes in (0, 1, 2, 3)] == [0, 2, 3, 4]
    assert found.oldest_bucket(0) == first


def test_a_minute_begins_where_its_bucket_says() -> None:
    assert start_of(bucket_of(T0)) == T0
    assert start_of(bucket_of(after(59.999999))) == T0
    assert start_of(bucket_of(after(60))) == after(60)


def test_marks_before_a_minute_are_forgotten() -> None:
    found = marks(0, 60, 120)
    found.forget_before(bucket_of(after(60)))
    assert [found.has(f"mark {second}", after(second)) for second in (0, 60, 120)] == [False, True, True]


def test_the_oldest_minutes_are_forgotten_until_few_enough_marks_are_left() -> None:
    found = marks(0, 1, 60, 120, 121)
    assert found.forget_down_to(5) is None
    assert found.forget_down_to(3) == bucket_of(after(60))
    assert len(found) == 3
    assert found.forget_down_to(1) == bucket_of(after(120))
    assert len(found) == 2  # the last minute stays whole


def test_marks_survive_packing() -> None:
    packed = marks(0, 1, 3600).pack()
    assert list(packed) == [str(bucket_of(T0)), str(bucket_of(after(3600)))]
    again = Marks.unpack(packed)
    assert again.pack() == packed
    assert again.has("mark 3600", after(3600))


def test_what_is_counted_is_known_at_once_and_for_good_when_it_is_committed() -> None:
    ledger = Ledger()
    ledger.begin()
    ledger.add("run", T0)
    assert ledger.has("run", T0)
    ledger.commit(forget_before=after(-3600))
    ledger.begin()
    assert ledger.has("run", T0)
    assert Ledger.unpack(ledger.pack()).has("run", T0)


def test_what_is_not_committed_is_dropped_when_the_next_check_run_begins() -> None:
    ledger = Ledger()
    ledger.add("run", T0)
    assert ledger.pack() == {}
    ledger.begin()
    assert not ledger.has("run", T0)


def test_transitions_of_one_run_are_told_apart_by_their_times_and_those_of_one_time_by_their_runs() -> None:
    ledger = Ledger()
    ledger.add("run", T0)
    assert not ledger.has("run", after(0.000001))
    assert not ledger.has("other run", T0)


def test_what_is_older_than_any_witness_is_forgotten() -> None:
    ledger = Ledger()
    ledger.add("old", T0)
    ledger.add("new", after(3600))
    ledger.commit(forget_before=after(3600))
    assert (ledger.has("old", T0), ledger.has("new", after(3600))) == (False, True)


def test_no_more_than_so_many_transitions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MOST_COUNTED", 10)
    ledger = Ledger()
    for number in range(50):
        ledger.add("run", after(60 * number))
    ledger.commit(forget_before=T0)
    assert [ledger.has("run", after(60 * number)) for number in (39, 40, 49)] == [False, True, True]


@pytest.mark.parametrize(
    "packed", [None, [], 5, "text", {"minute": ""}, {"1": None}, {"1": 5}, {"1": "%"}, {"1": "YWJj"}, {"1": "ü"}]
)
def test_a_damaged_ledger_is_a_value_error(packed: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        Ledger.unpack(packed)
