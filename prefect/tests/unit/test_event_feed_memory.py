"""What the feed remembers: across restarts, when it is damaged, when events vanish, and within which bounds."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from datadog_checks.prefect.api.errors import OutOfTime
from datadog_checks.prefect.counting import event_feed
from datadog_checks.prefect.counting.event_feed import EventFeed

from .builders import T0
from .events_endpoint import EventsEndpoint
from .test_event_feed import INTERVAL, ids, many, spread, take


def started(endpoint: EventsEndpoint) -> EventFeed:
    """A feed that was at its beginning an hour ago."""
    feed = endpoint.feed()
    take(feed)
    endpoint.pass_time(3600)
    return feed


def as_stored(feed: EventFeed) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(feed.document()))
    return document


def test_a_feed_made_from_the_document_of_another_goes_on_where_that_one_stood(endpoint: EventsEndpoint) -> None:
    feed = started(endpoint)
    spread(endpoint, 300)
    assert len(take(feed)) == 300
    endpoint.happen("meanwhile", seconds_ago=0)
    endpoint.happen("late", seconds_ago=1500)
    endpoint.pass_time(120)
    next_life = endpoint.feed(as_stored(feed))
    assert take(next_life) == ["late", "meanwhile"]
    assert take(next_life) == []


def test_events_that_were_not_committed_come_again_after_a_restart(endpoint: EventsEndpoint) -> None:
    feed = started(endpoint)
    endpoint.happen("a", seconds_ago=2)
    endpoint.happen("b", seconds_ago=1)
    feed.commit(feed.read(INTERVAL).events[:1])
    feed.read(INTERVAL)
    assert take(endpoint.feed(as_stored(feed))) == ["b"]


def test_a_restart_after_a_pause_longer_than_the_look_back_reports_what_is_lost(endpoint: EventsEndpoint) -> None:
    feed = endpoint.feed()
    take(feed)
    saved = as_stored(feed)
    endpoint.pass_time(7200)
    reading = endpoint.feed(saved).read(INTERVAL)
    assert reading.lost == (T0, T0 + timedelta(hours=1))


def test_a_document_says_when_the_feed_began_how_far_it_got_and_what_it_saw(endpoint: EventsEndpoint) -> None:
    feed = endpoint.feed()
    endpoint.happen("a")
    take(feed)
    document = feed.document()
    assert (document["start"], document["through"]) == ("2026-03-14T08:59:45+00:00", "2026-03-14T09:00:00+00:00")
    assert list(document["seen"]) == [str(int(T0.timestamp()) // 60)]


@pytest.mark.parametrize(
    "damage",
    [
        {"start": None},
        {"start": "yesterday"},
        {"start": 17},
        {"start": "2026-03-14T08:00:00"},
        {"through": None},
        {"through": "soon"},
        {"through": "2026-03-14T08:00:00"},
        {"seen": None},
        {"seen": []},
        {"seen": {"minute": ""}},
        {"seen": {"29557980": "%%%"}},
        {"seen": {"29557980": "YWJj"}},
        {"seen": {"29557980": None}},
        {"seen": {"29557980": 5}},
        {"seen": {"29557980": "ünlesbar"}},
        {"seen": {"29557980": "64:1:ünlesbar"}},
        {"seen": {"29557980": "64:1:YWJj"}},
        {"seen": {"29557980": "64:one:c$@(@1ONa4"}},
        {"counted": None},
        {"counted": []},
        {"counted": {"1": "%"}},
        {"closed": None},
        {"closed": {"1": None}},
        {"closed": {"1": 5, "3": 5}},
    ],
    ids=str,
)
def test_a_damaged_document_is_a_value_error(endpoint: EventsEndpoint, damage: dict[str, Any]) -> None:
    feed = started(endpoint)
    take(feed)
    with pytest.raises(ValueError, match=r"."):
        endpoint.feed({**as_stored(feed), **damage})


@pytest.mark.parametrize("key", ["start", "through", "seen", "closed"])
def test_a_document_that_lacks_a_part_is_a_value_error(endpoint: EventsEndpoint, key: str) -> None:
    feed = endpoint.feed()
    take(feed)
    damaged = as_stored(feed)
    del damaged[key]
    with pytest.raises(ValueError, match=key):
        endpoint.feed(damaged)


@pytest.mark.parametrize("gone", [1, 20, 60, 300])
def test_when_events_vanish_the_ones_that_are_left_are_not_given_out_again(endpoint: EventsEndpoint, gone: int) -> None:
    feed = started(endpoint)
    names = spread(endpoint, 300)
    take(feed)
    endpoint.vanish(*names[:gone])
    assert take(feed) == []
    endpoint.happen("late", seconds_ago=2000)
    endpoint.happen("new", seconds_ago=0)
    assert take(feed) == ["late", "new"]


def test_new_and_late_events_are_found_among_vanished_ones(endpoint: EventsEndpoint) -> None:
    feed = started(endpoint)
    names = spread(endpoint, 300)
    take(feed)
    endpoint.vanish(*names[100:250])
    endpoint.happen("late", seconds_ago=1990)
    endpoint.happen(*many(60, "new"))
    given_out = [*take(feed), *take(feed)]
    assert sorted(given_out) == sorted(["late", *many(60, "new")])


def test_a_feed_that_has_to_compare_afresh_gives_new_events_out_although_its_time_is_short(
    endpoint: EventsEndpoint,
) -> None:
    feed = started(endpoint)
    names = spread(endpoint, 1000)
    take(feed)
    endpoint.vanish(*names[:100])
    endpoint.happen("new", seconds_ago=0)
    given_out = []
    endpoint.seconds_a_request = 1.0
    for _ in range(4):
        endpoint.left = 15.0
        with suppress(OutOfTime):
            given_out += take(feed)
    assert given_out == ["new"]


def test_no_more_than_so_many_events_are_remembered_and_the_oldest_are_not_looked_for_again(
    endpoint: EventsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "MOST_REMEMBERED", 100)
    feed = started(endpoint)
    names = spread(endpoint, 600)
    assert take(feed) == names
    remembered = sum(int(text.split(":")[1]) for text in as_stored(feed)["seen"].values())
    assert 80 <= remembered <= 100
    assert take(feed) == []
    endpoint.happen("late, but too late", seconds_ago=2900)
    endpoint.happen("new", seconds_ago=0)
    assert take(feed) == ["new"]
    assert take(endpoint.feed(as_stored(feed))) == []


def test_the_minute_that_is_going_on_is_remembered_however_much_happens_in_it(
    endpoint: EventsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "MOST_REMEMBERED", 100)
    feed = started(endpoint)
    endpoint.happen(*many(300))
    assert sorted(take(feed)) == many(300)
    assert take(feed) == []


def test_what_is_out_of_reach_is_forgotten(endpoint: EventsEndpoint) -> None:
    feed = started(endpoint)
    for number in range(10):
        endpoint.happen(*many(20, f"{number}-"))
        endpoint.pass_time(1200)
        take(feed)
    remembered = as_stored(feed)["seen"]
    # The look-back of an hour holds the last three or four times twenty.
    assert 3 <= len(remembered) <= 4


def test_reading_stops_when_half_of_the_time_is_used_and_goes_on_next_time(endpoint: EventsEndpoint) -> None:
    feed = started(endpoint)
    names = spread(endpoint, 1000)
    given_out: list[str] = []
    behind = []

    endpoint.seconds_a_request = 1.0
    for _ in range(20):
        endpoint.left = 15.0
        reading = feed.read(INTERVAL)
        feed.commit(reading.events)
        behind.append(reading.behind)
        given_out += ids(reading)
        if not reading.behind:
            break
    assert (behind[0], behind[-1]) == (1000 - 50 * 7, 0)
    assert behind == sorted(set(behind), reverse=True)
    assert sorted(given_out) == names


def test_no_more_than_so_many_events_are_read_at_once(
    endpoint: EventsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "MOST_READ_AT_ONCE", 100)
    feed = started(endpoint)
    names = spread(endpoint, 230)
    sizes, given_out = [], []
    for _ in range(4):
        reading = feed.read(INTERVAL)
        feed.commit(reading.events)
        sizes.append((len(reading.events), reading.behind))
        given_out += ids(reading)
    assert sizes[0] == (100, 130)
    assert sorted(given_out) == names
    assert sizes[-1] == (0, 0)
