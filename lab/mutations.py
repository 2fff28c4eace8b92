"""Damage to a server's answers: what breaks on the way, and what no server should send, dealt by dice."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

from .recording import RecordedAnswer

Mutation = Callable[[RecordedAnswer, Random], RecordedAnswer]
Path = tuple[str | int, ...]

# SeenKeys the place in a document where raw text is put, so that it may be what no writer of JSON writes.
MARK = "\x1f"

NUMBERS = (
    "0",
    "-1",
    "1",
    "2.5",
    "1e308",
    "-1e308",
    "1e999",
    "9" * 25,
    "9" * 400,
    "9" * 5000,
    "-" + "9" * 400,
    "1e-400",
)
NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
TIMES = (
    '"0001-01-01T00:00:00Z"',
    '"0001-01-01T00:00:00+14:00"',
    '"9999-12-31T23:59:59.999999Z"',
    '"9999-12-31T23:59:59.999999-14:00"',
    '"10000-01-01T00:00:00Z"',
    '"0000-00-00T00:00:00Z"',
    '"2026-03-14T09:00:00"',
    '"2026-03-14"',
    '"2026-03-14T09:00:00+99:99"',
    '"2026-03-14T09:00:60Z"',
    '"yesterday"',
    "1",
    "-62135596800",
    "253402300799",
    "1e18",
)
TEXTS = ('""', '"x"', '"READY"', '"no-id"', '"../../admin"', '"\\u0000"', '"\\ud800"', '"a/b?c#d%"', '"{}"', '"-1"')
ODD_DATES = (
    "",
    "yesterday",
    "0",
    "Mon, 01 Jan 0001 00:00:00 GMT",
    "Mon, 01 Jan 0099 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "Sat, 01 Jan 10000 00:00:00 GMT",
    "Sat, 14 Mar 2026 09:00:00",
    "Sat, 14 Mar 2026 09:00:00 -0000",
    "Sat, 14 Mar 2026 09:00:00 +99999999999999999999",
    "Sat, 14 Mar 2026 25:61:61 GMT",
    "Wed, 01 Jan 1800 00:00:00 GMT",
)
ODD_WAITS = ("", "0", "-1", "0.5", "1", "1e9", "1e999", "nan", "soon", "9" * 400, *ODD_DATES)
ODD_TYPES = (
    "",
    "text/html",
    "text/plain",
    "application/json; charset=utf-16",
    "image/png",
    ";;;",
    "application/" + "x" * 5000,
)
ODD_ENCODINGS = ("gzip", "deflate", "br", "zstd", "gzip, gzip", "none of them", "identity")
ODD_TARGETS = (
    "",
    "/",
    "http://[",
    "http://[::1",
    "//",
    "http://user:secret@elsewhere/api",
    "https://elsewhere:99999/x",
    "\xff",
)
DETAILS = (
    "{}",
    "[]",
    "null",
    '"Invalid limit: must be less than or equal to 50."',
    '"limit"',
    '"Invalid limit: must be less than or equal to -5."',
    f'"Invalid limit: must be less than or equal to {"9" * 5000}."',
    '"Invalid CSRF token or client identifier."',
    '{"csrf token": [[[1]]]}',
)


def mutate(answer: RecordedAnswer, dice: Random) -> tuple[RecordedAnswer, str]:
    """The answer with some damage, and what kind of damage that is."""
    mutation = dice.choice(MUTATIONS)
    return mutation(answer, dice), mutation.__name__.strip("_")


def _truncated(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    return replace(answer, body=answer.body[: dice.randrange(len(answer.body) + 1)])


def _broken_off(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    announced = {**answer.headers, "Content-Length": str(len(answer.body) + dice.choice((1, 1000)))}
    return replace(answer, headers=announced)


def _flipped(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    body = bytearray(answer.body)
    for _ in range(dice.choice((1, 1, 2, 20)) if body else 0):
        body[dice.randrange(len(body))] ^= 1 << dice.randrange(8)
    return replace(answer, body=bytes(body))


def _not_utf8(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    at = dice.randrange(len(answer.body) + 1)
    odd = dice.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\xf8\x88\x80\x80\x80", b"\xef\xbb\xbf"))
    return replace(answer, body=answer.body[:at] + odd + answer.body[at:])


def _other_body(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    whole = dice.choice(
        (
            b"",
            b" ",
            b"null",
            b"[]",
            b"{}",
            b"5",
            b'"text"',
            b"true",
            b"[null]",
            b"[[]]",
            b"<html>",
            b"{" + answer.body,
            b"[" + answer.body + b"]",
            b'{"events": ' + answer.body + b', "total": 3, "next_page": null}',
            b'{"token": ' + answer.body + b"}",
            answer.body + answer.body,
            json.dumps("2.0").encode(),
            json.dumps(answer.body.decode()).encode(),
            answer.body.decode().encode("utf-16"),
            _nested(dice).encode(),
        )
    )
    return replace(answer, body=whole)


def _odd_value(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    """From one value to some, or all of one name, have become others."""
    document = _document(answer)
    paths = list(_paths(document))
    chosen = [dice.choice(paths) for _ in range(dice.choice((1, 1, 1, 3, 10)))]
    if dice.random() < 0.3:
        name = chosen[0][-1] if chosen[0] else None
        chosen = [path for path in paths if path and path[-1] == name]
    # The deepest first: what is in a value that was replaced is gone.
    for path in sorted(set(chosen), key=len, reverse=True):
        document = _with(document, path, MARK)
    return _written(answer, document, lambda: _odd(dice))


def _odd_time(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    document = _document(answer)
    times = [path for path in _paths(document) if path and _is_time(str(path[-1]))]
    for path in dice.sample(times, min(len(times), dice.choice((1, 5, 1000)))):
        document = _with(document, path, MARK)
    return _written(answer, document, lambda: dice.choice(TIMES))


def _odd_page(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    """Totals and links of a page of events that contradict it."""
    document = _document(answer)
    if not isinstance(document, dict):
        return _odd_value(answer, dice)
    if dice.random() < 0.5:
        document = {**document, "total": MARK}
    elif dice.random() < 0.3:
        document = {**document, "events": []}
    itself = '"http://127.0.0.1/api/events/filter/next?page-token=itself"'
    links = (
        itself,
        itself,
        '"http://["',
        '"?page-token=%ff"',
        '"?page-token="',
        "5",
        "[]",
        f'"?page-token={"x" * 100_000}"',
    )
    if dice.random() < 0.7:
        document = {**document, "next_page": MARK + "link"}
    link = dice.choice(links)
    written = _written(answer, document, lambda: dice.choice((*NUMBERS, *NO_NUMBERS, "true", '"5"', "null")))
    return replace(written, body=written.body.replace(b'"\\u001flink"', link.encode()))


def _lost_keys(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    document = _document(answer)
    paths = [path for path in _paths(document) if path]
    for path in dice.sample(paths, min(len(paths), dice.choice((1, 3, 30)))):
        document = _without(document, path)
    return _written(answer, document, str)


def _doubled_keys(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    document = _document(answer)
    paths = [path for path in _paths(document) if path and isinstance(path[-1], str)]
    for path in dice.sample(paths, min(len(paths), 3)):
        *above, name = path
        document = _with(document, (*above, f"{MARK}{name}"), None)
    written = _written(answer, document, str)
    return replace(written, body=written.body.replace(b"\\u001f", b""))


def _many_odd_keys(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    """Objects that hold thousands of names that nobody knows, with values of every kind."""
    document = _document(answer)
    objects = [path for path in _paths(document) if isinstance(_at(document, path), dict)]
    if objects:
        path = dice.choice(objects)
        odd: Any = {f"{dice.random()}": dice.choice((None, 5, [], {}, True)) for _ in range(dice.choice((1, 2000)))}
        document = _with(document, path, {**_at(document, path), **odd})
    return _written(answer, document, str)


def _odd_status(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    status = dice.choice((dice.randrange(100, 600), 204, 301, 307, 401, 403, 404, 405, 422, 422, 429, 500, 503))
    body = dice.choice(
        (b"", answer.body, b'{"detail": ' + dice.choice(DETAILS).encode() + b"}", _nested(dice).encode())
    )
    headers = {**answer.headers, "Retry-After": dice.choice(ODD_WAITS)}
    if 300 <= status < 400 and dice.random() < 0.8:
        headers["Location"] = dice.choice(ODD_TARGETS)
    return RecordedAnswer(status, body, headers)


def _odd_date(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    return replace(answer, headers={**answer.headers, "Date": dice.choice(ODD_DATES)})


def _odd_type(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    return replace(answer, headers={**answer.headers, "Content-Type": dice.choice(ODD_TYPES)})


def _odd_encoding(answer: RecordedAnswer, dice: Random) -> RecordedAnswer:
    """A body that is not encoded as it is said to be, or one that is and is broken."""
    encoding = dice.choice(ODD_ENCODINGS)
    packed = gzip.compress(answer.body, mtime=0)
    at = dice.randrange(len(packed))
    body = dice.choice((answer.body, packed[:at], packed[:at] + b"\xff" + packed[at + 1 :], packed + packed))
    return replace(answer, body=body, headers={**answer.headers, "Content-Encoding": encoding})


MUTATIONS: tuple[Mutation, ...] = (
    _truncated,
    _broken_off,
    _flipped,
    _not_utf8,
    _other_body,
    _odd_value,
    _odd_value,
    _odd_value,
    _odd_value,
    _odd_time,
    _odd_time,
    _odd_page,
    _odd_page,
    _lost_keys,
    _doubled_keys,
    _many_odd_keys,
    _odd_status,
    _odd_date,
    _odd_type,
    _odd_encoding,
)


def _odd(dice: Random) -> str:
    """Some value, as the text that stands for it."""
    kinds = (
        lambda: "null",
        lambda: dice.choice(("true", "false", "[]", "{}", "[null]", '{"id": null}', "[[]]", "[5]")),
        lambda: dice.choice(NUMBERS),
        lambda: dice.choice(NO_NUMBERS),
        lambda: dice.choice(TIMES),
        lambda: dice.choice(TEXTS),
        lambda: f'"{dice.choice("xü%/") * dice.choice((300, 100_000))}"',
        lambda: _nested(dice),
    )
    return dice.choice(kinds)()


def _nested(dice: Random) -> str:
    """Lists or objects in each other: less than, just as deep as, and deeper than parsers take."""
    depth = dice.choice((3, 199, 201, dice.randrange(800, 1000), dice.randrange(900, 1000), 100_000))
    start, end = dice.choice((("[", "]"), ('{"a":', "}")))
    return start * depth + dice.choice(("1", "null")) + end * depth


def _document(answer: RecordedAnswer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        return []  # an answer without a body, as of /ready


def _written(answer: RecordedAnswer, document: Any, odd: Callable[[], str]) -> RecordedAnswer:
    """The answer with the document, and raw text from `odd` at each mark."""
    first, *rest = json.dumps(document).split(json.dumps(MARK))
    return replace(answer, body="".join([first, *(odd() + part for part in rest)]).encode())


def _is_time(name: str) -> bool:
    return name.endswith(("_time", "timestamp", "last_polled")) or name in ("occurred", "created", "updated")


def _paths(document: Any, path: Path = ()) -> list[Path]:
    """The places of all values in a document, that of the whole among them."""
    found = [path]
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        found += _paths(value, (*path, key))
    return found


def _at(document: Any, path: Path) -> Any:
    for part in path:
        document = document[part]
    return document


def _with(document: Any, path: Path, value: Any) -> Any:
    """The document with that value at that place."""
    if not path:
        return value
    *above, last = path
    container = _at(document, tuple(above))
    container[last] = value
    return document


def _without(document: Any, path: Path) -> Any:
    """The document without that place, as far as it is still there."""
    *above, last = path
    with suppress(KeyError, IndexError, TypeError):
        del _at(document, tuple(above))[last]
    return document
