"""What the inventory keeps: within bounds, and read at most once in a check run."""

from __future__ import annotations

import pytest

from datadog_checks.prefect import inventory
from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.inventory import OncePerRun, Recent


def test_what_was_not_put_in_for_the_longest_time_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "REMEMBERED", 3)
    recent: Recent[str, int] = Recent()
    for number, key in enumerate("abcad"):
        recent.put(key, number)
    assert dict(recent) == {"c": 2, "a": 3, "d": 4}


def test_putting_in_again_replaces_the_value_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "REMEMBERED", 2)
    recent: Recent[str, str | None] = Recent()
    for value in ("one", None, "two"):
        recent.put("a", value)
        recent.put("b", value)
    assert dict(recent) == {"a": "two", "b": "two"}


class Reader:
    """Reads numbers that go up, or fails."""

    def __init__(self) -> None:
        self.times = 0
        self.fails = False

    def __call__(self) -> list[int]:
        self.times += 1
        if self.fails:
            raise ApiError(f"failure {self.times}")
        return [self.times]


def test_a_thing_is_read_once_until_it_is_forgotten() -> None:
    reader = Reader()
    thing = OncePerRun(reader)
    assert [thing.get(), thing.get()] == [[1], [1]]
    thing.forget()
    assert thing.get() == [2]


def test_a_failure_is_everybodys_and_is_not_tried_again_in_the_same_check_run() -> None:
    reader = Reader()
    reader.fails = True
    thing = OncePerRun(reader)
    for _ in range(2):
        with pytest.raises(ApiError, match="failure 1"):
            thing.get()
    reader.fails = False
    thing.forget()
    assert thing.get() == [2]


def test_an_empty_answer_is_an_answer() -> None:
    reader = Reader()
    thing = OncePerRun(lambda: reader()[1:])
    assert [thing.get(), thing.get()] == [[], []]
    assert reader.times == 1
