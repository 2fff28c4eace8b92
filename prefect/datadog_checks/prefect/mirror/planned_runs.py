"""How many flow runs are planned for later, without reading all of them in each check run.

The planned runs of a deployment are read once, and their start times are kept. From then on, runs leave the set when
they come due, and a total from the server shows whether the set is still right. If the total differs, the scheduler has
probably planned more runs for deployments of which one came due: their runs after the last known one are read. If that
does not explain the difference, bisection by counts finds the deployments that differ, whose runs are read again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from datadog_checks.prefect.api.errors import ApiError, OutOfTime
from datadog_checks.prefect.api.models import EARLIEST, FlowRun
from datadog_checks.prefect.api.paging import MOST_IDS
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.tags import Tags

from .count_bisection import CountBisection
from .flow_runs import WAITING_NAMES
from .inventory import Inventory

# A full page takes the server some 60 ms.
PAGES_AT_ONCE = 7
RUNS_AT_ONCE = 180  # fewer than a page's 200, since a full page costs a request for the next one
RUNS_OF_A_DEPLOYMENT = 20  # a guess until some are read
# It is cheaper to read this few runs than to bisect them.
FEW = 50
MOST_REQUESTS = 12
# If no total covers exactly the known deployments, this many parts of MOST_IDS deployments are compared in each look.
PARTS_AT_ONCE = 4
# Every so many looks, a page of runs is read again even if the totals agree: gains may have offset losses.
LOOKS_BETWEEN = 8
INSTANT = timedelta(microseconds=1)

# Stands for a deployment's id in runs without a deployment.
NO_DEPLOYMENT = ""

Times = dict[Tags | None, "array[float]"]


@dataclass
class _Reading:
    """A reading of the runs of some deployments that start after a time. It may take several looks."""

    ids: list[str]
    after: datetime
    pages: Iterator[list[FlowRun]]
    times: dict[str, dict[Tags | None, list[float]]] = field(default_factory=dict)


class PlannedRuns:
    """The planned runs by deployment. `look` updates them; the initial load of a large server takes several looks."""

    def __init__(self, api: PrefectApi, inventory: Inventory) -> None:
        self._api = api
        self._inventory = inventory
        # Start times in order, by deployment and tags; tags are None for runs that the filters exclude.
        self._times: dict[str, Times] = {}
        self._unread: OrderedDict[str, None] = OrderedDict({NO_DEPLOYMENT: None})
        self._to_read_again: OrderedDict[str, None] = OrderedDict()
        self._reading: _Reading | None = None
        self._pages_left = 0
        self._came_due: OrderedDict[str, None] = OrderedDict()
        self._waiting: Counter[str] = Counter()
        self._due_by = EARLIEST
        self._looks = 0
        self._bisect_from = 0
        self._unexplained = self._difference = 0

    def knows(self, deployment_id: str | None) -> bool:
        """Whether the planned runs of this deployment, or of no deployment, have been read."""
        return (deployment_id or NO_DEPLOYMENT) in self._times

    @property
    def unknown(self) -> int:
        """The number of deployments whose planned runs have not been read yet."""
        return len(self._unread) - (NO_DEPLOYMENT in self._unread)

    def totals(self) -> Mapping[Tags, int]:
        """The number of planned runs by tags, as far as they have been read."""
        totals: dict[Tags, int] = {}
        for times_by_tags in self._times.values():
            for tags, times in times_by_tags.items():
                if tags is not None:
                    totals[tags] = totals.get(tags, 0) + len(times)
        return totals

    def look(
        self,
        deployments: Collection[str],
        changed: Collection[str],
        are_all: bool,
        due_by: datetime,
        waiting: Collection[FlowRun],
    ) -> None:
        """Update the runs that start later than `due_by`. Raises `ApiError`.

        `deployments` has the ids of the known deployments, and `are_all` says whether these are all that exist.
        `changed` has the ids of those that were created, changed or deleted. `waiting` are runs that are counted
        elsewhere, and part of the server's totals.
        """
        self._pages_left = PAGES_AT_ONCE
        self._due_by = due_by
        later = [run for run in waiting if run.next_scheduled_start_time and run.next_scheduled_start_time > due_by]
        self._waiting = Counter(run.deployment_id or NO_DEPLOYMENT for run in later)
        self._forget_past()
        self._note_changes(deployments, changed)
        self._looks += 1
        if self._looks % LOOKS_BETWEEN == 0 and not self._to_read_again:
            # The dictionary is ordered by when a deployment was last read.
            self._to_read_again.update(dict.fromkeys(self._first_of(self._times)))
        self._read(self._to_read_again)
        self._verify(are_all)
        self._read(self._to_read_again)
        # No time left for the initial load: what is known stays right, and the next look goes on.
        with suppress(OutOfTime):
            self._read(self._unread)

    def _forget_past(self) -> None:
        past = self._due_by.timestamp()
        for identity, times_by_tags in self._times.items():
            for tags, times in list(times_by_tags.items()):
                if times and times[0] <= past:
                    del times[: bisect_right(times, past)]
                    self._came_due[identity] = None
                    self._came_due.move_to_end(identity)
                if not times:
                    del times_by_tags[tags]

    def _note_changes(self, deployments: Collection[str], changed: Collection[str]) -> None:
        if self._reading is not None and not set(changed).isdisjoint(self._reading.ids):
            # Start over: deployments leave the queue only when their reading is complete.
            self._reading = None
        for identity in changed:
            if identity not in deployments:
                for known in (self._times, self._unread, self._to_read_again, self._came_due):
                    known.pop(identity, None)
            elif identity in self._times:
                self._to_read_again[identity] = None
        self._unread.update(dict.fromkeys(identity for identity in deployments if identity not in self._times))

    # Comparing with the server's totals

    def _verify(self, are_all: bool) -> None:
        if are_all and not self._unread and not self._to_read_again:
            self._verify_by_total()
        else:
            self._verify_by_parts()

    def _verify_by_total(self) -> None:
        total = self._api.count_planned(self._due_by + INSTANT)
        if self._explains(total):
            return
        self._read_on(self._times)
        if self._explains(total):
            return
        stopped_at = self._bisection().look_into(sorted(self._times), self._bisect_from)
        self._bisect_from = stopped_at or 0
        if stopped_at is None and not self._to_read_again:
            # Nothing explains the difference. If it is the same in the next look, it is accepted.
            difference = total - self._total_known()
            self._unexplained = difference if difference == self._difference else 0
            self._difference = difference

    def _verify_by_parts(self) -> None:
        """The same if no total covers exactly the known deployments, for example during the initial load."""
        ids = sorted(self._times.keys() - self._to_read_again.keys())
        start = self._bisect_from if self._bisect_from < len(ids) else 0
        end = min(start + PARTS_AT_ONCE * MOST_IDS, len(ids))
        parts = [ids[position : min(position + MOST_IDS, end)] for position in range(start, end, MOST_IDS)]
        differing = {
            identity: None for part in parts if self._count(part) != self._number_of(part) for identity in part
        }
        if differing:
            self._read_on(differing)
            if self._bisection().look_into(list(differing)) is not None:
                return
        self._bisect_from = end if end < len(ids) else 0

    def _read_on(self, among: Collection[str]) -> None:
        """If deployments of which a run came due differ, read their runs after the last known one.

        The scheduler plans new runs mostly for these.
        """
        candidates = (identity for identity in reversed(self._came_due) if identity in among and identity)
        due = list(islice(candidates, MOST_IDS))
        if not due or self._count(due) == self._number_of(due):
            return
        for ids, after in self._groups(due):
            if self._pages_left <= 0:
                return
            self._begin_reading(ids, after)
            self._go_on_reading()

    def _groups(self, ids: Collection[str]) -> Iterator[tuple[list[str], datetime]]:
        """Group deployments whose last known runs are close in time, by about a page of runs to read.

        Yields each group with the earliest of these times.
        """
        past = self._due_by.timestamp()
        last = {identity: max(past, _last(self._times[identity])) for identity in ids}
        group: list[str] = []
        expected = 0
        for identity in sorted(ids, key=last.__getitem__):
            # One new run, and its known ones after the group's time, which are read again.
            expected += 1 + (self._planned_after(identity, last[group[0]]) if group else 0)
            if group and expected > RUNS_AT_ONCE:
                yield group, datetime.fromtimestamp(last[group[0]], UTC)
                group, expected = [], 1
            group.append(identity)
        if group:
            yield group, datetime.fromtimestamp(last[group[0]], UTC)

    def _planned_after(self, identity: str, moment: float) -> int:
        return sum(len(times) - bisect_right(times, moment) for times in self._times[identity].values())

    def _bisection(self) -> CountBisection:
        return CountBisection(
            count=self._count,
            known=self._number_of,
            found=lambda ids: self._to_read_again.update(dict.fromkeys(ids)),
            small_enough=FEW,
            requests=MOST_REQUESTS,
        )

    def _explains(self, total: int) -> bool:
        return total == self._total_known() + self._unexplained

    def _total_known(self) -> int:
        planned = sum(len(times) for times_by_tags in self._times.values() for times in times_by_tags.values())
        return planned + sum(self._waiting.values())

    def _count(self, ids: Sequence[str]) -> int:
        after = self._due_by + INSTANT
        with_deployment = [identity for identity in ids if identity != NO_DEPLOYMENT]
        number = self._api.count_planned_of(with_deployment, after) if with_deployment else 0
        return number + (self._api.count_planned_of(None, after) if NO_DEPLOYMENT in ids else 0)

    def _number_of(self, ids: Collection[str]) -> int:
        planned = sum(len(times) for identity in ids for times in self._times[identity].values())
        return planned + sum(number for identity, number in self._waiting.items() if identity in ids)

    # Reading

    def _read(self, queue: Collection[str]) -> None:
        while self._pages_left > 0:
            if self._reading is None:
                if not queue:
                    return
                self._begin_reading(self._first_of(queue), self._due_by)
            self._go_on_reading()

    def _begin_reading(self, ids: list[str], after: datetime) -> None:
        of = None if ids == [NO_DEPLOYMENT] else ids
        self._reading = _Reading(ids, after, self._api.planned_flow_runs(of, after + INSTANT))

    def _go_on_reading(self) -> None:
        while self._reading is not None and self._pages_left > 0:
            self._read_page(self._reading)

    def _first_of(self, queue: Collection[str]) -> list[str]:
        """The first deployments of a queue, as many as have about a page of runs."""
        if next(iter(queue), None) == NO_DEPLOYMENT:
            return [NO_DEPLOYMENT]
        others = len(self._times) - 1
        average = self._total_known() / others if others > 0 else RUNS_OF_A_DEPLOYMENT
        ids: list[str] = []
        expected = 0.0
        for identity in islice(queue, MOST_IDS):
            if identity == NO_DEPLOYMENT:
                break
            expected += self._number_of([identity]) if identity in self._times else average
            if ids and expected > RUNS_AT_ONCE:
                break
            ids.append(identity)
        return ids

    def _read_page(self, reading: _Reading) -> None:
        try:
            runs = next(reading.pages, None)
            if runs is not None:
                self._pages_left -= 1
                self._note_times(reading, runs)
                return
        except ApiError:
            self._reading = None
            raise
        self._reading = None
        past, after = self._due_by.timestamp(), reading.after.timestamp()
        for identity in reading.ids:
            before = self._times.pop(identity, {})
            found = reading.times.get(identity, {})
            for tags, times in before.items():
                found.setdefault(tags, []).extend(time for time in times if time <= after)
            self._times[identity] = {
                tags: array("d", sorted(later))
                for tags, times in found.items()
                if (later := [time for time in times if time > past])
            }
            self._unread.pop(identity, None)
            self._to_read_again.pop(identity, None)
            if _last(self._times[identity]) > _last(before):
                # The scheduler has planned new runs for it already.
                self._came_due.pop(identity, None)

    def _note_times(self, reading: _Reading, runs: Collection[FlowRun]) -> None:
        tags_by_run = self._inventory.tags_of_runs(runs, remember=False)
        for run in runs:
            if run.next_scheduled_start_time is not None and run.state_name not in WAITING_NAMES:
                run_tags = tags_by_run[run.id]
                of_deployment = reading.times.setdefault(run.deployment_id or NO_DEPLOYMENT, {})
                times = of_deployment.setdefault(run_tags.tags() if run_tags else None, [])
                times.append(run.next_scheduled_start_time.timestamp())


def _last(times_by_tags: Times) -> float:
    return max((times[-1] for times in times_by_tags.values() if times), default=0.0)
