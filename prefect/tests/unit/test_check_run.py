"""What is read once in a check run."""

from __future__ import annotations

import pytest

from datadog_checks.prefect.api.errors import ApiError, OutOfTime

from .fake_server import InCheckRuns


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


def test_a_thing_is_read_once_in_a_check_run() -> None:
    reader = Reader()
    runs = InCheckRuns()
    assert [runs.run.once(reader), runs.run.once(reader)] == [[1], [1]]
    runs.next_run()
    assert runs.run.once(reader) == [2]


def test_a_failure_is_everybodys_and_is_not_tried_again_in_the_same_check_run() -> None:
    reader = Reader()
    reader.fails = True
    runs = InCheckRuns()
    for _ in range(2):
        with pytest.raises(ApiError, match="failure 1"):
            runs.run.once(reader)
    reader.fails = False
    runs.next_run()
    assert runs.run.once(reader) == [2]


def test_what_there_was_no_time_for_is_tried_again() -> None:
    runs, reader = InCheckRuns(), Reader()

    def out_of_time() -> list[int]:
        if reader() == [1]:
            raise OutOfTime("GET /thing", 15)
        return [reader.times]

    with pytest.raises(OutOfTime):
        runs.run.once(out_of_time)
    assert runs.run.once(out_of_time) == [2]


def test_an_empty_answer_is_an_answer() -> None:
    reader = Reader()
    run = InCheckRuns().run

    def read() -> list[int]:
        return reader()[1:]

    assert [run.once(read), run.once(read)] == [[], []]
    assert reader.times == 1
