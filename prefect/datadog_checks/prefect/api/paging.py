"""Reads a whole set page by page while objects come and go, whatever page size the server allows."""

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
# The most ids in one request.
MOST_IDS = 512
# The most objects that one reading keeps in memory.
MOST_OBJECTS = 5000
# Attempts to read a single object that makes the server fail, before it is left out.
ATTEMPTS_FOR_ONE = 4
# Beyond all objects. If the server can return this empty page, it fails because of an object, not in general.
FAR_OFFSET = 1_000_000
# Ids of unreadable objects, which are not requested again.
MOST_UNREADABLE = 10_000
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Object = TypeVar("Object", bound=ApiObject)


@dataclass(frozen=True)
class Order(Generic[Object]):
    """An order by a time: the server's name for it, the field to filter by, and how to get it from an object."""

    sort: str
    field: str
    time_of: Callable[[Object], datetime | None]
    descending: bool = False

    def onward(self, last: datetime) -> dict[str, str]:
        """The filter for objects from this time on, inclusive."""
        return {"before_" if self.descending else "after_": utc_text(last)}

    def last(self, times: Iterable[datetime]) -> datetime:
        """The time that comes last in this order."""
        return min(times) if self.descending else max(times)


@dataclass(frozen=True)
class Page(Generic[Object]):
    """The objects of a page that parsed. The page had `size` objects, `asked` were requested.

    `is_left_out`: the page is a single object that cannot be read.
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
        """The size of the next page. It grows slowly after a page that could only be read in parts."""
        return 1 if self.is_left_out else min(2 * self.asked, DEFAULT_PAGE_SIZE)


class Pager:
    """Reads pages from `/…/filter` endpoints.

    It learns the page size that the server allows from its refusals.

    An object may be too large, or make the server fail on each page that contains it, as a flow run with a parameter
    of 2**64 does. Such a page is requested again in smaller pages, down to that one object, which is left out.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._page_size = DEFAULT_PAGE_SIZE
        self._unreadable: FIFOCache[str, None] = FIFOCache(MOST_UNREADABLE)

    def page(
        self, model: type[Object], path: str, body: Mapping[str, Any], at_most: int = DEFAULT_PAGE_SIZE
    ) -> Page[Object]:
        """One page of at most `at_most` objects. Raises `ApiError`."""
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

        Each page overlaps the previous one by one object. If that object is missing, or if a page has no new objects,
        the set has changed in between, and reading starts over.

        Raises `RequestFailed` if that happens too often, or if there are more than `MOST_OBJECTS` objects.
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
            # A page of one object, or with an object that did not parse, cannot overlap the next page.
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
        """Pages ordered by a time that does not change. Each begins at the time where the last one ended.

        `criteria` is a filter of this `kind`. Objects with exactly that time were read already: they are excluded by
        id if the endpoint supports it (`excludes_ids`), otherwise skipped by an offset. Raises `RequestFailed` if the
        server returns the same page again, or objects without a time.
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
        """The existing objects with these ids, read page by page. Ids that are not UUIDs are ignored."""
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
            # A full page may be incomplete, if the server allows less than was requested.
            settled = set(asked) if page.is_last or page.is_left_out else {item.id for item in page.objects}
            if not settled & set(asked):
                return
            pending = [item for item in pending if item not in settled]

    def _page_of_ids(
        self, model: type[Object], path: str, kind: str, ids: list[str], may_fail: bool
    ) -> Page[Object] | None:
        """The objects with these ids; None if they are too many for one page, or one of them cannot be read.

        `may_fail`: the endpoint is known to work, so a failure is due to the objects.
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
        """Raise the error again unless it is due to the content of the page."""
        if isinstance(error, UnreadableAnswer):
            return
        if not isinstance(error, Rejected) or error.status != 500:
            raise error
        # If the server itself fails, it fails for an empty page too.
        self._client.post(path, _nothing, {**body, "offset": FAR_OFFSET, "limit": 1})

    def _reader(self, model: type[Object]) -> Callable[[bytes], tuple[list[Object], int]]:
        def read(body: bytes) -> tuple[list[Object], int]:
            return read_objects(model, body, self._client.run.oddities)

        return read


def is_uuid(identity: str) -> bool:
    return UUID.fullmatch(identity) is not None


def _nothing(_: bytes) -> None:
    """Ignores the response."""


def _allowed_page_size(refusal: Rejected, asked: int) -> int:
    """The page size to request after a refusal. Raises the refusal if it is not about the page size."""
    if refusal.status != 422 or "limit" not in refusal.detail.lower() or asked <= 1:
        raise refusal
    named = re.search(r"less than or equal to (\d+)", refusal.detail)
    return max(1, min(int(named.group(1)) if named else asked // 2, asked - 1))
