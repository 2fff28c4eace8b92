"""How far back the feed looks: for what becomes visible late, and after a time in which nobody looked."""

from __future__ import annotations

from datetime import timedelta

import pytest

from datadog_checks.prefect.counting import event_feed
from datadog_checks.prefect.counting.event_activity import Reach
from datadog_checks.prefect.counting.event_feed import EventFeed

from .builders import after
from .events_endpoint import REACH, EventsEndpoint
from .test_event_feed import INTERVAL, ids, take

MINUTES = 60.0
HOURS = 3600.0


def endpoint_with(lookback: float, catch_up: float) -> EventsEndpoint:
    endpoint = EventsEndpoint()
    endpoint.reach = Reach(timedelta(seconds=lookback), timedelta(seconds=catch_up))
    return endpoint


def watched_for(endpoint: EventsEndpoint, seconds: float) -> EventFeed:
    """A feed that has been read every five minutes for so long."""
    feed = endpoint.feed()
    take(feed)
    for _ in range(int(seconds // 300)):
        endpoint.pass_time(300)
        take(feed)
    return feed


def every_minute(endpoint: EventsEndpoint, first_ago: float, last_ago: float) -> list[str]:
    names = []
    for seconds_ago in range(int(first_ago), int(last_ago) - 1, -60):
        names.append(f"{seconds_ago} s ago")
        endpoint.happen(names[-1], seconds_ago=seconds_ago)
    return names


@pytest.mark.parametrize("lookback", [10 * MINUTES, 3 * HOURS])
def test_what_becomes_visible_within_the_look_back_is_given_out_and_what_comes_later_is_told_once(
    lookback: float,
) -> None:
    endpoint = endpoint_with(lookback, HOURS)
    feed = watched_for(endpoint, lookback + HOURS)
    endpoint.happen("in time", seconds_ago=lookback - 1)
    endpoint.happen("too late", "too late, too", seconds_ago=lookback + 70)
    endpoint.happen("much too late", seconds_ago=lookback + 50 * MINUTES)
    readings = []
    for _ in range(4):
        readings.append(feed.read(INTERVAL))
        feed.commit(readings[-1].events)
        endpoint.pass_time(60)
    assert [ids(reading) for reading in readings] == [["in time"], [], [], []]
    assert sum(reading.too_late for reading in readings[:2]) == 3
    assert [reading.too_late for reading in readings[2:]] == [0, 0]


def test_what_was_counted_before_its_minute_was_left_is_not_told_as_late() -> None:
    endpoint = endpoint_with(10 * MINUTES, HOURS)
    feed = watched_for(endpoint, 0)
    for number in range(120):
        endpoint.happen(f"e{number}")
        reading = feed.read(INTERVAL)
        feed.commit(reading.events)
        assert reading.too_late == 0
        feed = endpoint.feed(feed.document()) if number % 7 == 0 else feed
        endpoint.pass_time(61)


def test_events_that_vanish_from_left_minutes_are_not_told_when_they_do_nor_is_what_was_there_later() -> None:
    endpoint = endpoint_with(10 * MINUTES, HOURS)
    feed = watched_for(endpoint, 0)
    endpoint.happen("a", "b")
    take(feed)
    endpoint.pass_time(20 * MINUTES)
    take(feed)
    endpoint.vanish("a")
    too_late = 0
    for _ in range(5):
        endpoint.pass_time(60)
        reading = feed.read(INTERVAL)
        feed.commit(reading.events)
        too_late += reading.too_late
    assert too_late == 0


def test_all_of_a_downtime_is_caught_up_with_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "MOST_READ_AT_ONCE", 50)
    endpoint = endpoint_with(HOURS, 4 * HOURS)
    feed = watched_for(endpoint, 2 * HOURS)
    endpoint.pass_time(3 * HOURS)
    happened = every_minute(endpoint, first_ago=3 * HOURS - 60, last_ago=0)
    given_out: list[str] = []
    behind: list[int] = []
    while not behind or behind[-1]:
        reading = feed.read(INTERVAL)
        assert (reading.lost, reading.too_late) == (None, 0)
        feed.commit(reading.events)
        given_out += ids(reading)
        behind.append(reading.behind)
        feed = endpoint.feed(feed.document())
        endpoint.pass_time(15)
    assert sorted(given_out) == sorted(happened)
    assert behind == [130, 80, 30, 0]
    assert take(feed) == []


def test_what_occurred_longer_ago_than_is_caught_up_with_is_dropped_and_told_once() -> None:
    endpoint = endpoint_with(HOURS, HOURS)
    feed = watched_for(endpoint, HOURS)
    left = endpoint.clock
    endpoint.pass_time(3 * HOURS)
    happened = every_minute(endpoint, first_ago=3 * HOURS - 60, last_ago=0)
    feed = endpoint.feed(feed.document())
    first = feed.read(INTERVAL)
    feed.commit(first.events)
    assert first.lost == (left, endpoint.clock - timedelta(hours=1))
    assert ids(first) == happened[-61:]
    for _ in range(70):
        endpoint.pass_time(60)
        reading = feed.read(INTERVAL)
        feed.commit(reading.events)
        assert (reading.events, reading.lost, reading.too_late) == ([], None, 0)


def test_events_that_are_put_off_again_and_again_are_no_downtime() -> None:
    endpoint = endpoint_with(HOURS, HOURS)
    feed = watched_for(endpoint, 0)
    for number in range(150):
        endpoint.happen(f"e{number}")
        reading = feed.read(INTERVAL)
        assert (f"e{number}" in ids(reading), reading.lost) == (True, None)
        feed.commit([event for event in reading.events if event.id != f"e{number}"], put_off=1)
        endpoint.pass_time(60)


def test_a_reading_that_fails_after_a_downtime_is_made_up_for_with_the_same_warning() -> None:
    endpoint = endpoint_with(HOURS, HOURS)
    feed = watched_for(endpoint, HOURS)
    endpoint.pass_time(2 * HOURS)
    endpoint.happen("a", seconds_ago=30 * MINUTES)
    lost = [feed.read(INTERVAL).lost for _ in range(2)]
    assert lost[0] is not None
    assert lost[0] == lost[1]
    assert take(feed) == ["a"]


def test_what_became_visible_while_nobody_looked_may_have_occurred_the_look_back_before() -> None:
    endpoint = endpoint_with(HOURS, 2 * HOURS)
    feed = watched_for(endpoint, 2 * HOURS)
    endpoint.happen("unseen", seconds_ago=50 * MINUTES)
    endpoint.pass_time(30 * MINUTES)
    assert take(feed) == ["unseen"]


def test_events_of_one_key_are_given_out_once_and_known_by_it() -> None:
    endpoint = EventsEndpoint()
    feed = EventFeed(endpoint, {"event": {"prefix": ["prefect.flow-run."]}}, None, REACH, lambda _: "same")
    assert take(feed) == []
    endpoint.pass_time(10)
    endpoint.happen("a", "b")
    assert len(take(feed)) == 1
    assert take(feed) == []
    assert feed.has("same", after(10))
    assert not feed.has("other", after(10))
    assert not feed.has("same", after(70))
