"""The server's time, told on hosts whose own clock is right, wrong, or jumps."""

from __future__ import annotations

import time
from datetime import timedelta
from email.utils import format_datetime

import pytest

from datadog_checks.prefect.api.clock import ServerClock

from .builders import T0, after

HOUR = 3600.0


class Host:
    """A host whose clock is off by so many seconds, and a server whose clock is right; both go on together."""

    def __init__(self, off_by: float = 0.0) -> None:
        self.elapsed = 0.0
        self.off_by = off_by
        self.begin_run()

    def begin_run(self) -> None:
        """A check run begins, with a clock of its own."""
        self.clock = ServerClock(wall=self.wall, monotonic=self.monotonic)

    def wall(self) -> float:
        return T0.timestamp() + self.elapsed + self.off_by

    def monotonic(self) -> float:
        return 500.0 + self.elapsed

    def ask(self, seconds: float = 0.0, header: str | None = None, server_off_by: float = 0.0) -> None:
        """A request that takes so many seconds, half of them before the server puts its date in."""
        sent = self.monotonic()
        self.elapsed += seconds / 2
        # cut to whole seconds, as the header is
        date = header if header is not None else format_datetime(after(int(self.elapsed + server_off_by)), usegmt=True)
        self.elapsed += seconds / 2
        self.clock.observe(date, sent, self.monotonic())

    def error(self) -> float:
        """By how many seconds the clock is ahead of the server's."""
        return (self.clock.now() - after(self.elapsed)).total_seconds()


def test_without_an_answer_the_hosts_clock_is_all_there_is() -> None:
    host = Host(off_by=0.5)
    assert host.clock.now() == T0 + timedelta(seconds=0.5)


@pytest.mark.parametrize("off_by", [0.0, 0.25, -0.25])
def test_a_host_whose_clock_agrees_with_the_server_is_taken_at_its_word(off_by: float) -> None:
    host = Host(off_by)
    host.elapsed = 0.5
    host.ask(seconds=0.1)
    assert host.error() == pytest.approx(off_by, abs=1e-5)


@pytest.mark.parametrize("off_by", [HOUR, -HOUR, 10.0, -10.0])
def test_a_host_whose_clock_is_wrong_is_set_right_to_about_a_second(off_by: float) -> None:
    host = Host(off_by)
    host.ask(seconds=0.1)
    assert abs(host.error()) <= 2.1


@pytest.mark.parametrize("off_by", [HOUR, -HOUR])
def test_more_answers_narrow_the_time_down(off_by: float) -> None:
    host = Host(off_by)
    errors = []
    for _ in range(20):
        host.ask(seconds=0.02)
        host.elapsed += 0.31
        errors.append(abs(host.error()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 1.1


def test_a_slow_answer_bounds_the_time_less_but_does_not_mislead() -> None:
    host = Host(off_by=HOUR)
    host.ask(seconds=8)
    assert abs(host.error()) <= 6.1


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "yesterday",
        "Sat, 99 Mar 2026 09:00:00 GMT",
        "0",
        "\x00",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Wed, 01 Jan 1800 00:00:00 GMT",
        "Sat, 14 Mar 2026 09:00:00 +99999999999999999999",
    ],
)
def test_an_answer_without_a_readable_date_changes_nothing(header: str | None) -> None:
    host = Host(off_by=HOUR)
    host.ask()
    before = host.error()
    sent = host.monotonic()
    host.clock.observe(header, sent, sent)
    assert host.error() == before


def test_a_date_in_the_zone_minus_zero_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    host = Host(off_by=HOUR)
    host.ask(header="Sat, 14 Mar 2026 09:00:00 -0000")
    monkeypatch.undo()
    time.tzset()
    assert abs(host.error()) <= 2.1


def test_time_goes_on_between_answers() -> None:
    host = Host(off_by=-HOUR)
    host.ask()
    first = host.clock.now()
    host.elapsed += 90
    assert host.clock.now() - first == timedelta(seconds=90)


def test_a_clock_that_jumps_during_a_check_run_does_not_move_the_time() -> None:
    host = Host()
    host.ask()
    before = host.error()
    host.off_by = HOUR
    assert host.error() == before


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumped_between_check_runs_is_set_right_by_the_next_answer(jump: float) -> None:
    host = Host()
    host.ask()
    host.off_by = jump
    host.begin_run()
    host.ask(seconds=0.1)
    assert abs(host.error()) <= 2.1


def test_bounds_of_an_earlier_check_run_are_not_believed() -> None:
    host = Host(off_by=HOUR)
    host.ask()
    host.begin_run()
    assert host.error() == HOUR


def test_of_two_clocks_that_contradict_each_other_the_last_is_believed() -> None:
    host = Host()
    host.ask(server_off_by=-HOUR)
    assert host.error() == pytest.approx(-HOUR, abs=2.1)
    host.ask(seconds=0.1)
    assert abs(host.error()) <= 2.1


def test_the_time_is_told_in_utc() -> None:
    assert Host().clock.now().utcoffset() == timedelta()


@pytest.mark.parametrize("off_by", [0.0, 0.25, 10.0, -10.0, HOUR, -HOUR])
def test_the_difference_between_the_clocks_is_told_to_two_seconds(off_by: float) -> None:
    host = Host(off_by)
    host.ask(seconds=0.1)
    assert host.clock.ahead_of_host().total_seconds() == pytest.approx(-off_by, abs=2.1)


def test_without_an_answer_no_difference_between_the_clocks_is_known() -> None:
    assert Host(off_by=HOUR).clock.ahead_of_host() == timedelta()
