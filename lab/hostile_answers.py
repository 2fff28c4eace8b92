"""Answers that no server should give: bombs, answers without end, answers that trickle, and others."""

from __future__ import annotations

import itertools
import json
import struct
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from .hostile import Answer, Request, damaged, head

MEBIBYTE = 1 << 20
BOMB_BYTES = 200 * MEBIBYTE
BLOCK_BYTES = 64 * 1024
JSON = ("Content-Type", "application/json")
CLOSE = ("Connection", "close")
CHUNKED = ("Transfer-Encoding", "chunked")

# What a body repeats between its brackets.
UNITS = {
    "spaces": b" " * 16,
    "objects": b"{},",
    "lists": b"[],",
    "keyed": b'{"":0},',
    "numbers": b"1,",
    "models": b'{"id":"a"},',
    "wrong": b'{"id":0},',
}
# The window of zlib for each encoding.
WINDOWS = {"gzip": 31, "deflate": 15}
ELSEWHERE = ("Location", "/elsewhere")

PAUSE_SECONDS = 0.01


def whole(body: bytes, *headers: tuple[str, str], status: int = 200) -> Answer:
    """A body with its length."""
    raw = head(JSON, CLOSE, ("Content-Length", str(len(body))), *headers, status=status) + body
    return lambda _: (raw,)


def dense(unit: str, mebibytes: int) -> Answer:
    """A plain body of this size that takes many times as much when it is parsed."""
    start = head(JSON, CLOSE)
    return lambda request: itertools.chain((start,), _repeated(request.path, unit, mebibytes * MEBIBYTE))


def one_event(field: str, item: str, mebibytes: int) -> Answer:
    """A page with one event whose `field` holds so many different items."""

    def answer(request: Request) -> Iterable[bytes]:
        brackets = "[]" if item.startswith("{") else "{}"
        items = ",".join(item % number for number in range(mebibytes * MEBIBYTE // (len(item) + 5)))
        text = f'{{"id":"{uuid.uuid4()}","event":"prefect.flow-run.Completed","occurred":"{datetime.now(UTC)}",'
        text += f'"{field}":{brackets[0]}{items}{brackets[1]}}}'
        return whole(f'{{"events":[{text}],"total":1,"next_page":null}}'.encode())(request)

    return answer


def bomb(unit: str, encoding: str, status: int = 200, *headers: tuple[str, str]) -> Answer:
    """A body of some kilobytes that unpacks to 200 MiB; `encoding` is gzip, deflate, or several of them."""

    def answer(request: Request) -> Iterable[bytes]:
        packed = _packed(request.path == "/events/filter", unit, encoding)
        encoded = ("Content-Encoding", encoding)
        return whole(packed, encoded, *headers, status=status)(request)

    return answer


@cache
def _packed(is_page: bool, unit: str, encoding: str) -> bytes:
    first, *others = encoding.split(", ")
    packed = _framed(first, *_deflated(is_page, unit))
    for name in others:
        packed = b"".join(_compressed([packed], WINDOWS[name]))
    return packed


@cache
def _deflated(is_page: bool, unit: str) -> tuple[bytes, int, int, int]:
    """The bomb without its frame, the two checksums that frames have, and how long it is unpacked.

    What is repeated is packed once, which is a hundred times as fast.
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start, *blocks, end = _repeated("/events/filter" if is_page else "", unit, BOMB_BYTES)
    first, block, last = (
        compressor.compress(part) + compressor.flush(zlib.Z_FULL_FLUSH) for part in (start, blocks[0], end)
    )
    packed = first + len(blocks) * block + last + compressor.flush()
    crc, adler, size = 0, 1, 0
    for part in (start, *blocks, end):
        crc, adler, size = zlib.crc32(part, crc), zlib.adler32(part, adler), size + len(part)
    return packed, crc, adler, size


def _framed(encoding: str, packed: bytes, crc: int, adler: int, size: int) -> bytes:
    if encoding == "deflate":
        return b"\x78\xda" + packed + struct.pack(">I", adler)
    return b"\x1f\x8b\x08" + bytes(7) + packed + struct.pack("<II", crc, size)


def _compressed(blocks: Iterable[bytes], window: int) -> Iterator[bytes]:
    compressor = zlib.compressobj(6, zlib.DEFLATED, window)
    for block in blocks:
        yield compressor.compress(block)
    yield compressor.flush()


def _repeated(path: str, unit: str, size: int) -> Iterator[bytes]:
    """A list, or a page of events, that is at least so long, in blocks."""
    is_page = path == "/events/filter"
    repeated = UNITS[unit]
    block = repeated * (BLOCK_BYTES // len(repeated))
    yield b'{"total":0,"next_page":null,"events":[' if is_page else b"["
    for _ in range(size // len(block) + 1):
        yield block
    yield repeated.rstrip(b",") + (b"]}" if is_page else b"]")


def endless(unit: str, framing: str, status: int = 200, *headers: tuple[str, str]) -> Answer:
    """A body without end: chunked, as long as the connection lasts, or announced to be of 10 TB."""
    block = UNITS[unit] * (BLOCK_BYTES // len(UNITS[unit]))
    frames = {"chunked": CHUNKED, "until closed": CLOSE, "announced": ("Content-Length", str(10**13))}
    piece = _chunk(block) if framing == "chunked" else block
    return lambda _: itertools.chain(
        (head(JSON, frames[framing], *headers, status=status), _chunk(b"[") if framing == "chunked" else b"["),
        itertools.repeat(piece),
    )


def endless_packed(encoding: str) -> Answer:
    """The same, packed."""
    return lambda _: itertools.chain(
        (head(JSON, CLOSE, ("Content-Encoding", encoding)),),
        filter(None, _compressed(itertools.repeat(b" " * BLOCK_BYTES), WINDOWS[encoding])),
    )


def _chunk(piece: bytes) -> bytes:
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


def begins_with(start: bytes, then: bytes, seconds: float = 0.0) -> Answer:
    """What comes after the start is repeated without end, each time after so many seconds."""

    def answer(_: Request) -> Iterator[bytes]:
        yield start
        while True:
            time.sleep(seconds)
            yield then

    return answer


def trickles(start: bytes, rest: bytes, seconds_a_byte: float = 0.2) -> Answer:
    """The start comes at once, and then a byte at a time."""

    def answer(_: Request) -> Iterator[bytes]:
        yield start
        for number in range(len(rest)):
            time.sleep(seconds_a_byte)
            yield rest[number : number + 1]

    return answer


def raw(text: bytes) -> Answer:
    """This and nothing else."""
    return lambda _: (text,)


def with_headers(*headers: tuple[str, str]) -> Answer:
    """The usual answer, with these headers before its own."""
    return lambda request: (
        head(*headers, JSON, CLOSE, ("Content-Length", str(len(request.usual))), date=False) + request.usual,
    )


def with_cookies(number: int, size: int) -> Answer:
    """The usual answer with cookies that have names of their own, so that all of them are to be kept."""

    def answer(request: Request) -> Iterable[bytes]:
        cookies = (("Set-Cookie", f"{uuid.uuid4().hex}={'x' * size}; Path=/") for _ in range(number))
        return with_headers(*cookies)(request)

    return answer


def with_damage(text: str) -> Answer:
    """The usual objects, and copies of them in each of which another field is this text of JSON."""
    return lambda request: whole(damaged(json.loads(request.usual), text).encode())(request)


# Pages without end


def pages(template: str, total: int = 10**6) -> Answer:
    """Full pages of new objects, in whatever order they are asked for; `template` has an {id} and a {time}."""
    numbers = itertools.count()

    def answer(request: Request) -> Iterable[bytes]:
        time.sleep(PAUSE_SECONDS)  # or one case takes a processor for itself
        body = request.body
        limit = body.get("limit", 200)
        if request.path == "/events/filter/next" or "filter" in body:
            return whole(_event_page(template, body.get("limit", 50), total, next(numbers)))(request)
        by_time = "sort" in body and not request.path.startswith("/deployments/")
        begin = next(numbers) * limit if by_time else body.get("offset", 0)
        times = _times_onward(body)
        texts = (
            template.replace("{id}", str(uuid.UUID(int=(0xB << 124) + begin + number))).replace("{time}", next(times))
            for number in range(limit)
        )
        return whole(f"[{','.join(texts)}]".encode())(request)

    return answer


def listing(templates: Sequence[str]) -> Answer:
    """These objects, page by page; each has an {id} that is always the same."""

    def answer(request: Request) -> Iterable[bytes]:
        offset, limit = request.body.get("offset", 0), request.body.get("limit", 200)
        page = enumerate(templates[offset : offset + limit], offset)
        texts = [template.replace("{id}", str(uuid.UUID(int=(0xC << 124) + number))) for number, template in page]
        return whole(f"[{','.join(texts)}]".encode())(request)

    return answer


def empty_event_pages() -> Answer:
    """Pages without events, each of which says that others follow."""
    numbers = itertools.count()

    def answer(request: Request) -> Iterable[bytes]:
        time.sleep(PAUSE_SECONDS)
        return whole(_event_page("", 0, 10**6, next(numbers)))(request)

    return answer


def _times_onward(body: Mapping[str, object]) -> Iterator[str]:
    """Times in the order that is asked for, from the filter's end on, a microsecond apart."""
    descends = str(body.get("sort", "")).endswith("_DESC")
    moment = datetime.now(UTC)
    kind = next((name for name in ("flow_runs", "task_runs") if name in body), "")
    filters = body.get(kind)
    field = str(body.get("sort", "")).lower().removesuffix("_desc").removesuffix("_asc")
    criterion = filters.get(field) if isinstance(filters, dict) else None
    if isinstance(criterion, dict) and (told := criterion.get("before_" if descends else "after_")):
        moment = datetime.fromisoformat(told)
    step = timedelta(microseconds=-1 if descends else 1)
    for number in itertools.count(1):
        yield (moment + number * step).isoformat()


def _event_page(template: str, limit: int, total: int, number: int) -> bytes:
    moment = datetime.now(UTC) - timedelta(seconds=1)
    texts = (
        template.replace("{id}", str(uuid.uuid4())).replace("{time}", (moment - timedelta(milliseconds=at)).isoformat())
        for at in range(limit)
    )
    following = f'"http://elsewhere/api/events/filter/next?page-token={number}"'
    return f'{{"events":[{",".join(texts)}],"total":{total},"next_page":{following}}}'.encode()
