"""Reading a whole set page by page while its objects come and go, whatever page size the server allows."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from cachetools import FIFOCache

from .answers import read_objects
from .client import Client
from .errors import Rejected, RequestFailed, UnreadableAnswer
from .models import ApiObject, utc_text

DEFAULT_PAGE_SIZE = 200
RESTARTS = 3
# As many ids as a request should carry.
MOST_IDS = 512
# What one reading may keep in memory.
MOST_OBJECTS = 5000
# So often a single object that makes the server fail is asked for before it is left out.
ATTEMPTS_FOR_ONE = 4
# Beyond all objects: what shows that the server fails for what it is asked for, and not for everything.
FAR_OFFSET = 1_000_000
# Ids of objects that cannot be read, which are not asked for again.
MOST_UNREADABLE = 10_000
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Object = TypeVar("Object", bound=ApiObject)


@dataclass(frozen=True)
class Order(Generic[Object]):
    """An order by a time: what the server calls it, the filter's field, and the same of an object."""

    sort: str
    field: str
    time_of: Callable[[Object], datetime | None]
    descending: bool = False

    def onward(self, last: datetime) -> dict[str, str]:
        """The filter for objects from this time on, it included."""
        return {"before_" if self.descending else "after_": utc_text(last)}

    def last(self, times: Iterable[datetime]) -> datetime:
        return min(times) if self.descending else max(times)


@dataclass(frozen=True)
class Page(Generic[Object]):
    """What parsed of a page that held `size` objects of the `asked` ones.

    `is_left_out` says that it is one object, which cannot be read at all.
    """

    objects: list[Object]
    size: int
    asked: int
    is_left_out: bool = False

    @property
    def is_last(self) -> bool:
        return self.size < self.asked

    @property
    def next_size(self) -> int:
        """How many objects to ask for after it: few where it could only be read in parts."""
        return 1 if self.is_left_out else min(2 * self.asked, DEFAULT_PAGE_SIZE)


class Pager:
    """Reads pages from `/…/filter` endpoints.

    The page size that the server allows is learned from its refusals and kept.
    One object may be too large to be read, or make the server fail in each page that it is on, as a flow run with a
    parameter of 2**64 does: such a page is asked for again in smaller ones, and the object that is alone on one in the
    end is left out.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._page_size = DEFAULT_PAGE_SIZE
        self._unreadable: FIFOCache[str, None] = FIFOCache(MOST_UNREADABLE)

    def page(
        self, model: type[Object], path: str, body: Mapping[str, Any], at_most: int = DEFAULT_PAGE_SIZE
    ) -> Page[Object]:
        """One page, of not more than `at_most` objects. Raises `ApiError`."""
        size, attempts = at_most, 0
        while True:
            limit = min(size, self._page_size)
            try:
                objects, found = self._post(model, path, {**body, "limit": limit})
            except RequestFailed as error:
                if isinstance(error, Rejected) and error.status == 422:
                    self._page_size = _allowed_page_size(error, limit)
                    continue
                attempts += 1
                if attempts == 1:
                    self._raise_unless_about_content(error, path, body)
                if limit > 1:
                    size = limit // 2
                elif isinstance(error, UnreadableAnswer) or attempts >= ATTEMPTS_FOR_ONE:
                    self._client.run.oddities.leave_out(model, str(error))
                    return Page([], 1, 1, is_left_out=True)
            else:
                return Page(objects, found, limit)

    def by_offset(self, model: type[Object], path: str, body: Mapping[str, Any]) -> list[Object]:
        """All objects of an endpoint that can only be paged by offset.

        Each page but the first begins with the last object of the one before. Where that is not so, the set has shifted
        in between, and the walk starts again. So it does where a page has nothing but objects that are known.
        """
        for _ in range(RESTARTS):
            objects = self._walk_offsets(model, path, body)
            if objects is not None:
                return objects
        raise RequestFailed(f"POST {path}", f"the set changed during each of {RESTARTS} readings")

    def _walk_offsets(self, model: type[Object], path: str, body: Mapping[str, Any]) -> list[Object] | None:
        found: dict[str, Object] = {}
        offset = 0
        anchor: str | None = None
        at_most = DEFAULT_PAGE_SIZE
        while True:
            page = self.page(model, path, {**body, "offset": offset}, at_most)
            ids = {item.id for item in page.objects}
            repeats = bool(ids) and not page.is_last and ids <= found.keys() and ids != {anchor}
            if repeats or (anchor is not None and anchor not in ids and not page.is_left_out):
                return None
            found.update((item.id, item) for item in page.objects)
            if page.is_last:
                return list(found.values())
            if len(found) > MOST_OBJECTS:
                raise RequestFailed(f"POST {path}", f"there are more than {MOST_OBJECTS} objects")
            at_most = page.next_size
            # A page of one, or one with an object that did not parse, has no last object to begin the next page with.
            overlap = int(page.size > 1 and page.size == len(page.objects))
            anchor = page.objects[-1].id if overlap else None
            offset += page.size - overlap

    def by_time(
        self,
        model: type[Object],
        path: str,
        kind: str,
        criteria: Mapping[str, Any],
        order: Order[Object],
        excludes_ids: bool,
    ) -> Iterator[list[Object]]:
        """Pages in the order of a time that does not change, each beginning at the time where the last one ended.

        `criteria` are a filter of this `kind`. Objects of the same time as the last one are left out by their ids where
        the endpoint can (`excludes_ids`), else by an offset among them. A server that gives the same page again is not
        asked for ever.
        """
        known: set[str] = set()
        ties: set[str] = set()
        last: datetime | None = None
        left_out = 0
        at_most = DEFAULT_PAGE_SIZE
        while True:
            filters = dict(criteria)
            offset = left_out
            if last is not None:
                filters[order.field] = {**filters.get(order.field, {}), **order.onward(last)}
                if excludes_ids:
                    filters["id"] = {**filters.get("id", {}), "not_any_": sorted(ties)}
                else:
                    offset += len(ties)
            page = self.page(model, path, {kind: filters, "sort": order.sort, "offset": offset}, at_most)
            at_most = page.next_size
            if page.is_left_out:
                left_out += 1
                continue
            objects = page.objects
            yield [item for item in objects if item.id not in known]
            if page.is_last:
                return
            if objects and known.issuperset(item.id for item in objects):
                raise RequestFailed(f"POST {path}", "its pages repeat themselves")
            known.update(item.id for item in objects)
            times = [moment for item in objects if (moment := order.time_of(item)) is not None]
            if not times:
                raise RequestFailed(f"POST {path}", f"a page of objects without {order.field}")
            if order.last(times) != last:
                ties, left_out = set(), 0
            last = order.last(times)
            ties |= {item.id for item in objects if order.time_of(item) == last}
            if len(ties) > MOST_IDS:
                excludes_ids = False

    def by_ids(
        self, model: type[Object], path: str, kind: str, ids: Collection[str], at_most: int = DEFAULT_PAGE_SIZE
    ) -> Iterator[Object]:
        """The objects of these ids that exist, page by page; those that are no UUIDs are not asked for."""
        pending = sorted(identity for identity in set(ids) - self._unreadable.keys() if is_uuid(identity))
        size = at_most
        while pending:
            asked = pending[: min(size, self._page_size)]
            page = self._page_of_ids(model, path, kind, asked, may_fail=size < at_most)
            if page is None:
                size = max(1, len(asked) // 2)
                continue
            yield from page.objects
            size = 1 if page.is_left_out else min(2 * size, at_most)
            # A full page may be a cut one, when the server allowed less than was asked for.
            settled = set(asked) if page.is_last or page.is_left_out else {item.id for item in page.objects}
            if not settled & set(asked):
                return
            pending = [item for item in pending if item not in settled]

    def _page_of_ids(
        self, model: type[Object], path: str, kind: str, ids: list[str], may_fail: bool
    ) -> Page[Object] | None:
        """The objects of these ids, or None where they are too many for one page, or one of them cannot be read.

        `may_fail` says that it is known that the endpoint answers.
        """
        body = {kind: {"id": {"any_": ids}}}
        if len(ids) == 1:
            page = self.page(model, path, body, 1)
            if page.is_left_out:
                self._unreadable[ids[0]] = None
            return page
        limit = self._page_size
        try:
            objects, size = self._post(model, path, {**body, "limit": limit})
        except RequestFailed as error:
            if isinstance(error, Rejected) and error.status == 422:
                self._page_size = _allowed_page_size(error, limit)
            elif not may_fail:
                self._raise_unless_about_content(error, path, body)
            return None
        return Page(objects, size, limit)

    def _post(self, model: type[Object], path: str, body: Mapping[str, Any]) -> tuple[list[Object], int]:
        return self._client.post(path, self._reader(model), body)

    def _raise_unless_about_content(self, error: RequestFailed, path: str, body: Mapping[str, Any]) -> None:
        """Raise the error again where fewer objects, or others, could not be read either."""
        if isinstance(error, UnreadableAnswer):
            return
        if not isinstance(error, Rejected) or error.status != 500:
            raise error
        # It may be the server that fails, and not what it is asked for: then so it does where there is nothing to tell.
        self._client.post(path, _nothing, {**body, "offset": FAR_OFFSET, "limit": 1})

    def _reader(self, model: type[Object]) -> Callable[[bytes], tuple[list[Object], int]]:
        def read(body: bytes) -> tuple[list[Object], int]:
            return read_objects(model, body, self._client.run.oddities)

        return read


def is_uuid(identity: str) -> bool:
    return UUID.fullmatch(identity) is not None


def _nothing(_: bytes) -> None:
    """Parses an answer that is not looked at."""


def _allowed_page_size(refusal: Rejected, asked: int) -> int:
    """The page size to ask for after a refusal, or the refusal itself where it is about something else."""
    if refusal.status != 422 or "limit" not in refusal.detail.lower() or asked <= 1:
        raise refusal
    named = re.search(r"less than or equal to (\d+)", refusal.detail)
    return max(1, min(int(named.group(1)) if named else asked // 2, asked - 1))
