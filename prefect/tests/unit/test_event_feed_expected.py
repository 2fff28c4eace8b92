"""What an event would tell, told to the feed before the event came: known once, as long as the event may come."""

from __future__ import annotations

import json
from typing import Any

import pytest

from datadog_checks.prefect.counting import event_feed
from datadog_checks.prefect.counting.event_feed import EventFeed

from .builders import T0, after
from .events_endpoint import EventsEndpoint
from .test_event_feed import INTERVAL, take


@pytest.fixture
def feed(endpoint: EventsEndpoint) -> EventFeed:
    feed = endpoint.feed()
    take(feed)
    return feed


def again(feed: EventFeed, endpoint: EventsEndpoint) -> EventFeed:
    """The feed after a restart."""
    saved: dict[str, Any] = json.loads(json.dumps(feed.document()))
    return endpoint.feed(saved)


def test_what_is_expected_is_known_at_once_and_for_good_when_it_is_committed(
    feed: EventFeed, endpoint: EventsEndpoint
) -> None:
    feed.read(INTERVAL)
    feed.expect("run", T0)
    assert feed.has("run", T0)
    feed.commit([])
    feed.read(INTERVAL)
    assert feed.has("run", T0)
    assert again(feed, endpoint).has("run", T0)


def test_what_is_not_committed_is_dropped_by_the_next_reading(feed: EventFeed, endpoint: EventsEndpoint) -> None:
    feed.expect("run", T0)
    assert not again(feed, endpoint).has("run", T0)
    feed.read(INTERVAL)
    assert not feed.has("run", T0)


def test_what_nobody_looks_for_any_more_is_forgotten(feed: EventFeed, endpoint: EventsEndpoint) -> None:
    feed.expect("old", T0)
    feed.expect("new", after(3600))
    feed.commit([])
    endpoint.pass_time(2 * 3600)
    take(feed)
    assert (feed.has("old", T0), feed.has("new", after(3600))) == (False, True)


def test_no_more_than_so_much_is_remembered(
    feed: EventFeed, endpoint: EventsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "MOST_EXPECTED", 10)
    for number in range(50):
        feed.expect(f"run {number}", after(60 * number))
    feed.commit([])
    assert [feed.has(f"run {number}", after(60 * number)) for number in (39, 40, 49)] == [False, True, True]
    # Whether an earlier one was counted cannot be told any more.
    endpoint.happen("before that", seconds_ago=-60)
    assert take(feed) == []
    assert not feed.covers(after(60))


def test_an_event_that_comes_is_given_out_and_needs_no_other_place(feed: EventFeed, endpoint: EventsEndpoint) -> None:
    feed.expect("earlier", T0)
    feed.commit([])
    endpoint.happen("earlier", "now")
    reading = feed.read(INTERVAL)
    feed.expect("now", T0)
    feed.expect("not yet", after(2))
    feed.commit(reading.events)
    assert sorted(event.id for event in reading.events) == ["earlier", "now"]
    assert all(feed.has(key, at) for key, at in (("earlier", T0), ("now", T0), ("not yet", after(2))))
    restarted = again(feed, endpoint)
    endpoint.happen("not yet", seconds_ago=-2)
    assert take(restarted) == ["not yet"]
    assert all(not text for text in restarted.document()["counted"].values())
