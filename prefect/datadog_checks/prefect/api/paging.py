"""Reading a whole set page by page while its objects come and go, whatever page size the server allows."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from .client import Client
from .errors import Rejected, RequestFailed
from .models import Deployment, Flow, FlowRun, Oddities, TaskRun, Worker, WorkPool, WorkQueue, read_objects, utc_text

DEFAULT_PAGE_SIZE = 200
RESTARTS = 3
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Object = TypeVar("Object", Deployment, Flow, FlowRun, TaskRun, Worker, WorkPool, WorkQueue)


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
    """What parsed of a page that held `size` objects of the `asked` ones."""

    objects: list[Object]
    size: int
    asked: int

    @property
    def is_last(self) -> bool:
        return self.size < self.asked


class Pager:
    """Reads pages from `/…/filter` endpoints.

    The page size that the server allows is learned from its refusals and kept. `oddities` collects what does not parse.
    """

    def __init__(self, client: Client, oddities: Oddities) -> None:
        self._client = client
        self._page_size = DEFAULT_PAGE_SIZE
        self.oddities = oddities

    def page(
        self, model: type[Object], path: str, body: Mapping[str, Any], at_most: int = DEFAULT_PAGE_SIZE
    ) -> Page[Object]:
        """One page, of not more than `at_most` objects. Raises `ApiError`."""
        while True:
            limit = min(at_most, self._page_size)
            try:
                objects, size = self._client.post(path, self._reader(model), {**body, "limit": limit})
            except Rejected as refusal:
                self._page_size = _allowed_page_size(refusal, limit)
            else:
                return Page(objects, size, limit)

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
        while True:
            page = self.page(model, path, {**body, "offset": offset})
            ids = {item.id for item in page.objects}
            repeats = bool(ids) and not page.is_last and ids <= found.keys()
            if repeats or (anchor is not None and anchor not in ids):
                return None
            found.update((item.id, item) for item in page.objects)
            if page.is_last:
                return list(found.values())
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
        while True:
            filters = dict(criteria)
            offset = 0
            if last is not None:
                filters[order.field] = {**filters.get(order.field, {}), **order.onward(last)}
                if excludes_ids:
                    filters["id"] = {**filters.get("id", {}), "not_any_": sorted(ties)}
                else:
                    offset = len(ties)
            page = self.page(model, path, {kind: filters, "sort": order.sort, "offset": offset})
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
                ties = set()
            last = order.last(times)
            ties |= {item.id for item in objects if order.time_of(item) == last}

    def by_ids(self, model: type[Object], path: str, kind: str, ids: Collection[str]) -> list[Object]:
        """The objects of these ids that exist; the server would refuse the request for one that is no UUID."""
        found: list[Object] = []
        pending = sorted(identity for identity in set(ids) if is_uuid(identity))
        while pending:
            asked = pending[: self._page_size]
            page = self.page(model, path, {kind: {"id": {"any_": asked}}})
            found += page.objects
            # A full page may be a cut one, when the server allowed less than was asked for.
            settled = set(asked) if page.is_last else {item.id for item in page.objects}
            if not settled & set(asked):
                break
            pending = [item for item in pending if item not in settled]
        return found

    def _reader(self, model: type[Object]) -> Callable[[bytes], tuple[list[Object], int]]:
        def read(body: bytes) -> tuple[list[Object], int]:
            return read_objects(model, body, self.oddities)

        return read


def is_uuid(identity: str) -> bool:
    return UUID.fullmatch(identity) is not None


def _allowed_page_size(refusal: Rejected, asked: int) -> int:
    """The page size to ask for after a refusal, or the refusal itself where it is about something else."""
    if refusal.status != 422 or "limit" not in refusal.detail.lower() or asked <= 1:
        raise refusal
    named = re.search(r"less than or equal to (\d+)", refusal.detail)
    return max(1, min(int(named.group(1)) if named else asked // 2, asked - 1))
