"""The task runs that are not over yet, without reading again and again those that never will be.

Task runs of a process that was killed stay RUNNING for ever, and those whose upstream failed stay PENDING: where they
pile up, only the newest are read in each check run, and the server's totals tell whether the others are still there.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.api.models import EARLIEST, LATEST, TaskRun
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.tags import RunTags, Tags, task_run_tags

from .inventory import Inventory

UNFINISHED_TYPES = ("PENDING", "RUNNING", "PAUSED")
# All that are not older are read in each check run.
YOUNG = timedelta(hours=1)
# As many are read before it is asked how old they are: a page.
ENOUGH = 200
# More are not kept in memory: where there are more, the oldest of them are known as the old ones are.
MOST_FRESH = 2_000
# The others are read so many pages at a time, and when all are known, one page every so many looks.
PAGES_AT_ONCE = 7
# So many where the newest alone do not tell when the young begin.
MOST_PAGES = 50
LOOKS_BETWEEN = 8
MOST_REQUESTS = 60
# So few are sooner read than taken apart.
FEW = 50
MICROSECOND = timedelta(microseconds=1)

# What a gauge counts: the type of a state, and the tags, or None for task runs that the instance does not want.
Kind = tuple[str, Tags | None]


class Population:
    """When things came into being, in microseconds, by kind; spans begin after a moment and end with one."""

    def __init__(self) -> None:
        self._times: dict[Kind, array[int]] = {}

    def replace(self, after: int, until: int, members: Iterable[tuple[Kind, int]]) -> None:
        """Put these in the place of all that are known of a span."""
        for kind, times in list(self._times.items()):
            del times[bisect_right(times, after) : bisect_right(times, until)]
            if not times:
                del self._times[kind]
        for kind, time in members:
            insort(self._times.setdefault(kind, array("q")), time)

    def number(self, types: Collection[str], after: int, until: int) -> int:
        """How many are known of these types in a span."""
        return sum(
            bisect_right(times, until) - bisect_right(times, after)
            for (state_type, _), times in self._times.items()
            if state_type in types
        )

    def middle(self, after: int, until: int) -> int | None:
        """A moment that parts those of a span into halves; None where they cannot be parted."""
        times = sorted(time for known in self._times.values() for time in known if after < time <= until)
        middle = times[(len(times) - 1) // 2] if times else until
        return middle if after < middle < until else None

    def totals(self) -> Mapping[Kind, int]:
        return {kind: len(times) for kind, times in self._times.items()}


class UnfinishedTaskRuns:
    """Looked at once in a check run; all methods raise `ApiError`."""

    def __init__(self, api: PrefectApi, inventory: Inventory) -> None:
        self._api = api
        self._inventory = inventory
        self._known = Population()
        self._fresh: list[TaskRun] = []
        self._looks = 0
        self._requests_left = 0
        # The pass through all that are not young: the moment down to which it came, and whether it was at the end once.
        self._pages: Iterator[list[TaskRun]] | None = None
        self._come_to = NEVER
        self._carried: list[TaskRun] = []
        self._has_passed = False

    def fresh(self) -> list[TaskRun]:
        """Those pending, running and paused task runs that were read in this look: all but old ones."""
        self._api.run.once(self._read)
        return self._fresh

    def totals(self) -> Mapping[Kind, int] | None:
        """How many task runs are pending, running or paused, by type and tags; None where not all are known yet."""
        return self._known.totals() if self._api.run.once(self._read) else None

    def _read(self) -> bool:
        """Read what is to be read; returns whether all are known."""
        self._looks += 1
        self._requests_left = MOST_REQUESTS
        self._fresh = []
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
        # Of those as old as the last one not all may have been read.
        edge = _key(oldest)
        self._put(edge, NEVER, self._fresh)
        if not self._has_passed or self._looks % LOOKS_BETWEEN == 0:
            self._go_on(1 if self._has_passed else PAGES_AT_ONCE if edge < _key(young_since) else MOST_PAGES, edge)
        # Last, because what the pass has carried along was read in an earlier look.
        return self._verify(EVER if self._has_passed else self._come_to, edge) and self._has_passed

    def _go_on(self, pages: int, edge: int) -> None:
        """Go on with the pass through the old ones, those up to the edge of the young."""
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
            # The young may reach further down than when the pass began, and have just been read.
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

    # Are those that were not read still there?

    def _verify(self, after: int, until: int) -> bool:
        """Whether what is known of a span is true, or was made so."""
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


# The bounds of all time; a run that has no time of its creation is put at the beginning.
EVER, NEVER = -1, _key(LATEST)


def _created(run: TaskRun) -> int:
    return _key(run.expected_start_time or EARLIEST)


def _oldest(page: Iterable[TaskRun], others: datetime) -> datetime:
    return min((run.expected_start_time for run in page if run.expected_start_time), default=others)


def _bounds(after: int, until: int) -> tuple[datetime | None, datetime]:
    return (None if after == EVER else _moment(after + 1)), _moment(until)
