"""Unfinished task runs, without reading those in each check run that never finish.

Task runs of a killed process stay RUNNING for ever, and those whose upstream failed stay PENDING. If they pile up, only
the newest are read in each check run, and the server's totals show whether the others are still there.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.api.models import EARLIEST, LATEST, TaskRun
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.tags import RunTags, Tags, task_run_tags

from .inventory import Inventory

UNFINISHED_TYPES = ("PENDING", "RUNNING", "PAUSED")
# Task runs up to this age are read in each check run.
YOUNG = timedelta(hours=1)
# This many of the newest are read whatever their age: a page.
ENOUGH = 200
# The most young task runs that are read. If there are more, the oldest of them are treated as old.
MOST_FRESH = 2_000
# Pages of old task runs in one look of the initial load. Later, one page is read every LOOKS_BETWEEN looks.
PAGES_AT_ONCE = 7
# The same if there are more than MOST_FRESH young ones.
MOST_PAGES = 50
LOOKS_BETWEEN = 8
MOST_REQUESTS = 60
# It is cheaper to read this few task runs than to bisect them.
FEW = 50
MICROSECOND = timedelta(microseconds=1)

# What a gauge counts: a state type, and the tags, which are None for task runs that the filters exclude.
Kind = tuple[str, Tags | None]


class Population:
    """Creation times in microseconds, by kind. A span excludes its start (`after`) and includes its end (`until`)."""

    def __init__(self) -> None:
        self._times: dict[Kind, array[int]] = {}

    def replace(self, after: int, until: int, members: Iterable[tuple[Kind, int]]) -> None:
        """Replace everything in a span by these members."""
        for kind, times in list(self._times.items()):
            del times[bisect_right(times, after) : bisect_right(times, until)]
            if not times:
                del self._times[kind]
        for kind, time in members:
            insort(self._times.setdefault(kind, array("q")), time)

    def number(self, types: Collection[str], after: int, until: int) -> int:
        """How many members of these types are in a span."""
        return sum(
            bisect_right(times, until) - bisect_right(times, after)
            for (state_type, _), times in self._times.items()
            if state_type in types
        )

    def middle(self, after: int, until: int) -> int | None:
        """A time that splits the members of a span into halves; None if they cannot be split."""
        times = sorted(time for known in self._times.values() for time in known if after < time <= until)
        middle = times[(len(times) - 1) // 2] if times else until
        return middle if after < middle < until else None

    def totals(self) -> Mapping[Kind, int]:
        return {kind: len(times) for kind, times in self._times.items()}


class UnfinishedTaskRuns:
    """The unfinished task runs, read once in a check run. All methods raise `ApiError`.

    If there were none, they are read if `may_be_some`.
    """

    def __init__(self, api: PrefectApi, inventory: Inventory, may_be_some: Callable[[], bool] = lambda: True) -> None:
        self._api = api
        self._inventory = inventory
        self._may_be_some = may_be_some
        self._known = Population()
        self._fresh: list[TaskRun] = []
        self._looks = 0
        self._requests_left = 0
        # The pass through the old task runs: the time that it has reached, and whether one was ever complete.
        self._pages: Iterator[list[TaskRun]] | None = None
        self._come_to = NEVER
        self._carried: list[TaskRun] = []
        self._has_passed = False

    def fresh(self) -> list[TaskRun]:
        """The pending, running and paused task runs that were read in this check run: all but the old ones."""
        self._api.run.once(self._read)
        return self._fresh

    def totals(self) -> Mapping[Kind, int] | None:
        """The number of pending, running and paused task runs by type and tags; None until all are known."""
        return self._known.totals() if self._api.run.once(self._read) else None

    def _read(self) -> bool:
        """Read the newest, and more of the old ones if it is time. Returns whether all are known."""
        self._looks += 1
        self._requests_left = MOST_REQUESTS
        self._fresh = []
        if self._has_passed and not self._known.totals() and not self._may_be_some():
            return True
        young_since = self._api.now() - YOUNG
        oldest = LATEST
        for page in self._api.unfinished_task_runs(UNFINISHED_TYPES):
            self._fresh += page
            oldest = _oldest(page, oldest)
            if len(self._fresh) >= (ENOUGH if oldest < young_since else MOST_FRESH):
                break
        else:
            self._put(EVER, NEVER, self._fresh)
            self._pages, self._come_to, self._has_passed = None, NEVER, True
            return True
        # More task runs may have exactly the time of the last one.
        edge = _key(oldest)
        self._put(edge, NEVER, self._fresh)
        if not self._has_passed or self._looks % LOOKS_BETWEEN == 0:
            self._go_on(1 if self._has_passed else PAGES_AT_ONCE if edge < _key(young_since) else MOST_PAGES, edge)
        # Last, because the pass may carry task runs along that were read in an earlier look.
        return self._verify(EVER if self._has_passed else self._come_to, edge) and self._has_passed

    def _go_on(self, pages: int, edge: int) -> None:
        """Continue the pass through the old task runs, which are those up to `edge`."""
        if self._pages is None:
            self._come_to = min(self._come_to, edge)
            self._pages = self._api.unfinished_task_runs(UNFINISHED_TYPES, until=_moment(self._come_to))
            self._carried = []
        stop_at = self._api.seconds_left() / 2
        for number in range(pages):
            if number and self._api.seconds_left() < stop_at:
                return
            try:
                page = next(self._pages, None)
            except ApiError:
                self._pages = None
                raise
            # What was just read may reach further back than when the pass began.
            upper = min(self._come_to, edge)
            if page is None:
                self._put(EVER, upper, self._carried)
                self._pages, self._come_to, self._has_passed = None, NEVER, True
                return
            self._carried += page
            lower = min(_key(_oldest(page, LATEST)), upper)
            self._put(lower, upper, self._carried)
            self._carried = [run for run in self._carried if _created(run) <= lower]
            self._come_to = lower

    # Comparing the old ones with the server's totals

    def _verify(self, after: int, until: int) -> bool:
        """Compare a span with the server's totals, and read the parts that differ. Returns whether it is right now."""
        if after >= until or self._agrees(after, until):
            return True
        if self._requests_left <= 0:
            return False
        middle = self._known.middle(after, until)
        if middle is None or self._known.number(UNFINISHED_TYPES, after, until) <= FEW:
            self._read_span(after, until)
            return True
        newer, older = self._verify(middle, until), self._verify(after, middle)
        return newer and older

    def _agrees(self, after: int, until: int) -> bool:
        for state_type in UNFINISHED_TYPES:
            self._requests_left -= 1
            counted = self._api.count_unfinished([state_type], *_bounds(after, until))
            if counted != self._known.number([state_type], after, until):
                return False
        return True

    def _read_span(self, after: int, until: int) -> None:
        found: list[TaskRun] = []
        for page in self._api.unfinished_task_runs(UNFINISHED_TYPES, *_bounds(after, until)):
            self._requests_left -= 1
            found += page
        self._put(after, until, found)
        self._fresh += found

    def _put(self, after: int, until: int, found: Collection[TaskRun]) -> None:
        found = [run for run in found if after < _created(run) <= until and run.state_type in UNFINISHED_TYPES]
        tags_by_run = self._inventory.tags_by_run_id({run.flow_run_id for run in found if run.flow_run_id})
        members = []
        for run in found:
            run_tags = tags_by_run.get(run.flow_run_id, RunTags()) if run.flow_run_id else RunTags()
            tags = task_run_tags(run_tags, run.task_key) if run_tags is not None else None
            members.append(((run.state_type or "", tags), _created(run)))
        self._known.replace(after, until, members)


def _key(moment: datetime) -> int:
    return (moment - EARLIEST) // MICROSECOND


def _moment(key: int) -> datetime:
    return EARLIEST + key * MICROSECOND


# The bounds of all time. A run without a creation time is put at the start.
EVER, NEVER = -1, _key(LATEST)


def _created(run: TaskRun) -> int:
    return _key(run.expected_start_time or EARLIEST)


def _oldest(page: Iterable[TaskRun], others: datetime) -> datetime:
    return min((run.expected_start_time for run in page if run.expected_start_time), default=others)


def _bounds(after: int, until: int) -> tuple[datetime | None, datetime]:
    return (None if after == EVER else _moment(after + 1)), _moment(until)
