"""Whatever a server answers, a check run ends within its time, in little memory, and with the health.

What each case costs is printed with `pytest -s`, and the dearest ones at the end in any case.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datadog_checks.prefect.config.settings import LEAST_BUDGET_SECONDS
from lab import hostile_answers as answers
from lab.forked_checks import ForkedChecks
from lab.hostile import (
    DEPLOYMENT_ID,
    EVERYWHERE,
    LIMIT_ID,
    LIMITS,
    POOL_ID,
    QUEUE_ID,
    WORKER_ID,
    WORKERS,
    Answer,
    HostileServer,
    Scene,
    head,
)

from .hostility import Case, Stand, assert_stands, case, on_each

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a process's memory"
)

HEALTH, READY, VERSION, TOKEN = "/health", "/ready", "/admin/version", "/csrf-token"
POOLS, QUEUES, FLOWS, EVENTS = "/work_pools/filter", "/work_queues/filter", "/flows/filter", "/events/filter"
DEPLOYMENTS, FLOW_RUNS, TASK_RUNS = "/deployments/filter", "/flow_runs/filter", "/task_runs/filter"
DEPLOYMENTS_COUNT, HISTORY, NEXT_EVENTS = "/deployments/count", "/flow_run_states/", "/events/filter/next"
LISTS = (POOLS, WORKERS, QUEUES, LIMITS, DEPLOYMENTS, FLOW_RUNS, TASK_RUNS, EVENTS)
MOST_PATHS = (HEALTH, READY, VERSION, *LISTS, DEPLOYMENTS_COUNT)

NO_TOKEN = answers.whole(b'{"detail":"Missing CSRF token."}', status=403)
LENGTH = ("Content-Length", "100000")
LAST_CHUNK = head(answers.CHUNKED) + b"2\r\n[]\r\n0\r\n"
DEEP = 100_000


@pytest.fixture(scope="module")
def stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    """All chosen cases begin with the first, since most of them do little but wait."""
    with HostileServer() as server, ForkedChecks(server.url_of(Scene({}))) as checks:
        stand = Stand(server, checks)
        items = [item for item in request.session.items if isinstance(item, pytest.Function)]
        cases = [item.callspec.params["case"] for item in items if item.path == request.path]
        stand.begin_all(case for case in cases if isinstance(case, Case))
        yield stand
        stand.end()
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        sys.stderr.write(f"\n{stand.summary()}\n")


def each(*cases: Case) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name.replace("/", "-") for case in cases])


@each(
    *(
        case(f"{encoding} of {unit}", answers.bomb(unit, encoding), POOLS)
        for unit in answers.UNITS
        for encoding in ("gzip", "deflate", "gzip, gzip")
    ),
    *on_each("gzip of objects", answers.bomb("objects", "gzip"), *(path for path in MOST_PATHS if path != POOLS)),
    *on_each("gzip of models", answers.bomb("models", "gzip"), FLOWS, HISTORY, busy=True),
    case("gzip of spaces everywhere", answers.bomb("spaces", "gzip"), EVERYWHERE),
    Case("gzip of objects as a token", {"token": Scene({POOLS: NO_TOKEN, TOKEN: answers.bomb("objects", "gzip")})}),
)
def test_a_bomb_is_not_unpacked(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


@each(
    *(
        case(f"bomb with status {status}", answers.bomb("keyed", "gzip", status), POOLS)
        for status in (400, 401, 403, 404, 422, 429, 500, 503)
    ),
    *on_each("bomb with status 401", answers.bomb("spaces", "gzip", 401), VERSION, HEALTH, EVENTS),
    *on_each("bomb with status 500", answers.bomb("lists", "deflate", 500), EVENTS, WORKERS, HEALTH, READY),
    *on_each("no end with status 500", answers.endless("spaces", "chunked", 500), POOLS, READY),
)
def test_the_body_of_an_error_takes_no_memory_either(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


@each(
    *(
        case(f"{size} MiB of {unit} on {path}", answers.dense(unit, size), path)
        for size in (1, 4, 16, 64)
        for unit, path in (("objects", POOLS), ("wrong", POOLS), ("lists", EVENTS), ("keyed", FLOW_RUNS))
    ),
    *on_each("8 MiB of labels", answers.one_event("resource", '"%d":"x"', 8), EVENTS),
    *on_each("8 MiB of relations", answers.one_event("related", '{"%d":"x"}', 8), EVENTS),
    *on_each("8 MiB of payload", answers.one_event("payload", '"%d":{}', 8), EVENTS),
)
def test_a_body_that_grows_when_it_is_parsed_takes_little_memory(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


@each(
    *on_each("no end of chunks", answers.endless("spaces", "chunked"), *MOST_PATHS),
    *on_each("no end until closed", answers.endless("objects", "until closed"), POOLS, EVENTS, VERSION),
    *on_each("10 TB announced", answers.endless("numbers", "announced"), POOLS, TASK_RUNS, HEALTH),
    *on_each("no end of gzip", answers.endless_packed("gzip"), POOLS, EVENTS),
    *on_each("no end of deflate", answers.endless_packed("deflate"), DEPLOYMENTS, WORKERS),
    *on_each("no end of a chunk's size", answers.begins_with(head(answers.CHUNKED) + b"1;", b"a" * 4096), POOLS),
    *on_each("no end of trailers", answers.begins_with(LAST_CHUNK, b"X: y\r\n" * 500), POOLS),
    case("no end everywhere", answers.endless("spaces", "chunked"), EVERYWHERE),
)
def test_a_body_without_end_takes_little_memory(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


LONG = "x" * 2000
NAMED = f'{{"id":"{{id}}","name":"{{id}}-{LONG}","status":"READY","updated":"{{time}}"}}'
RUN = (
    '{"id":"{id}","name":"%s","state_type":"%s","run_count":1,"state":{"timestamp":"{time}"},"start_time":"{time}",'
    '"expected_start_time":"{time}","next_scheduled_start_time":"{time}","end_time":"{time}"}'
)
EVENT = (
    '{"id":"{id}","occurred":"{time}","event":"prefect.flow-run.Completed","related":[],"resource":{'
    '"prefect.resource.id":"prefect.flow-run.{id}","prefect.state-type":"COMPLETED","prefect.run-count":"1"}}'
)


@each(
    *on_each("no end of pages", answers.pages(NAMED), POOLS, WORKERS, QUEUES, waits=True),
    Case(
        f"no end of pages on {DEPLOYMENTS}",
        {"deployments": Scene({DEPLOYMENTS: answers.pages(NAMED), DEPLOYMENTS_COUNT: answers.whole(b"1000000")})},
        waits=True,
    ),
    *(
        case(f"no end of pages of {state} runs on {path}", answers.pages(RUN % (LONG, state)), path, waits=True)
        for path in (FLOW_RUNS, TASK_RUNS)
        for state in ("RUNNING", "COMPLETED", "SCHEDULED")
    ),
    case(f"no end of pages on {EVENTS}", answers.pages(EVENT), EVENTS, NEXT_EVENTS, waits=True),
    case("no end of empty pages of events", answers.empty_event_pages(), EVENTS, NEXT_EVENTS, waits=True),
)
def test_pages_without_end_are_left_in_time(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


def beside_each_other(name: str, answer: Answer, waits: bool = False) -> Case:
    """The workers of twenty pools, eight of which are asked for at a time."""
    pools = [f'{{"id":"{{id}}","name":"pool-{number}","status":"READY"}}' for number in range(20)]
    scene = Scene({POOLS: answers.listing(pools), WORKERS: answer})
    return Case(name, {name: scene}, waits)


def wide(field: str, kibibytes: int) -> Answer:
    """200 workers with a field that is so long."""
    worker = f'{{"id":"{{id}}","name":"worker","{field}":"{"x" * kibibytes * 1024}","status":"ONLINE"}}'
    return answers.listing([worker] * 200)


@each(
    beside_each_other("twenty times 40 MiB", wide("ignored", 200)),
    beside_each_other("twenty times 6 MiB", wide("ignored", 30)),
    beside_each_other("twenty times 6 MiB of names", wide("name", 30)),
    beside_each_other("twenty times 4 MiB of lists", answers.dense("lists", 4)),
    beside_each_other("twenty bombs", answers.bomb("objects", "gzip, gzip")),
    beside_each_other("twenty times no end", answers.endless("objects", "chunked")),
    beside_each_other("twenty times no end of pages", answers.pages(NAMED), waits=True),
    beside_each_other("twenty times a trickle", answers.trickles(head(LENGTH), b" " * 1000), waits=True),
)
def test_large_answers_side_by_side_share_the_memory_that_there_is(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


STATUS_LINE, CONTINUE = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"


def slow(name: str, answer: Answer, *paths: str) -> list[Case]:
    return on_each(f"trickle, {name}", answer, *paths, waits=True)


@each(
    *slow("status line", answers.trickles(b"", b"HTTP/1.1 200 " + b"x" * 1000), HEALTH, VERSION, POOLS),
    *slow("header", answers.trickles(STATUS_LINE, b"X: " + b"y" * 1000), READY, POOLS, EVENTS),
    *slow("header a line", answers.begins_with(STATUS_LINE, b"X: y\r\n", 0.5), VERSION, POOLS),
    *slow("continue", answers.begins_with(b"", CONTINUE, 0.2), HEALTH, POOLS),
    *on_each("no end of continue", answers.begins_with(b"", CONTINUE * 500), HEALTH, POOLS),
    *slow("kept alive", answers.trickles(head(LENGTH), b" " * 1000), HEALTH, POOLS, FLOW_RUNS),
    *slow("closed", answers.trickles(head(answers.CLOSE), b"[" + b" " * 1000), POOLS, TASK_RUNS),
    *slow("chunks", answers.begins_with(head(answers.CHUNKED), b"1\r\n \r\n", 0.2), POOLS, DEPLOYMENTS),
    *slow("trailers", answers.begins_with(LAST_CHUNK, b"X: y\r\n", 0.2), POOLS),
    *slow("gzip", answers.trickles(head(LENGTH, ("Content-Encoding", "gzip")), b"\x1f" * 1000), POOLS),
    *slow("redirect", answers.trickles(head(LENGTH, answers.ELSEWHERE, status=302), b" " * 1000), POOLS),
    *slow("error", answers.trickles(head(LENGTH, status=500), b" " * 1000), POOLS, VERSION),
)
def test_an_answer_that_trickles_is_left_in_time(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


HEADERS = {
    "100,000 headers": answers.with_headers(*((f"X-{number}", "y") for number in range(100_000))),
    "a header of 10 MB": answers.with_headers(("X", "y" * 10_000_000)),
    "no end of a header": answers.begins_with(STATUS_LINE + b"X: ", b"y" * 65536),
    "no end of headers": answers.begins_with(STATUS_LINE, b"X: y\r\n" * 1000),
    "no end of a status line": answers.begins_with(b"HTTP/1.1 200 ", b"x" * 65536),
    "90 headers of 60 kB": answers.with_headers(*((f"X-{number}", "y" * 60_000) for number in range(90))),
    "cookies": answers.with_cookies(20, 4_000),
}
ODD_HEADERS = [
    *(("Date", date) for date in ("Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "9" * 5000)),
    *(("Content-Length", length) for length in ("-1", "9" * 5000, "1e3", "0x10", "\u00b2")),
    *(("Content-Encoding", encoding) for encoding in ("zebra", ", ".join(["gzip"] * 5000), "identity, gzip", "br")),
    *(("Transfer-Encoding", encoding) for encoding in ("chunked", "gzip, chunked", "zebra")),
    ("Content-Type", "text/html; charset=" + "x" * 60_000),
    ("Set-Cookie", "\x01=\x02; Expires=" + "9" * 5000),
]


@each(
    *(one for name, answer in HEADERS.items() for one in on_each(name, answer, VERSION, POOLS)),
    *(case(f"{name} everywhere", answer, EVERYWHERE) for name, answer in HEADERS.items()),
    *(
        Case(
            f"odd headers on {path}",
            {
                f"{name} {value[:30]!r} on {path}": Scene({path: answers.with_headers((name, value))})
                for name, value in ODD_HEADERS
            },
        )
        for path in (VERSION, POOLS, EVERYWHERE)
    ),
    *(
        case(
            f"{status} with Retry-After {wait[:9]}",
            answers.whole(b"", ("Retry-After", wait), status=status),
            POOLS,
            recovers=False,
        )
        for status in (429, 503)
        for wait in ("1000000000", "inf", "nan", "-1", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT")
    ),
)
def test_headers_take_neither_time_nor_memory(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


def nested(level: str, start: str = "", end: str = "", status: int = 200) -> Answer:
    """A hundred thousand levels, which are all closed again."""
    closing = "]" if level == "[" else "}"
    return answers.whole(f"{start}{level * DEEP}0{closing * DEEP}{end}".encode(), status=status)


@each(
    *on_each("lists in lists", nested("["), HEALTH, VERSION, POOLS, EVENTS, DEPLOYMENTS_COUNT),
    *on_each("objects in objects", nested('{"a":'), HEALTH, VERSION, POOLS, EVENTS, DEPLOYMENTS_COUNT),
    *on_each("lists that are not closed", answers.whole(b"[" * DEEP), VERSION, POOLS, EVENTS),
    *on_each("objects that are not closed", answers.whole(b'{"a":' * DEEP), VERSION, POOLS, EVENTS),
    *on_each("lists in a field", nested("[", f'[{{"id":"{POOL_ID}","name":', "}]"), POOLS, QUEUES, FLOW_RUNS),
    *on_each("objects in a state", nested('{"a":', f'[{{"id":"{POOL_ID}","state":', "}]"), FLOW_RUNS, TASK_RUNS),
    *on_each("objects in an event", nested('{"a":', '{"total":1,"events":[{"id":"a","payload":', "}]}"), EVENTS),
    *on_each("lists in what is wrong", nested("[", '{"detail":', "}", 422), POOLS, EVENTS, TASK_RUNS),
)
def test_an_answer_that_is_nested_deeply_ends_nothing(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


DIGITS = "9" * 5000
VALUES = {
    "null": "null",
    "true": "true",
    "-1": "-1",
    "1e308": "1e308",
    "1e999": "1e999",
    "NaN": "NaN",
    "5,000 digits": DIGITS,
    "5,000 digits as text": f'"{DIGITS}"',
    "no text": '""',
    "no object": "{}",
    "no list": "[]",
    "a null character": '"\\u0000"',
    "half a character": '"\\ud800"',
}
# What tells of the undamaged object, by its identity.
LEFT = {
    POOLS: (POOL_ID, "work_pool.is_ready"),
    WORKERS: (WORKER_ID, "work_pool.worker.is_online"),
    QUEUES: (QUEUE_ID, "work_queue.is_ready"),
    LIMITS: (LIMIT_ID, "concurrency_limit.is_active"),
    DEPLOYMENTS: (DEPLOYMENT_ID, "deployment.is_ready"),
    FLOW_RUNS: (DEPLOYMENT_ID, "flow_runs.running"),
}
CHANGED_LISTS = (*LISTS, FLOWS, HISTORY, "/task_run_states/")


@each(
    *(
        Case(
            f"fields of {path}",
            {
                f"{name} in each field of {path}": Scene({path: answers.with_damage(value)}, busy=True)
                for name, value in VALUES.items()
            },
            identity=LEFT.get(path, ("",))[0],
        )
        for path in CHANGED_LISTS
    )
)
def test_a_value_of_the_wrong_type_costs_no_other_object(stand: Stand, case: Case) -> None:
    outcomes = stand.outcomes(case)
    assert_stands(outcomes)
    left = LEFT.get(case.name.removeprefix("fields of "))
    for name, outcome in outcomes.items():
        # On a machine that is too busy the time may be up before.
        if left is not None and outcome.seconds < LEAST_BUDGET_SECONDS:
            assert f"prefect.server.{left[1]}" in outcome.about, name


@each(
    *(
        Case(
            f"instead of {path}",
            {
                f"{name} instead of {path}": Scene({path: answers.whole(VALUES[name].encode())}, busy=True)
                for name in ("null", "5,000 digits", "no object", "half a character")
            },
            recovers=False,
        )
        for path in (*MOST_PATHS, FLOWS, HISTORY)
    )
)
def test_an_answer_of_the_wrong_type_ends_in_no_error_but_ours(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


PLACES = ("{path}", "/elsewhere", "http://127.0.0.1:1{path}", "http://[::1", "//", "http://", "", "\x7f", "/x" * 30_000)


@each(
    *(
        Case(
            f"redirects on {path}",
            {
                f"redirect to {place[:30]!r} on {path}": Scene(
                    {path: answers.whole(b"", ("Location", place.replace("{path}", path)), status=status)}
                )
                for place, status in zip(PLACES, itertools.cycle((301, 302, 303, 307, 308)))
            },
        )
        for path in (HEALTH, READY, VERSION, POOLS, EVENTS)
    ),
    *on_each("redirect that says nothing", answers.whole(b"", status=302), VERSION, POOLS),
    *on_each(
        "redirect without end", answers.endless("spaces", "chunked", 302, answers.ELSEWHERE), HEALTH, POOLS, EVENTS
    ),
    *on_each(
        "bomb with a redirect", answers.bomb("spaces", "gzip", 302, answers.ELSEWHERE), POOLS, VERSION, EVENTS, HEALTH
    ),
)
def test_a_redirect_takes_neither_time_nor_memory(stand: Stand, case: Case) -> None:
    assert_stands(stand.outcomes(case))


CUTS_A_CASE = 40


def cuts(path: str, body: bytes) -> list[Case]:
    """The first answer is broken off at each of its bytes; asked again, the server answers in full."""
    whole = head(answers.JSON, ("Content-Length", str(len(body)))) + body
    cut = {f"{path} cut at byte {at}": Scene({path: answers.raw(whole[:at])}, times=1) for at in range(len(whole))}
    parts = [list(cut)[begin : begin + CUTS_A_CASE] for begin in range(0, len(whole), CUTS_A_CASE)]
    return [
        Case(f"{names[0]} and on", {name: cut[name] for name in names}, identity=POOL_ID, recovers=False)
        for names in parts
    ]


@each(
    *cuts(VERSION, b'"3.8.8"'),
    *cuts(POOLS, f'[{{"id":"{POOL_ID}","name":"pool","type":"process","status":"READY","is_paused":false}}]'.encode()),
)
def test_an_answer_that_is_cut_off_is_asked_for_again(stand: Stand, case: Case) -> None:
    outcomes = stand.outcomes(case)
    assert_stands(outcomes)
    for name, outcome in outcomes.items():
        assert (outcome.error, outcome.warnings) == ("", []), name
        assert "prefect.server.work_pool.is_ready" in outcome.about, name
