"""All deployments of a server, without reading all of them in each check run: the server takes 10 ms for each.

- Changes: the server can sort by the time of the last change, so that the newest are read until a known one appears.
- Readiness, which is no change in this sense: by events.
- Deletions: by events, and by a total that is smaller than the number of known deployments.
- Anything else, as after a lost event: by reading all deployments again, a few at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from datadog_checks.prefect.api.models import Deployment, Event
from datadog_checks.prefect.api.paging import is_uuid
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.counting.event_activity import DEPLOYMENT_DELETED, EventActivity
from datadog_checks.prefect.counting.event_feed import EventFeed
from datadog_checks.prefect.tags import resource_kind_and_id

from .count_bisection import CountBisection
from .inventory import Inventory

LEARNED_AT_ONCE = 64
CHANGES_AT_ONCE = 256
# In one of LOOKS_BETWEEN looks, READ_AGAIN deployments are read again: those that were read the longest ago.
READ_AGAIN = 32
LOOKS_BETWEEN = 8
# After this many passes over all deployments, those that the total counts but no pass found are taken for unreadable.
MOST_PASSES = 3
MOST_REQUESTS = 12
# Times of events are compared with times of responses, which are only known to a second or two.
TOLERANCE = timedelta(seconds=10)

STATUSES = {"prefect.deployment.ready": "READY", "prefect.deployment.not-ready": "NOT_READY"}


class KnownDeployments:
    """`known` has the deployments by id. `look` updates it; the initial load of a large server takes several looks."""

    def __init__(
        self, api: PrefectApi, inventory: Inventory, event_activity: EventActivity, interval: timedelta
    ) -> None:
        self._api = api
        self._inventory = inventory
        self._interval = interval
        criteria = {"event": {"name": [*STATUSES, DEPLOYMENT_DELETED]}}
        self._feed = EventFeed(api, criteria, None, event_activity.reach, activity=event_activity)
        self.known: dict[str, Deployment] = {}
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
        # Deployments that may have changed and must be read again.
        self._doubtful: dict[str, None] = {}
        self._has_looked = False
        # The latest time of a change.
        self._newest = datetime.min.replace(tzinfo=UTC)

    @property
    def is_complete(self) -> bool:
        """Whether all deployments have been read once, as of the last look."""
        return self._has_looked and self._passes > 0 and len(self.known) + self._unreadable >= self.total

    def take_changed(self) -> set[str]:
        """The ids of the deployments that were created, changed or deleted since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def look(self) -> None:
        """Read changes, and more of the deployments that are not known yet. Raises `ApiError`."""
        was_complete, self._has_looked = self.is_complete, False
        self._looks += 1
        is_quiet = self._read_events() and was_complete
        # While nothing happens, looks alternate between the newest changes and the total, which saves a request.
        if self.known and not (is_quiet and self._looks % 2):
            self._read_newest()
        has_total = not (is_quiet and self.known and self._looks % 2 == 0)
        if has_total:
            self.total = self._api.count_deployments()
        self._follow_queues()
        if self._newest > self._api.now() + TOLERANCE:
            # The server's clock was set back, so that new changes do not sort first.
            self._doubtful = self._doubtful or dict.fromkeys(self.known)
        if self._offset is None and has_total and self.total > len(self.known):
            self._offset = 0
        if self._offset is not None:
            self._learn(self._offset)
        elif self._doubtful:
            self._read_again(list(self._doubtful)[:LEARNED_AT_ONCE])
        elif self._looks % LOOKS_BETWEEN == 0:
            self._read_again(list(self.known)[:READ_AGAIN])
        if has_total and self._passes and self.total < len(self.known):
            self._find_deleted()
        self._has_looked = True

    def _read_events(self) -> bool:
        """Apply new events. Returns whether there were none to read."""
        reading = self._feed.read(self._interval)
        for event in reading.events:
            self._apply(event)
        self._feed.commit(reading.events)
        if reading.lost or reading.too_late:
            self._doubtful.update(dict.fromkeys(self.known))
        return reading.is_quiet

    def _read_newest(self) -> None:
        """Read what changed since the last look, all of it or nothing: the newest known one marks where to stop."""
        changed: list[Deployment] = []
        offset, at_most = 0, 1
        while offset < CHANGES_AT_ONCE:
            page = self._api.deployments("UPDATED_DESC", offset, at_most)
            changed += page.objects
            if page.is_last or any(self._knows(deployment) for deployment in page.objects):
                break
            offset += page.size
            at_most = min(8 * at_most, CHANGES_AT_ONCE - offset)
        else:
            self._doubtful.update(dict.fromkeys(self.known))
        self._take(changed)

    def _knows(self, deployment: Deployment) -> bool:
        known = self.known.get(deployment.id)
        return known is not None and known.updated is not None and known.updated == deployment.updated

    def _follow_queues(self) -> None:
        """Apply new names of work queues: the server does not treat them as changes of the queue's deployments."""
        names = self._inventory.queue_names()
        if names == self._queue_names:
            return
        self._queue_names = names
        for identity, known in self.known.items():
            if names and known.work_queue_id and known.work_queue_id not in names:
                self._doubtful[identity] = None
            name = names.get(known.work_queue_id or "", known.work_queue_name)
            if name != known.work_queue_name:
                self.known[identity] = known.model_copy(update={"work_queue_name": name})
                self._inventory.put_deployments([self.known[identity]])
                self._changed.add(identity)

    def _learn(self, offset: int) -> None:
        # The newest first, so that a deployment created meanwhile shifts the others back and none is skipped.
        left = LEARNED_AT_ONCE
        while left > 0:
            page = self._api.deployments("CREATED_DESC", offset, left)
            self._skipped += page.size - self._take(page.objects)
            self._offset = offset = offset + page.size
            left -= page.size
            if page.is_last or len(self.known) >= self.total:
                self._passes += 1
                # A deployment deleted meanwhile shifts others forward, so that the pass may have skipped some.
                is_whole = len(self.known) >= self.total or self._passes % MOST_PASSES == 0
                self._offset = None if is_whole else 0
                self._unreadable = max(0, self.total - len(self.known)) if is_whole else self._skipped
                self._skipped = 0
                return

    def _take(self, deployments: Collection[Deployment]) -> int:
        """Store deployments as just read. Returns how many were stored."""
        now, taken = self._api.now(), 0
        for deployment in deployments:
            if not all(is_uuid(identity) for identity in (deployment.id, deployment.flow_id) if identity):
                # The server would refuse every request that contains it. The total shows that it is missing.
                continue
            before = self.known.pop(deployment.id, None)
            if before is None or _belongs(before) != _belongs(deployment):
                self._changed.add(deployment.id)
            if deployment.updated is not None:
                self._newest = max(self._newest, deployment.updated)
            # `known` is ordered by when a deployment was last read.
            self.known[deployment.id] = deployment
            self._status_since[deployment.id] = now
            taken += 1
        self._inventory.put_deployments(deployments)
        return taken

    def _apply(self, event: Event) -> None:
        _, identity = resource_kind_and_id(event.resource.get("prefect.resource.id")) or ("", "")
        known = self.known.get(identity)
        if known is None:
            return
        if event.event == DEPLOYMENT_DELETED:
            self._drop([identity])
        elif event.occurred >= self._status_since[identity] - TOLERANCE:
            status = STATUSES.get(event.event)
            if status != known.status:
                self.known[identity] = known.model_copy(update={"status": status})
            self._status_since[identity] = event.occurred

    def _read_again(self, ids: Sequence[str]) -> None:
        found: set[str] = set()
        for deployment in self._api.deployments_by_id(ids):
            self._take([deployment])
            found.add(deployment.id)
        for identity in ids:
            self._doubtful.pop(identity, None)
        self._drop(set(ids) - found)

    def _find_deleted(self) -> None:
        bisection = CountBisection(
            count=self._api.count_deployments, known=len, found=self._read_again, small_enough=8, requests=MOST_REQUESTS
        )
        self._bisect_from = bisection.look_into(sorted(self.known), self._bisect_from) or 0

    def _drop(self, ids: Collection[str]) -> None:
        for identity in ids:
            del self.known[identity], self._status_since[identity]
            self._doubtful.pop(identity, None)
        # The total may have been read before they were deleted.
        self.total = max(len(self.known) + self._unreadable, self.total - len(ids))
        self._changed.update(ids)


def _belongs(deployment: Deployment) -> tuple[object, ...]:
    """The fields that planned runs depend on."""
    names = deployment.name, deployment.work_pool_name, deployment.work_queue_name
    return (deployment.updated, deployment.work_queue_id, *names)
