"""Each event is given out once, however late it becomes visible, and what was read is not read again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from datadog_checks.prefect.api.errors import ApiError, Unreachable
from datadog_checks.prefect.counting.event_feed import EventFeed, Reading

from .builders import T0, after
from .events_endpoint import EventsEndpoint

INTERVAL = timedelta(seconds=15)


@pytest.fixture
def feed(endpoint: EventsEndpoint) -> EventFeed:
    """A feed that has read nothing yet for an hour."""
    feed = endpoint.feed()
    take(feed)
    endpoint.pass_time(3600)
    take(feed)
    endpoint.requests.clear()
    return feed


def take(feed: EventFeed) -> list[str]:
    """One check run that submits all it reads; the ids of the events."""
    reading = feed.read(INTERVAL)
    feed.commit(reading.events)
    return ids(reading)


def ids(reading: Reading) -> list[str]:
    return [event.id for event in reading.events]


def many(number: int, name: str = "e") -> list[str]:
    return [f"{name}{index:04}" for index in range(number)]


def spread(endpoint: EventsEndpoint, number: int, over_seconds: float = 3000) -> list[str]:
    """Events evenly spread over the last seconds; the ids in the order in which they occurred."""
    names = many(number)
    for index, name in enumerate(names):
        endpoint.happen(name, seconds_ago=over_seconds * (number - index) / number)
    return names


def test_a_feed_without_a_past_begins_one_interval_ago(endpoint: EventsEndpoint) -> None:
    endpoint.happen("too old", seconds_ago=15.000001)
    endpoint.happen("just", seconds_ago=15)
    endpoint.happen("new", seconds_ago=1)
    assert take(endpoint.feed()) == ["just", "new"]


def test_each_event_is_given_out_once(endpoint: EventsEndpoint, feed: EventFeed) -> None:
    given_out = []
    for number in range(20):
        endpoint.pass_time(15)
        endpoint.happen(f"e{number}", seconds_ago=4)
        given_out += take(feed)
    assert given_out == [f"e{number}" for number in range(20)]


def test_new_events_are_given_out_in_the_order_in_which_they_occurred(
    endpoint: EventsEndpoint, feed: EventFeed
) -> None:
    endpoint.happen("b", seconds_ago=30)
    endpoint.happen("c", seconds_ago=2)
    endpoint.happen("a", seconds_ago=1800)
    assert take(feed) == ["a", "b", "c"]


def test_events_of_the_same_instant_are_all_given_out(endpoint: EventsEndpoint, feed: EventFeed) -> None:
    endpoint.happen(*many(3))
    assert sorted(take(feed)) == many(3)
    endpoint.happen("one more", seconds_ago=0)
    assert take(feed) == ["one more"]


def test_where_nothing_happened_one_request_says_so(endpoint: EventsEndpoint, feed: EventFeed) -> None:
    spread(endpoint, 400)
    take(feed)
    endpoint.requests.clear()
    endpoint.pass_time(15)
    assert take(feed) == []
    assert endpoint.requests == [("first", 0)]


def test_a_few_new_events_on_top_of_many_cost_one_request(endpoint: EventsEndpoint, feed: EventFeed) -> None:
    spread(endpoint, 400)
    take(feed)
    endpoint.requests.clear()
    endpoint.happen(*many(30, "new"))
    assert sorted(take(feed)) == many(30, "new")
    assert endpoint.requests == [("first", 0)]


@pytest.mark.parametrize("number", [49, 50, 51, 100, 101, 730])
def test_more_events_than_a_page_holds_are_read_page_by_page(
    endpoint: EventsEndpoint, feed: EventFeed, number: int
) -> None:
    assert take(feed) == []
    endpoint.requests.clear()
    names = spread(endpoint, number)
    assert take(feed) == names
    # Where there was no news the last time, the total is asked for before a page is.
    pages = [("next", offset) for offset in range(50, number, 50)]
    assert endpoint.requests == [("total", 0), ("first", 0), *pages]


def test_as_long_as_nothing_happens_only_the_total_is_asked_for(endpoint: EventsEndpoint, feed: EventFeed) -> None:
    spread(endpoint, 120)
    take(feed)
    assert take(feed) == []
    endpoint.requests.clear()
    assert take(feed) == []
    assert endpoint.requests == [("total", 0)]


@pytest.mark.parametrize("minutes_ago", [0.5, 1, 5, 17, 30, 45, 59])
def test_a_late_arrival_is_found_in_whatever_minute_of_the_last_hour_it_occurred(
    endpoint: EventsEndpoint, feed: EventFeed, minutes_ago: float
) -> None:
    spread(endpoint, 1000, over_seconds=3590)
    take(feed)
    endpoint.happen("late", seconds_ago=60 * minutes_ago)
    assert take(feed) == ["late"]
    assert take(feed) == []


@pytest.mark.parametrize("interval", [15, 60, 300])
def test_a_late_arrival_is_found_by_the_next_check_run_however_far_apart_they_are(
    endpoint: EventsEndpoint, feed: EventFeed, interval: float
) -> None:
    spread(endpoint, 720, over_seconds=3600)
    take(feed)
    for number in range(5):
        endpoint.pass_time(interval)
        endpoint.happen(f"late {number}", seconds_ago=1800)
        assert take(feed) == [f"late {number}"]


def test_late_arrivals_in_several_minutes_are_found_among_new_ones(endpoint: EventsEndpoint, feed: EventFeed) -> None:
    spread(endpoint, 1000)
    take(feed)
    for minutes in (3, 20, 44):
        endpoint.happen(f"late {minutes}", seconds_ago=60 * minutes)
    endpoint.happen(*many(60, "new"))
    assert sorted(take(feed)) == sorted(["late 3", "late 20", "late 44", *many(60, "new")])


def test_a_late_arrival_is_looked_for_by_totals_and_not_by_reading_all_again(
    endpoint: EventsEndpoint, feed: EventFeed
) -> None:
    spread(endpoint, 3000)
    take(feed)
    endpoint.requests.clear()
    endpoint.happen("late", seconds_ago=2400)
    assert take(feed) == ["late"]
    kinds = [kind for kind, _ in endpoint.requests]
    # Halving 120 minutes takes 7 steps, of two totals at most; the minute itself holds 60 events.
    assert kinds.count("total") <= 15
    assert kinds.count("first") + kinds.count("next") <= 3


def test_an_event_that_arrives_while_pages_are_read_shifts_them_but_none_is_lost_or_repeated(
    endpoint: EventsEndpoint, feed: EventFeed
) -> None:
    sent = spread(endpoint, 230)

    def arrive(number: int) -> None:
        sent.extend([f"shift {number}", f"late {number}"])
        endpoint.happen(f"shift {number}", seconds_ago=0)
        endpoint.happen(f"late {number}", seconds_ago=1700)

    endpoint.before_answer = arrive
    first = take(feed)
    endpoint.before_answer = lambda number: None
    assert sorted([*first, *take(feed)]) == sorted(sent)
    assert take(feed) == []


def test_events_that_are_not_committed_come_again(endpoint: EventsEndpoint, feed: EventFeed) -> None:
    endpoint.happen("a", seconds_ago=3)
    endpoint.happen("b", seconds_ago=2)
    endpoint.happen("c", seconds_ago=1)
    reading = feed.read(INTERVAL)
    feed.commit(reading.events[:1])
    assert ids(feed.read(INTERVAL)) == ["b", "c"]
    assert take(feed) == ["b", "c"]
    assert take(feed) == []


def test_a_request_that_fails_loses_nothing(endpoint: EventsEndpoint, feed: EventFeed) -> None:
    names = spread(endpoint, 120)

    def fail(number: int) -> None:
        if number == 2:
            raise Unreachable("http://prefect.test/api", "reset")

    endpoint.before_answer = fail
    with pytest.raises(ApiError):
        feed.read(INTERVAL)
    endpoint.before_answer = lambda number: None
    assert take(feed) == names


def test_a_first_reading_that_fails_does_not_move_the_beginning(endpoint: EventsEndpoint) -> None:
    feed = endpoint.feed()

    def fail(_: int) -> None:
        raise Unreachable("http://prefect.test/api", "reset")

    endpoint.before_answer = fail
    endpoint.happen("a", seconds_ago=10)
    with pytest.raises(ApiError):
        feed.read(INTERVAL)
    endpoint.before_answer = lambda number: None
    endpoint.pass_time(600)
    assert take(feed) == ["a"]


def test_events_of_a_clock_that_is_fast_are_given_out_once(endpoint: EventsEndpoint, feed: EventFeed) -> None:
    endpoint.happen("from the future", seconds_ago=-1800)
    assert take(feed) == ["from the future"]
    given_out = []
    for number in range(30):
        endpoint.pass_time(150)
        endpoint.happen(f"e{number}")
        given_out += take(feed)
    assert given_out == [f"e{number}" for number in range(30)]


def test_an_event_of_a_clock_that_is_hours_fast_is_given_out_once_its_time_comes_near(
    endpoint: EventsEndpoint, feed: EventFeed
) -> None:
    endpoint.happen("far off", seconds_ago=-5400)
    assert take(feed) == []
    endpoint.pass_time(1801)
    assert take(feed) == ["far off"]
    endpoint.pass_time(5400)
    assert take(feed) == []


@pytest.mark.parametrize("seconds", [1, 130, 1800])
def test_a_server_clock_that_is_set_back_gives_no_event_out_twice(
    endpoint: EventsEndpoint, feed: EventFeed, seconds: float
) -> None:
    spread(endpoint, 700, over_seconds=7000)
    take(feed)
    endpoint.pass_time(60)
    take(feed)
    endpoint.pass_time(-seconds)
    assert take(feed) == []
    endpoint.happen("new", seconds_ago=0)
    assert take(feed) == ["new"]


def test_events_older_than_the_first_reading_are_never_given_out(endpoint: EventsEndpoint) -> None:
    feed = endpoint.feed()
    take(feed)
    endpoint.happen("before", seconds_ago=20)
    endpoint.pass_time(60)
    assert take(feed) == []


@pytest.mark.parametrize("minutes", [61, 300])
def test_a_pause_longer_than_the_look_back_reports_what_is_lost(endpoint: EventsEndpoint, minutes: int) -> None:
    feed = endpoint.feed()
    take(feed)
    endpoint.happen("unseen")
    endpoint.pass_time(60 * minutes + 60)
    endpoint.happen("seen", seconds_ago=60 * 59)
    reading = feed.read(INTERVAL)
    assert ids(reading) == ["seen"]
    assert reading.lost == (T0, after(60 * minutes - 3540))
    feed.commit(reading.events)
    assert feed.read(INTERVAL).lost is None


def test_a_pause_of_an_hour_loses_nothing(endpoint: EventsEndpoint, feed: EventFeed) -> None:
    endpoint.happen(*many(120))
    endpoint.pass_time(3600)
    reading = feed.read(INTERVAL)
    assert (sorted(ids(reading)), reading.lost) == (many(120), None)
