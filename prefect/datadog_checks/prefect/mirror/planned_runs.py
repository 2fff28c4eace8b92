"""How many flow runs are planned for later, without reading all of them in each check run.

The planned runs of a deployment are read once, and their start times are kept. From then on, runs leave the set when
they come due, and a total from the server shows whether the set is still right. If the total differs, the scheduler has
probably planned more runs for deployments of which one came due: their runs after the last known one are read. If that
does not explain the difference, bisection by counts finds the deployments that differ, whose runs are read again.

After a restart, what was stored is compared in the same way before it is used.
"""

from __future__ import annotations

from array import array
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
from .initial_load import InitialLoadTime
from .inventory import Inventory
from .start_times import StartTimes

# A full page takes the server some 60 ms. Each look reads this many, and more while there is time for the initial load.
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

NO_TIMES: array[float] = array("d")


@dataclass
class _Reading:
    """A reading of the runs of some deployments that start after a time. It may take several looks."""

    ids: list[str]
    after: datetime
    pages: Iterator[list[FlowRun]]
    times: dict[str, dict[Tags | None, list[float]]] = field(default_factory=dict)


class PlannedRuns:
    """The planned runs by deployment. `look` updates them; the initial load of a large server takes several looks."""

    def __init__(self, api: PrefectApi, inventory: Inventory, load_time: InitialLoadTime) -> None:
        self._api = api
        self._inventory = inventory
        self._load_time = load_time
        # Stored start times of deployments that are not known again yet; and, of those in `_times`, which have not been
        # compared with the server since they were restored.
        self._stored: dict[str, array[float]] = {}
        self._unverified: set[str] = set()
        self._times = StartTimes()
        self._unread: OrderedDict[str, None] = OrderedDict({NO_DEPLOYMENT: None})
        self._to_read_again: OrderedDict[str, None] = OrderedDict()
        self._reading: _Reading | None = None
        self._pages_left = 0
        self._came_due: OrderedDict[str, None] = OrderedDict()
        self._waiting: Counter[str] = Counter()
        # Whether a total of the server was another one than expected in the last look.
        self._has_differed = False
        self._due_by = EARLIEST
        self._looks = 0
        self._bisect_from = 0
        self._unexplained = self._difference = 0

    def knows(self, deployment_id: str | None) -> bool:
        """Whether the planned runs of this deployment, or of no deployment, have been read."""
        identity = deployment_id or NO_DEPLOYMENT
        return identity in self._times and identity not in self._unverified

    @property
    def unknown(self) -> int:
        """The number of deployments whose planned runs have not been read, or verified, yet."""
        return len(self._unread) - (NO_DEPLOYMENT in self._unread) + len(self._unverified)

    def totals(self) -> Mapping[Tags, int]:
        """The number of planned runs by tags, as far as they have been read."""
        return self._times.totals(without=self._unverified)

    @property
    def changes(self) -> int:
        """Increases with each change of what is known."""
        return self._times.changes

    def look(
        self,
        deployments: Collection[str],
        changed: Collection[str],
        are_all: bool,
        due_by: datetime,
        waiting: Collection[FlowRun],
        active: Collection[FlowRun] = (),
        may_differ: bool = True,
    ) -> bool:
        """Update the runs that start later than `due_by`. Returns whether others changed too. Raises `ApiError`.

        `deployments` has the ids of the known deployments, and `are_all` says whether these are all that exist.
        `changed` has the ids of those that were created, changed or deleted. `waiting` are runs that are counted
        elsewhere, and part of the server's totals. The deployments of these and of `active` runs are read first.
        `may_differ` tells whether to compare with the server's total although nothing shows a difference.
        """
        self._pages_left = PAGES_AT_ONCE
        self._due_by = due_by
        later = [run for run in waiting if run.next_scheduled_start_time and run.next_scheduled_start_time > due_by]
        self._waiting = Counter(run.deployment_id or NO_DEPLOYMENT for run in later)
        if self._stored and deployments:
            self._use_stored(deployments)
        may_differ |= self._forget_past() or bool(self.unknown or self._to_read_again or self._difference)
        self._note_changes(deployments, changed)
        for identity in self._unread.keys() & {run.deployment_id for run in (*waiting, *active)}:
            self._unread.move_to_end(identity, last=False)
        self._looks += 1
        self._has_differed = False
        if self._looks % LOOKS_BETWEEN == 0 and not self._to_read_again:
            # Those that were read the longest ago.
            self._to_read_again.update(dict.fromkeys(self._first_of(self._times)))
        self._read(self._to_read_again)
        if self._unverified:
            # A total covers what is stored only if the runs of all other deployments are known.
            with suppress(OutOfTime):
                self._read(self._unread)
        if may_differ or self.unknown or changed or not are_all:
            self._verify(are_all)
        self._read(self._to_read_again)
        # No time left for the initial load: what is known stays right, and the next look goes on.
        with suppress(OutOfTime):
            self._read(self._unread)
        return self._has_differed

    def _forget_past(self) -> bool:
        """Forget the runs that came due. Returns whether there were any."""
        came_due = self._times.forget_until(self._due_by.timestamp())
        for identity in came_due:
            self._came_due[identity] = None
            self._came_due.move_to_end(identity)
        return bool(came_due)

    def _note_changes(self, deployments: Collection[str], changed: Collection[str]) -> None:
        if self._reading is not None and not set(changed).isdisjoint(self._reading.ids):
            # Start over: deployments leave the queue only when their reading is complete.
            self._reading = None
        for identity in changed:
            if identity not in deployments:
                for known in (self._unread, self._to_read_again, self._came_due):
                    known.pop(identity, None)
                self._times.remove(identity)
                self._unverified.discard(identity)
            elif identity in self._times:
                self._to_read_again[identity] = None
        self._unread.update(dict.fromkeys(identity for identity in deployments if identity not in self._times))

    # Stored over restarts

    @property
    def is_verified(self) -> bool:
        """Whether all that was stored has been compared with the server."""
        return not self._stored and not self._unverified

    def to_store(self, deployments: Collection[str], changed: Collection[str]) -> Iterator[tuple[str, array[float]]]:
        """The start times of these deployments, as far as they are right and have the usual tags.

        `changed` are deployments that the next look will read again.
        """
        doubtful = {*changed, *self._to_read_again, *(self._reading.ids if self._reading else ())}
        for identity, times_by_tags in self._times.items():
            if identity in deployments and identity not in doubtful and identity not in self._unverified:
                usual = self._inventory.tags_of_scheduled_runs(identity)
                if usual is not None and times_by_tags.keys() <= {usual}:
                    yield identity, times_by_tags.get(usual, NO_TIMES)

    def restore(self, stored: Mapping[str, array[float]]) -> None:
        """Begin with these start times by deployment, in order. The next look verifies them."""
        self._stored = dict(stored)

    def _use_stored(self, deployments: Collection[str]) -> None:
        for identity, times in self._stored.items():
            usual = self._inventory.tags_of_scheduled_runs(identity)
            if usual is not None and identity in deployments and identity not in self._times:
                self._times.restore(identity, {usual: times} if times else {})
                self._unverified.add(identity)
                self._unread.pop(identity, None)
        self._stored = {}

    # Comparing with the server's totals

    def _verify(self, are_all: bool) -> None:
        if are_all and not self._unread and not self._to_read_again:
            self._verify_by_total()
            return
        self._verify_by_parts()
        while self._unverified and self._bisect_from and self._load_time.is_left():
            with self._load_time.spend():
                self._verify_by_parts()

    def _verify_by_total(self) -> None:
        total = self._api.count_planned(self._due_by + INSTANT)
        self._has_differed = not self._explains(total)
        while not self._explains(total) and self._read_on(self._times) and self._load_time.is_left():
            pass
        if self._explains(total):
            self._unverified.clear()
            return
        stopped_at = self._bisect(sorted(self._times))
        if stopped_at is None and not self._to_read_again:
            # Nothing explains the difference. If it is the same in the next look, it is accepted.
            difference = total - self._total_known()
            self._unexplained = difference if difference == self._difference else 0
            self._difference = difference

    def _verify_by_parts(self) -> None:
        """The same if no total covers exactly the known deployments, for example during the initial load."""
        ids = sorted(set(self._times) - self._to_read_again.keys())
        start = self._bisect_from if self._bisect_from < len(ids) else 0
        end = min(start + PARTS_AT_ONCE * MOST_IDS, len(ids))
        parts = [ids[position : min(position + MOST_IDS, end)] for position in range(start, end, MOST_IDS)]
        differing: dict[str, None] = {}
        for part in parts:
            if self._count(part) == self._number_of(part):
                self._unverified.difference_update(part)
            else:
                differing.update(dict.fromkeys(part))
        if differing:
            self._read_on(differing)
            if self._bisection().look_into(list(differing)) is not None:
                return
        self._bisect_from = end if end < len(ids) else 0

    def _read_on(self, among: Collection[str]) -> bool:
        """If deployments of which a run came due differ, read their runs after the last known one.

        The scheduler plans new runs mostly for these. Returns whether some were read.
        """
        candidates = (identity for identity in reversed(self._came_due) if identity in among and identity)
        due = list(islice(candidates, MOST_IDS))
        if not due or self._count(due) == self._number_of(due):
            return False
        for ids, after in self._groups(due):
            if self._may_read():
                self._begin_reading(ids, after)
                self._go_on_reading()
        return True

    def _groups(self, ids: Collection[str]) -> Iterator[tuple[list[str], datetime]]:
        """Group deployments whose last known runs are close in time, by about a page of runs to read.

        Yields each group with the earliest of these times.
        """
        past = self._due_by.timestamp()
        last = {identity: max(past, self._times.last(identity)) for identity in ids}
        group: list[str] = []
        expected = 0
        for identity in sorted(ids, key=last.__getitem__):
            # One new run, and its known ones after the group's time, which are read again.
            expected += 1 + (self._times.number_after(identity, last[group[0]]) if group else 0)
            if group and expected > RUNS_AT_ONCE:
                yield group, datetime.fromtimestamp(last[group[0]], UTC)
                group, expected = [], 1
            group.append(identity)
        if group:
            yield group, datetime.fromtimestamp(last[group[0]], UTC)

    def _bisection(self) -> CountBisection:
        return CountBisection(
            count=self._count,
            known=self._number_of,
            found=lambda ids: self._to_read_again.update(dict.fromkeys(ids)),
            small_enough=FEW,
            requests=MOST_REQUESTS,
            agrees=self._unverified.difference_update,
        )

    def _bisect(self, ids: Sequence[str]) -> int | None:
        """Find deployments that differ, and read them again as far as there is time. Returns as `look_into` does."""
        while True:
            with self._load_time.spend():
                stopped_at = self._bisection().look_into(ids, self._bisect_from)
            self._bisect_from = stopped_at or 0
            if stopped_at is None or not self._load_time.is_left():
                return stopped_at
            self._read(self._to_read_again)

    def _explains(self, total: int) -> bool:
        return total == self._total_known() + self._unexplained

    def _total_known(self) -> int:
        return self._times.total() + sum(self._waiting.values())

    def _count(self, ids: Sequence[str]) -> int:
        after = self._due_by + INSTANT
        with_deployment = [identity for identity in ids if identity != NO_DEPLOYMENT]
        number = self._api.count_planned_of(with_deployment, after) if with_deployment else 0
        return number + (self._api.count_planned_of(None, after) if NO_DEPLOYMENT in ids else 0)

    def _number_of(self, ids: Collection[str]) -> int:
        return self._times.number_of(ids) + sum(number for identity, number in self._waiting.items() if identity in ids)

    # Reading

    def _read(self, queue: Collection[str]) -> None:
        while self._may_read():
            if self._reading is None:
                if not queue:
                    return
                self._begin_reading(self._first_of(queue), self._due_by)
            self._go_on_reading()

    def _begin_reading(self, ids: list[str], after: datetime) -> None:
        of = None if ids == [NO_DEPLOYMENT] else ids
        self._reading = _Reading(ids, after, self._api.planned_flow_runs(of, after + INSTANT))

    def _go_on_reading(self) -> None:
        while self._reading is not None and self._may_read():
            with self._load_time.spend():
                self._read_page(self._reading)

    def _may_read(self) -> bool:
        return self._pages_left > 0 or self._load_time.is_left()

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
            before = self._times.of(identity) if identity in self._times else {}
            last_before = self._times.last(identity)
            found = reading.times.get(identity, {})
            for tags, times in before.items():
                found.setdefault(tags, []).extend(time for time in times if time <= after)
            times_by_tags = {
                tags: array("d", sorted(later))
                for tags, times in found.items()
                if (later := [time for time in times if time > past])
            }
            self._times.put(identity, times_by_tags)
            self._unread.pop(identity, None)
            self._to_read_again.pop(identity, None)
            self._unverified.discard(identity)
            if self._times.last(identity) > last_before:
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
