"""How requests are sent, and what the client says when one fails."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
from datetime import UTC, datetime
from http.client import IncompleteRead, RemoteDisconnected

import pytest
from requests import exceptions
from urllib3.exceptions import MaxRetryError, NameResolutionError, NewConnectionError, ProtocolError
from urllib3.exceptions import SSLError as Urllib3SSLError

from datadog_checks.prefect.api import body
from datadog_checks.prefect.api.errors import (
    AccessDenied,
    ApiError,
    CertificateForAnotherName,
    CertificateOutOfDate,
    CertificateRefused,
    CertificateUntrusted,
    CsrfTokenRefused,
    NotPrefect,
    Redirected,
    Rejected,
    ServerUnusable,
    UnexpectedAnswer,
    Unreachable,
)

from .fake_http import URL, FakeHttp, FakeResponse, Outcome, Sent, Time, answer, client_of

SECRET = "hunter2-the-secret"


def message_of(outcome: Outcome, expected: type[ApiError]) -> str:
    authorized = client_of(FakeHttp(outcome), Time(), headers={"Authorization": f"Bearer {SECRET}"})
    with pytest.raises(expected) as raised:
        authorized.post("/flow_runs/filter", json.loads, {"limit": 5})
    return str(raised.value)


def test_a_get_is_sent_with_its_parameters_over_a_connection_that_is_kept() -> None:
    http = FakeHttp(answer("ok"))
    client_of(http, Time(), headers={"X-Custom": "1"}).get("/flow_run_states/", json.loads, params={"flow_run_id": "a"})
    [sent] = http.sent
    assert (sent.method, sent.url) == ("get", f"{URL}/flow_run_states/")
    assert sent.options.pop("auth") is not None  # or requests would look into a .netrc
    assert sent.options == {
        "persist": True,
        "stream": True,
        "allow_redirects": False,
        "timeout": (10.0, 10.0),
        "extra_headers": {"X-Custom": "1"},
        "params": {"flow_run_id": "a"},
    }


def test_a_post_is_sent_as_json_and_follows_no_redirect() -> None:
    http = FakeHttp(answer([]))
    assert client_of(http, Time()).post("/flows/filter", json.loads, {"limit": 5}) == []
    [sent] = http.sent
    assert (sent.method, sent.options["json"], sent.options["allow_redirects"]) == ("post", {"limit": 5}, False)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_its_target_is_named(status: int) -> None:
    outcome = FakeResponse(status, (b"<html>Moved</html>",), {"Location": "https://prefect.test/new/api"})
    http = FakeHttp(outcome)
    with pytest.raises(Redirected) as raised:
        client_of(http, Time()).get("/health", json.loads)
    assert len(http.sent) == 1
    assert URL in str(raised.value)
    assert "https://prefect.test/new/api" in str(raised.value)
    assert "prefect_url" in str(raised.value)


def test_a_redirect_to_nowhere_is_told_too() -> None:
    assert URL in message_of(FakeResponse(302), Redirected)


def test_a_packed_body_is_unpacked() -> None:
    packed = gzip.compress(b'["ok"]')
    http = FakeHttp(FakeResponse(200, (packed[:5], packed[5:]), {"Content-Encoding": "gzip"}))
    assert client_of(http, Time()).get("/thing", json.loads) == ["ok"]


def test_a_body_that_is_not_packed_as_it_says_is_no_answer() -> None:
    message = message_of(FakeResponse(200, (b'["ok"]',), {"Content-Encoding": "gzip"}), Unreachable)
    assert "cannot be decompressed" in message


@pytest.mark.parametrize(
    "outcome",
    [
        FakeResponse(200, (b"[1, ",) * 100),
        FakeResponse(200, (gzip.compress(b" " * 1000),), {"Content-Encoding": "gzip"}),
    ],
    ids=["plain", "packed"],
)
def test_a_body_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch, outcome: FakeResponse) -> None:
    monkeypatch.setattr(body, "MOST_BODY_BYTES", 100)
    assert "larger than" in message_of(outcome, UnexpectedAnswer)


def test_a_redirect_to_what_is_no_url_is_told_too() -> None:
    # What requests raises for that, where it takes the status for one of a redirect.
    for outcome in (FakeResponse(300, (), {"Location": "http://[::1"}), ValueError("Invalid IPv6 URL")):
        assert "an invalid URL" in message_of(outcome, Redirected)


NESTED = b"[" * 100_000


@pytest.mark.parametrize(("status", "expected"), [(200, UnexpectedAnswer), (500, Rejected), (403, AccessDenied)])
def test_an_answer_that_is_nested_without_end_is_none(status: int, expected: type[ApiError]) -> None:
    message_of(FakeResponse(status, (NESTED,)), expected)


def test_a_csrf_token_that_is_nested_without_end_is_none() -> None:
    http = FakeHttp(answer({"detail": "Invalid CSRF token"}, status=403), FakeResponse(200, (NESTED,)))
    with pytest.raises(UnexpectedAnswer, match="csrf-token"):
        client_of(http, Time()).post("/flows/filter", json.loads, {})


@pytest.mark.parametrize("status", [401, 403])
def test_refused_access_names_the_url_the_status_and_what_to_set(status: int) -> None:
    message = message_of(answer({"detail": "Unauthorized"}, status=status), AccessDenied)
    for part in (URL, str(status), "`username`", "`password`", "`headers`"):
        assert part in message


def test_what_the_server_refuses_is_told_in_its_own_words() -> None:
    message = message_of(answer({"detail": "Invalid limit: must be less than or equal to 50."}, status=422), Rejected)
    assert message == ("POST /flow_runs/filter failed: status 422 Invalid limit: must be less than or equal to 50.")


@pytest.mark.parametrize("body", [b"", b"<html>oops</html>", b"[]", b'"text"', b"\xff", b'{"error": 1}'])
def test_a_refusal_without_words_is_told_by_its_status(body: bytes) -> None:
    assert message_of(FakeResponse(500, (body,)), Rejected) == "POST /flow_runs/filter failed: status 500"


def test_a_long_refusal_is_cut() -> None:
    assert len(message_of(answer({"detail": "x" * 10_000}, status=422), Rejected)) < 300
    assert "first second" in message_of(answer({"detail": "first\n\tsecond"}, status=422), Rejected)


@pytest.mark.parametrize(
    "outcome",
    [
        FakeResponse(200, (b"<!doctype html><title>Sign in</title>",)),
        FakeResponse(200, (b"Sign in first",), {"Content-Type": "text/html; charset=utf-8"}),
    ],
    ids=["by its body", "by its type"],
)
def test_html_with_status_200_is_told_as_another_server_than_prefects(outcome: FakeResponse) -> None:
    message = message_of(outcome, NotPrefect)
    assert URL in message
    assert "POST /flow_runs/filter returns HTML" in message
    assert "prefect_url" in message


def test_an_url_without_api_is_corrected_in_the_message() -> None:
    assert "http://prefect.test:4200/api" in str(NotPrefect("http://prefect.test:4200", "it answers 404"))
    assert "/api/api" not in str(NotPrefect("http://prefect.test:4200/api", "it answers 404"))


def test_json_that_is_not_what_was_asked_for_names_the_request() -> None:
    message = message_of(FakeResponse(200, (b"{",)), UnexpectedAnswer)
    assert message.startswith("POST /flow_runs/filter failed: ")


def refused() -> exceptions.ConnectionError:
    inner = NewConnectionError(None, "proxy://user:hunter2-the-secret@proxy")  # type: ignore[arg-type]
    inner.__cause__ = ConnectionRefusedError(111, "Connection refused")
    return exceptions.ConnectionError(MaxRetryError(None, URL, inner))  # type: ignore[arg-type]


def unresolved() -> exceptions.ConnectionError:
    cause = socket.gaierror(-2, "Name or service not known")
    inner = NameResolutionError("prefect.test", None, cause)  # type: ignore[arg-type]
    inner.__cause__ = cause
    return exceptions.ConnectionError(MaxRetryError(None, URL, inner))  # type: ignore[arg-type]


def closed() -> exceptions.ConnectionError:
    return exceptions.ConnectionError(ProtocolError("Connection aborted.", RemoteDisconnected("closed")))


def broken_off() -> FakeResponse:
    return FakeResponse(200, (b'{"', ProtocolError("Connection broken", IncompleteRead(b"", 40))))


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (refused(), "Connection refused"),
        (unresolved(), "Name or service not known"),
        (closed(), "the connection was closed before an answer"),
        (broken_off(), "the response was cut off"),
        (exceptions.ReadTimeout("slow"), "no answer to POST /flow_runs/filter within 10 s"),
        (exceptions.ConnectTimeout("slow"), "no connection to POST /flow_runs/filter within 10 s"),
    ],
    ids=["refused", "no such name", "closed", "broken off", "no answer", "no connection"],
)
def test_a_connection_that_fails_names_the_url_and_the_cause_in_plain_words(outcome: Exception, cause: str) -> None:
    message = message_of(outcome, Unreachable)
    assert message.startswith(f"Prefect's API at {URL} cannot be reached: ")
    assert cause in message
    assert "`prefect_url`" in message


@pytest.mark.parametrize(
    ("code", "expected", "option"),
    [
        (18, CertificateUntrusted, "`tls_ca_cert`"),
        (10, CertificateOutOfDate, "renew"),
        (9, CertificateOutOfDate, "clock"),
        (62, CertificateForAnotherName, "`prefect_url`"),
        (64, CertificateForAnotherName, "`prefect_url`"),
    ],
)
def test_a_certificate_that_is_not_accepted_is_no_matter_of_trying_again(
    code: int, expected: type[ApiError], option: str
) -> None:
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_code, cause.verify_message = code, "what OpenSSL says"
    http = FakeHttp(exceptions.SSLError(MaxRetryError(None, URL, Urllib3SSLError(cause))))  # type: ignore[arg-type]
    with pytest.raises(expected) as raised:
        client_of(http, Time()).get("/health", json.loads)
    assert len(http.sent) == 1
    for part in (URL, "what OpenSSL says", option):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    "outcome",
    [
        answer({"detail": "Unauthorized"}, status=401),
        answer(status=500),
        refused(),
        exceptions.ProxyError(f"Cannot connect to http://user:{SECRET}@proxy:3128"),
        exceptions.InvalidHeader(f"Invalid header value {SECRET}"),
        exceptions.SSLError(f"https://user:{SECRET}@prefect.test"),
        exceptions.ChunkedEncodingError(SECRET),
        FakeResponse(200, (b"<html>",)),
        FakeResponse(200, (b"{",)),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_no_message_holds_a_credential(outcome: Outcome) -> None:
    assert SECRET not in message_of(outcome, ApiError)


def test_errors_that_end_the_whole_check_run_are_told_from_those_of_one_request() -> None:
    unusable = (AccessDenied, CertificateRefused, NotPrefect, Redirected, Unreachable)
    assert all(issubclass(error, ServerUnusable) for error in unusable)
    assert not issubclass(Rejected, ServerUnusable)
    assert not issubclass(UnexpectedAnswer, ServerUnusable)


def test_the_servers_clock_is_taken_from_its_answers() -> None:
    http = FakeHttp(answer("ok", Date="Sat, 14 Mar 2026 09:00:00 GMT"))
    client = client_of(http, Time())
    client.get("/health", json.loads)
    told = client.run.clock.now()
    assert datetime(2026, 3, 14, 9, 0, 0, tzinfo=UTC) <= told <= datetime(2026, 3, 14, 9, 0, 2, tzinfo=UTC)


def test_a_server_with_csrf_protection_gets_the_token_that_it_gives_for_the_client() -> None:
    http = FakeHttp(
        answer({"detail": "Missing CSRF token."}, status=403),
        answer({"token": "t1", "client": "c"}),
        answer(["first"]),
        answer(["second"]),
    )
    client = client_of(http, Time(), headers={"X-Custom": "1"})
    assert client.post("/flows/filter", json.loads, {}) == ["first"]
    assert client.post("/flows/filter", json.loads, {}) == ["second"]
    assert [sent.url.removeprefix(URL) for sent in http.sent] == [
        "/flows/filter",
        "/csrf-token",
        "/flows/filter",
        "/flows/filter",
    ]
    client_id = http.sent[1].options["params"]["client"]
    with_token = {"X-Custom": "1", "Prefect-Csrf-Token": "t1", "Prefect-Csrf-Client": client_id}
    assert [sent.options["extra_headers"] for sent in http.sent] == [
        {"X-Custom": "1"},
        {"X-Custom": "1"},
        with_token,
        with_token,
    ]


def test_a_csrf_token_that_has_run_out_is_renewed_for_the_same_client() -> None:
    http = FakeHttp(
        answer({"detail": "Missing CSRF token."}, status=403),
        answer({"token": "t1"}),
        answer("ok"),
        answer({"detail": "Invalid CSRF token or client identifier."}, status=403),
        answer({"token": "t2"}),
        answer("ok"),
    )
    client = client_of(http, Time())
    for _ in range(2):
        assert client.post("/flows/filter", json.loads, {}) == "ok"
    assert http.sent[1].options["params"] == http.sent[4].options["params"]
    assert http.sent[5].options["extra_headers"]["Prefect-Csrf-Token"] == "t2"


def test_a_server_that_refuses_its_own_csrf_token_refuses_access() -> None:
    http = FakeHttp(
        answer({"detail": "Missing CSRF token."}, status=403),
        answer({"token": "t1"}),
        answer({"detail": "Invalid CSRF token or client identifier."}, status=403),
    )
    with pytest.raises(CsrfTokenRefused, match="403"):
        client_of(http, Time()).post("/flows/filter", json.loads, {})
    assert len(http.sent) == 3


EXPIRING = {"token": "t1", "expiration": "2026-03-14T10:00:00Z"}


def sent_at(*outcomes: FakeResponse, minutes: float) -> list[Sent]:
    """What is sent for a second POST, that long after the first one got a token at nine that expires at ten."""
    http = FakeHttp(
        answer({"detail": "Missing CSRF token."}, status=403, Date="Sat, 14 Mar 2026 09:00:00 GMT"),
        answer(EXPIRING),
        answer("ok"),
        *outcomes,
    )
    time = Time()
    client = client_of(http, time, budget=2 * minutes * 60)
    assert client.post("/flows/filter", json.loads, {}) == "ok"
    time.now += minutes * 60
    assert client.post("/flows/filter", json.loads, {}) == "ok"
    return http.sent[3:]


def test_a_csrf_token_is_kept_while_it_is_good_for_more_than_a_minute() -> None:
    [post] = sent_at(answer("ok"), minutes=58.9)
    assert post.options["extra_headers"]["Prefect-Csrf-Token"] == "t1"


def test_a_csrf_token_is_renewed_a_minute_before_it_expires() -> None:
    renewal, post = sent_at(answer({"token": "t2"}), answer("ok"), minutes=59.1)
    assert renewal.url.endswith("/csrf-token")
    assert post.options["extra_headers"]["Prefect-Csrf-Token"] == "t2"


def test_where_csrf_protection_was_switched_off_no_token_is_sent_any_more() -> None:
    refusal = answer({"detail": "CSRF protection is disabled."}, status=422)
    _, post = sent_at(refusal, answer("ok"), minutes=70)
    assert post.options["extra_headers"] == {}


@pytest.mark.parametrize("expiration", [None, 5, "soon", "2026-03-14T10:00:00", []])
def test_a_csrf_token_without_an_expiration_is_kept_until_it_is_refused(expiration: object) -> None:
    http = FakeHttp(
        answer({"detail": "Missing CSRF token."}, status=403),
        answer({"token": "t1", "expiration": expiration}),
        answer("ok"),
    )
    client = client_of(http, Time())
    for _ in range(2):
        assert client.post("/flows/filter", json.loads, {}) == "ok"
    assert len(http.sent) == 4


@pytest.mark.parametrize("body", [{}, [], {"tok": 1}, "t"])
def test_a_csrf_answer_without_a_token_is_named(body: object) -> None:
    http = FakeHttp(answer({"detail": "Missing CSRF token."}, status=403), answer(body))
    with pytest.raises(UnexpectedAnswer, match="GET /csrf-token"):
        client_of(http, Time()).post("/flows/filter", json.loads, {})
