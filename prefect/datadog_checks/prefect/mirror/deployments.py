"""All deployments of a server, without reading all of them in each check run: the server takes 10 ms for each.

- Changes: the server can sort by the time of the last change, so that the newest are read until a known one appears.
- Readiness, which is no change in this sense: by events.
- Deletions: by events, and by a total that is smaller than the number of known deployments.
- Anything else, as after a lost event: by reading all deployments again, a few at a time.

After a restart, what was stored is compared in the same ways before it is used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from datadog_checks.prefect.api.errors import OutOfTime
from datadog_checks.prefect.api.models import EARLIEST, Deployment, Event
from datadog_checks.prefect.api.paging import is_uuid
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.counting.event_activity import (
    DEPLOYMENT_DELETED,
    NEWEST_DEPLOYMENTS,
    NUMBER_OF_DEPLOYMENTS,
    EventActivity,
    Reach,
)
from datadog_checks.prefect.counting.event_feed import EventFeed
from datadog_checks.prefect.state_store import Document, aware_moment
from datadog_checks.prefect.tags import resource_kind_and_id

from .count_bisection import CountBisection
from .initial_load import InitialLoadTime
from .inventory import Inventory

# Deployments in one request of the initial load: the usual number, and bounds if the time for them is known.
LEARNED_AT_ONCE = 64
FEWEST_AT_ONCE, MOST_AT_ONCE = 8, 200
CHANGES_AT_ONCE = 256
# In one of LOOKS_BETWEEN looks, READ_AGAIN deployments are read again: those that were read the longest ago.
READ_AGAIN = 32
LOOKS_BETWEEN = 8
# After this many passes over all deployments, those that the total counts but no pass found are taken for unreadable.
MOST_PASSES = 3
MOST_REQUESTS = 12
# The part of the time for the initial load that deployments may take; the rest is for planned runs.
PART_OF_LEARNING = 0.5
# Readiness that changed during a longer downtime is not found by events.
LONGEST_DOWNTIME = timedelta(days=1)
# Times of events are compared with times of responses, which are only known to a second or two.
TOLERANCE = timedelta(seconds=10)

STATUSES = {"prefect.deployment.ready": "READY", "prefect.deployment.not-ready": "NOT_READY"}


class KnownDeployments:
    """The deployments by id. `look` updates them; the initial load of a large server takes several looks."""

    def __init__(
        self,
        api: PrefectApi,
        inventory: Inventory,
        event_activity: EventActivity,
        interval: timedelta,
        load_time: InitialLoadTime,
    ) -> None:
        self._api = api
        self._inventory = inventory
        self._event_activity = event_activity
        self._is_turn_of = event_activity.is_turn_of
        self._interval = interval
        self._load_time = load_time
        self._feed = self._new_feed(None)
        self._known: dict[str, Deployment] = {}
        # Whether `_known` has been compared with the server. It has not been after it was restored.
        self._is_verified = True
        # Increases with each change of `_known`.
        self.changes = 0
        self.total = 0
        self._status_since: dict[str, datetime] = {}
        self._changed: set[str] = set()
        self._looks = 0
        self._queue_names: Mapping[str, str | None] = {}
        self._offset: int | None = 0
        self._passes = 0
        # How many deployments the total counts that cannot be read, and how many of them the current pass met.
        self._unreadable = self._skipped = 0
        self._bisect_from = 0
        # The time that each deployment took in the last request of the initial load.
        self._seconds_each = 0.0
        # Deployments that may have changed and must be read again.
        self._doubtful: dict[str, None] = {}
        self._has_looked = False
        self._discarded = ""
        # All changes until this time were read, or the initial load will read them.
        self._changes_read_until = EARLIEST
        # Events that the last look had no time for.
        self._events_left = 0

    def _new_feed(self, saved: Document | None) -> EventFeed:
        criteria = {"event": {"name": [*STATUSES, DEPLOYMENT_DELETED]}}
        reach = Reach(self._event_activity.reach.lookback, LONGEST_DOWNTIME)
        return EventFeed(self._api, criteria, saved, reach, activity=self._event_activity)

    @property
    def known(self) -> Mapping[str, Deployment]:
        """The deployments that were read; none while restored ones are not verified."""
        return self._known if self._is_verified else {}

    @property
    def is_loaded(self) -> bool:
        """Whether the initial load has ended."""
        return self._passes > 0

    @property
    def is_complete(self) -> bool:
        """Whether all deployments have been read once, as of the last look."""
        is_read = self._passes > 0 and len(self._known) + self._unreadable >= self.total
        return self._has_looked and self._is_verified and is_read

    def take_discarded(self) -> str:
        """Why stored deployments were of no use, since the last call; empty if they were, or if there were none."""
        reason, self._discarded = self._discarded, ""
        return reason

    def take_changed(self) -> set[str]:
        """The ids of the deployments that were created, changed or deleted since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def look(self) -> None:
        """Read changes, and more of the deployments that are not known yet. Raises `ApiError`."""
        was_complete, self._has_looked = self.is_complete, False
        self._looks += 1
        is_quiet = self._read_events() and was_complete
        # While nothing happens, both are requested now and then only.
        if (self._known or not self.is_loaded) and (not is_quiet or self._is_turn_of(NEWEST_DEPLOYMENTS)):
            self._read_newest()
        self._take_referenced()
        has_total = not is_quiet or self._is_turn_of(NUMBER_OF_DEPLOYMENTS)
        if has_total:
            self.total = self._api.count_deployments()
        self._follow_queues()
        if self._changes_read_until > self._api.now() + TOLERANCE:
            # The server's clock was set back, so that new changes do not sort first.
            self._doubtful = self._doubtful or dict.fromkeys(self._known)
        if self._offset is None and has_total and self.total > len(self._known):
            self._offset = 0
        if self._offset is not None or self._doubtful:
            self._learn()
        elif self._looks % LOOKS_BETWEEN == 0:
            self._read_again(list(self._known)[:READ_AGAIN])
        if has_total and self._passes and self.total < len(self._known):
            self._find_deleted()
        self._has_looked = True
        if not self._is_verified:
            self._verify()

    def _verify(self) -> None:
        """Use restored deployments if all differences from the server were found."""
        with suppress(OutOfTime):
            while self._passes and self.total < len(self._known) and self._load_time.is_left():
                with self._load_time.spend():
                    self._find_deleted()
        if not self._doubtful and not self._events_left and self.total >= len(self._known):
            self._is_verified = True
            self._inventory.put_deployments(self._known.values())

    def _read_events(self) -> bool:
        """Apply new events. Returns whether there were none to read."""
        reading = self._feed.read(self._interval)
        for event in reading.events:
            self._apply(event)
        self._feed.commit(reading.events)
        self._events_left = reading.behind
        if reading.lost or reading.too_late:
            self._doubt_all("it is older than a day")
        return reading.is_quiet

    def _doubt_all(self, reason: str) -> None:
        """Read all deployments again, because there are changes that cannot be found in another way."""
        if self._is_verified:
            self._doubtful.update(dict.fromkeys(self._known))
        else:
            self._forget(reason)

    def _forget(self, reason: str) -> None:
        """Start the initial load anew: what was stored is of no use."""
        self._discarded = reason
        self._changed.update(self._known)
        self._known.clear()
        self._status_since.clear()
        self._doubtful.clear()
        self._is_verified, self._offset, self._passes = True, 0, 0
        self.changes += 1

    def _read_newest(self) -> None:
        """Read what changed since the last look, all of it or nothing: the newest known one marks where to stop."""
        changed: list[Deployment] = []
        offset, at_most = 0, 1
        while offset < CHANGES_AT_ONCE:
            page = self._api.deployments("UPDATED_DESC", offset, at_most)
            changed += page.objects
            # At the beginning of the initial load, only the time of the latest change is of interest.
            if any(self._knows(deployment) for deployment in page.objects) or (changed and not self._known):
                break
            if page.is_last:
                if not self._is_verified:
                    self._forget("it is of other deployments")
                break
            offset += page.size
            at_most = min(8 * at_most, CHANGES_AT_ONCE - offset)
        else:
            self._doubt_all("too many deployments have changed since")
        newest = changed[0].updated if changed else None
        if newest and not self._is_verified:
            # These are not on the server in this form, for example because a backup was restored.
            newer = [identity for identity, known in self._known.items() if known.updated and known.updated > newest]
            self._doubtful.update(dict.fromkeys(newer))
        if self._known:
            self._take(changed, self._api.now())
        self._changes_read_until = max(self._changes_read_until, newest or EARLIEST)

    def _knows(self, deployment: Deployment) -> bool:
        """Whether this state of a deployment was read before, and with it all changes before this one."""
        known = self._known.get(deployment.id)
        return (
            known is not None
            and known.updated is not None
            and known.updated == deployment.updated
            and known.updated <= self._changes_read_until
        )

    def _take_referenced(self) -> None:
        """During the initial load, store deployments that have runs now, which were read for that reason."""
        read = self._inventory.take_deployments_read_by_id()
        if not self.is_loaded:
            # A later change would hide changes before it from `_read_newest`.
            earlier = [found for found in read if found.updated and found.updated <= self._changes_read_until]
            self._take(earlier, self._api.now() - self._interval)

    def _follow_queues(self) -> None:
        """Apply new names of work queues: the server does not treat them as changes of the queue's deployments."""
        names = self._inventory.queue_names()
        if names == self._queue_names:
            return
        self._queue_names = names
        for identity, known in self._known.items():
            if names and known.work_queue_id and known.work_queue_id not in names:
                self._doubtful[identity] = None
            name = names.get(known.work_queue_id or "", known.work_queue_name)
            if name != known.work_queue_name:
                self._put(known.model_copy(update={"work_queue_name": name}))
                self._inventory.put_deployments([self._known[identity]])
                self._changed.add(identity)

    def _learn(self) -> None:
        """Read some deployments that are not known or doubtful, and more while there is time for that."""
        self._learn_some()
        with suppress(OutOfTime):
            while self._has_much_to_learn() and self._load_time.is_left(PART_OF_LEARNING):
                self._learn_some()

    def _has_much_to_learn(self) -> bool:
        """Whether it is worth more than one request: a few that are missing may be unreadable."""
        missing = self.total - len(self._known) - self._unreadable
        return bool(self._doubtful) or (self._offset is not None and (not self.is_loaded or missing > LEARNED_AT_ONCE))

    def _learn_some(self) -> None:
        number, before = self._number_to_learn(), self._api.seconds_left()
        with self._load_time.spend():
            if self._doubtful:
                self._read_again(list(self._doubtful)[:number])
            elif self._offset is not None:
                self._learn_from(self._offset, number)
        self._seconds_each = (before - self._api.seconds_left()) / number

    def _number_to_learn(self) -> int:
        """How many deployments there is time for."""
        if self._seconds_each <= 0 or not self._load_time.is_set:
            return LEARNED_AT_ONCE
        fitting = self._load_time.seconds_left(PART_OF_LEARNING) / self._seconds_each
        return int(min(max(fitting, FEWEST_AT_ONCE), MOST_AT_ONCE))

    def _learn_from(self, offset: int, left: int) -> None:
        # The newest first, so that a deployment created meanwhile shifts the others back and none is skipped.
        while left > 0:
            page = self._api.deployments("CREATED_DESC", offset, left)
            self._skipped += page.size - self._take(page.objects, self._api.now())
            self._offset = offset = offset + page.size
            left -= page.size
            if page.is_last or len(self._known) >= self.total:
                self._passes += 1
                # A deployment deleted meanwhile shifts others forward, so that the pass may have skipped some.
                is_whole = len(self._known) >= self.total or self._passes % MOST_PASSES == 0
                self._offset = None if is_whole else 0
                self._unreadable = max(0, self.total - len(self._known)) if is_whole else self._skipped
                self._skipped = 0
                return

    def _take(self, deployments: Collection[Deployment], read_at: datetime) -> int:
        """Store deployments that were read at this time or later. Returns how many were stored."""
        taken = 0
        for deployment in deployments:
            if not all(is_uuid(identity) for identity in (deployment.id, deployment.flow_id) if identity):
                # The server would refuse every request that contains it. The total shows that it is missing.
                continue
            before = self._known.pop(deployment.id, None)
            if before is None or _belongs(before) != _belongs(deployment):
                self._changed.add(deployment.id)
            # `_known` is ordered by when a deployment was last read.
            self._known[deployment.id] = deployment
            self._status_since[deployment.id] = read_at
            self.changes += before != deployment
            taken += 1
        self._inventory.put_deployments(deployments)
        return taken

    def _apply(self, event: Event) -> None:
        _, identity = resource_kind_and_id(event.resource.get("prefect.resource.id")) or ("", "")
        known = self._known.get(identity)
        if known is None:
            return
        if event.event == DEPLOYMENT_DELETED:
            self._drop([identity])
        elif event.occurred >= self._status_since[identity] - TOLERANCE:
            status = STATUSES.get(event.event)
            if status != known.status:
                self._put(known.model_copy(update={"status": status}))
            self._status_since[identity] = event.occurred

    def _read_again(self, ids: Sequence[str]) -> None:
        found: set[str] = set()
        for deployment in self._api.deployments_by_id(ids):
            self._take([deployment], self._api.now())
            found.add(deployment.id)
        for identity in ids:
            self._doubtful.pop(identity, None)
        self._drop(set(ids) - found)

    def _find_deleted(self) -> None:
        bisection = CountBisection(
            count=self._api.count_deployments, known=len, found=self._read_again, small_enough=8, requests=MOST_REQUESTS
        )
        self._bisect_from = bisection.look_into(sorted(self._known), self._bisect_from) or 0

    def _drop(self, ids: Collection[str]) -> None:
        not_known = max(0, self.total - len(self._known) - self._unreadable)
        for identity in ids:
            del self._known[identity], self._status_since[identity]
            self._doubtful.pop(identity, None)
        # The total may have been read before they were deleted.
        self.total = min(self.total, len(self._known) + self._unreadable + not_known)
        self._changed.update(ids)
        self.changes += len(ids)

    def _put(self, changed: Deployment) -> None:
        self._known[changed.id] = changed
        self.changes += 1

    # Stored over restarts

    @property
    def may_be_stored(self) -> bool:
        """Whether all that is known is right, as of the last look."""
        return self._has_looked and self._is_verified and not self._doubtful and not self._events_left

    @property
    def changed(self) -> Collection[str]:
        """What `take_changed` would return."""
        return self._changed

    def document(self) -> Document:
        """The state besides `known`, for `restore`."""
        return {
            "feed": self._feed.document(),
            "changed_until": self._changes_read_until.isoformat(),
            "offset": self._offset,
        }

    def restore(self, deployments: Mapping[str, Deployment], document: Document) -> None:
        """Begin with what was known and the `document` of that time. The next look verifies it.

        Raises `ValueError`, `KeyError` or `TypeError` if the document is damaged.
        """
        offset = document["offset"]
        self._feed = self._new_feed(dict(document["feed"]))
        self._changes_read_until = aware_moment(document["changed_until"])
        self._offset = None if offset is None else int(offset)
        self._passes = int(offset is None)
        self._known = dict(deployments)
        self._status_since = dict.fromkeys(deployments, EARLIEST)
        self._is_verified = not deployments


def _belongs(deployment: Deployment) -> tuple[object, ...]:
    """The fields that planned runs depend on."""
    names = deployment.name, deployment.work_pool_name, deployment.work_queue_name
    return (deployment.updated, deployment.work_queue_id, *names)
