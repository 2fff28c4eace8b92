"""What the client tries again, how long it waits, and that it stops in time."""

from __future__ import annotations

import json
from contextlib import suppress
from http.client import IncompleteRead

import pytest
from requests import exceptions
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from datadog_checks.prefect.api.client import Client
from datadog_checks.prefect.api.errors import (
    AccessDenied,
    ApiError,
    LeftAlone,
    NoAnswerInTime,
    NotPrefect,
    OutOfTime,
    Rejected,
    UnexpectedAnswer,
    Unreachable,
)

from .fake_http import URL, FakeHttp, FakeResponse, Outcome, Time, answer, client_of

HTML = FakeResponse(200, (b"<!DOCTYPE html><title>Sign in</title>",), {"Content-Type": "text/html"})
HALF = FakeResponse(200, (b'{"a": ', ProtocolError("Connection broken", IncompleteRead(b"", 4))))


@pytest.mark.parametrize(
    "failure",
    [
        answer(status=429),
        answer(status=502),
        answer(status=503),
        answer(status=504),
        exceptions.ConnectionError("reset"),
        HALF,
        HTML,
        FakeResponse(200, (b'{"a": 1',)),
        FakeResponse(200, (b"",)),
    ],
    ids=["429", "502", "503", "504", "dropped connection", "half a body", "HTML", "cut JSON", "empty body"],
)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_is_broken_by_the_moment_is_tried_again_until_it_works(failure: Outcome, times: int) -> None:
    http, time = FakeHttp(*[failure] * times, answer({"a": 1})), Time()
    assert client_of(http, time).get("/thing", json.loads) == {"a": 1}
    assert len(http.sent) == times + 1
    assert len(time.slept) == times


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (answer(status=503), Rejected),
        (exceptions.ConnectionError("reset"), Unreachable),
        (HALF, Unreachable),
        (HTML, NotPrefect),
        (FakeResponse(200, (b'{"a": 1',)), UnexpectedAnswer),
    ],
    ids=["503", "dropped connection", "half a body", "HTML", "cut JSON"],
)
def test_what_stays_broken_is_given_up_after_four_attempts(failure: Outcome, error: type[ApiError]) -> None:
    http, time = FakeHttp(failure), Time()
    with pytest.raises(error):
        client_of(http, time).post("/thing/filter", json.loads, {})
    assert len(http.sent) == 4
    assert len(time.slept) == 3


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (answer(status=500), Rejected),
        (answer(status=404), Rejected),
        (answer(status=422), Rejected),
        (answer(status=401), AccessDenied),
        (answer(status=403), AccessDenied),
        (exceptions.ReadTimeout("slow"), Unreachable),
        (exceptions.ConnectTimeout("slow"), Unreachable),
    ],
    ids=["500", "404", "422", "401", "403", "read timeout", "connect timeout"],
)
def test_what_another_attempt_would_not_mend_fails_at_once(outcome: Outcome, error: type[ApiError]) -> None:
    http, time = FakeHttp(outcome), Time()
    with pytest.raises(error):
        client_of(http, time).get("/thing", json.loads)
    assert len(http.sent) == 1
    assert time.slept == []


def test_waits_grow_twofold_with_a_jitter_of_half() -> None:
    waits = []
    for _ in range(50):
        time = Time()
        with pytest.raises(Rejected):
            client_of(FakeHttp(answer(status=503)), time).get("/thing", json.loads)
        waits.append(time.slept)
    for number, middle in enumerate((0.25, 0.5, 1.0)):
        of_this_attempt = [wait[number] for wait in waits]
        assert min(of_this_attempt) >= middle * 0.5 - 1e-6
        assert max(of_this_attempt) <= middle * 1.5 + 1e-6
        assert len(set(of_this_attempt)) > 1


def test_the_server_is_left_alone_for_as_long_as_it_asks() -> None:
    http, time = FakeHttp(answer(status=429, Retry_After="3"), answer("ok")), Time()
    assert client_of(http, time).get("/thing", json.loads) == "ok"
    assert time.slept == [pytest.approx(3.0)]


def test_a_retry_after_that_is_a_date_is_obeyed_too() -> None:
    http = FakeHttp(
        answer(status=503, Date="Sat, 14 Mar 2026 09:00:00 GMT", Retry_After="Sat, 14 Mar 2026 09:00:04 GMT"),
        answer("ok"),
    )
    time = Time()
    assert client_of(http, time).get("/thing", json.loads) == "ok"
    # Dates have whole seconds.
    assert 3.0 <= sum(time.slept) <= 6.0


@pytest.mark.parametrize("header", ["-5", "0", "soon", "", "nan", f"Sat, 14 Mar 2026 09:00:00 +{'9' * 20}"])
def test_a_retry_after_that_asks_for_nothing_leaves_the_usual_wait(header: str) -> None:
    http, time = FakeHttp(answer(status=429, Retry_After=header), answer("ok")), Time()
    assert client_of(http, time).get("/thing", json.loads) == "ok"
    assert len(time.slept) == 1
    assert 0.125 - 1e-6 <= time.slept[0] <= 0.375 + 1e-6


@pytest.mark.parametrize("header", ["15", "3600", "inf"])
def test_a_retry_after_that_does_not_fit_in_what_is_left_fails_the_request_without_waiting(header: str) -> None:
    http, time = FakeHttp(answer(status=429, Retry_After=header)), Time()
    client = client_of(http, time, budget=15)
    with pytest.raises(Rejected, match="429"):
        client.get("/thing", json.loads)
    assert (len(http.sent), time.slept) == (1, [])


def refused(client: Client, path: str) -> bool:
    try:
        client.get(path, json.loads)
    except (Rejected, LeftAlone):
        return True
    return False


def test_while_an_endpoint_asked_to_be_left_alone_the_others_are_asked_and_it_is_not_in_later_check_runs_either() -> (
    None
):
    http, time = FakeHttp(answer(status=429, Retry_After="40"), answer("ok")), Time()
    client = client_of(http, time, budget=15)
    assert refused(client, "/thing")
    assert not refused(client, "/other")
    for _ in range(2):
        client.start_run(15)
        with pytest.raises(LeftAlone, match="GET /thing was left out: the server asked for a pause of another"):
            client.get("/thing", json.loads)
        assert not refused(client, "/other")
        time.now += 15
    assert [sent.url for sent in http.sent].count(f"{URL}/thing") == 1
    client.start_run(15)
    # The 10 seconds that are left of the pause are waited for.
    assert not refused(client, "/thing")
    assert time.now == pytest.approx(1040)


def test_where_two_endpoints_ask_to_be_left_alone_the_server_is_but_for_its_health() -> None:
    busy = answer(status=503, Retry_After="60")
    http, time = FakeHttp(busy, busy, answer("ok")), Time()
    client = client_of(http, time, budget=15)
    assert [refused(client, path) for path in ("/one", "/two", "/three", "/health", "/ready")] == [True] * 3 + [
        False
    ] * 2
    assert len(http.sent) == 4
    time.now += 60
    client.start_run(15)
    assert [refused(client, path) for path in ("/one", "/three")] == [False] * 2


def test_a_pause_without_reason_ends_after_ten_minutes() -> None:
    http, time = FakeHttp(answer(status=503, Retry_After="1e9"), answer("ok")), Time()
    client = client_of(http, time, budget=15)
    assert refused(client, "/one")
    time.now += 599
    client.start_run(15)
    assert not refused(client, "/one")


def test_an_endpoint_that_did_not_answer_is_not_asked_again_with_less_patience() -> None:
    time = Time()

    def too_slow() -> FakeResponse:
        time.now += 5
        raise exceptions.ReadTimeout("slow")

    http = FakeHttp(too_slow, answer("ok"))
    client = client_of(http, time, budget=15)
    with client.run.time.share(1 / 3), pytest.raises(NoAnswerInTime, match="GET /thing was not answered within 5 s"):
        client.get("/thing", json.loads)
    with client.run.time.share(1 / 3), pytest.raises(NoAnswerInTime, match="GET /thing was not answered within 5 s"):
        client.get("/thing", json.loads)
    assert len(http.sent) == 1
    assert client.get("/thing", json.loads) == "ok"


def test_a_request_for_which_no_time_is_left_is_not_sent() -> None:
    http, time = FakeHttp(answer("ok")), Time()
    client = client_of(http, time, budget=15)
    time.now += 15
    assert client.run.time.seconds_left() == 0.0
    with pytest.raises(OutOfTime, match=r"GET /thing was left out: the check run's 15 s were used up"):
        client.get("/thing", json.loads)
    assert http.sent == []


def test_no_wait_goes_beyond_the_deadline() -> None:
    time = Time()

    def slow_refusal() -> FakeResponse:
        time.now += 0.9
        return answer(status=503)

    http = FakeHttp(slow_refusal)
    with pytest.raises(ApiError):
        client_of(http, time, budget=2).get("/thing", json.loads)
    assert time.now <= 1000 + 2 + 0.9
    assert len(http.sent) < 4


def test_timeouts_never_exceed_what_is_left() -> None:
    time = Time()
    http = FakeHttp(answer("ok"), timeout=(4.0, 10.0))
    client = client_of(http, time, budget=15)
    for _ in range(3):
        client.get("/thing", json.loads)
        time.now += 7
    assert [sent.options["timeout"] for sent in http.sent] == [(4.0, 10.0), (4.0, 8.0), (1.0, 1.0)]


def test_a_timeout_at_the_deadline_says_that_the_time_is_used_up() -> None:
    time = Time()

    def too_slow() -> FakeResponse:
        time.now += 15
        raise exceptions.ReadTimeout("slow")

    with pytest.raises(OutOfTime):
        client_of(FakeHttp(too_slow), time, budget=15).get("/thing", json.loads)


def test_a_body_that_stops_coming_is_not_asked_for_again() -> None:
    stalled = ReadTimeoutError(None, "/thing", "Read timed out.")  # type: ignore[arg-type]
    http, time = FakeHttp(FakeResponse(200, (b"[", stalled))), Time()
    with pytest.raises(Unreachable):
        client_of(http, time).get("/thing", json.loads)
    assert len(http.sent) == 1


def test_each_check_run_has_its_time_anew() -> None:
    http, time = FakeHttp(answer("ok")), Time()
    client = client_of(http, time, budget=15)
    time.now += 20
    client.start_run(15)
    assert client.run.time.seconds_left() == 15.0
    assert client.get("/thing", json.loads) == "ok"


@pytest.mark.parametrize("outcome", [answer("ok"), answer(status=404), HALF], ids=["200", "404", "half a body"])
def test_every_response_is_closed(outcome: FakeResponse) -> None:
    outcome.closed = False
    client = client_of(FakeHttp(outcome), Time())
    with suppress(ApiError):
        client.get("/thing", json.loads)
    assert outcome.closed


def test_status_of_gives_the_answer_whatever_its_status_but_retries_a_busy_server() -> None:
    http, time = FakeHttp(answer(status=503), answer({"detail": "no"}, status=404)), Time()
    found = client_of(http, time).status_of("/ready")
    assert (found.status, found.body) == (404, b'{"detail": "no"}')
    assert [sent.url for sent in http.sent] == [URL + "/ready"] * 2
