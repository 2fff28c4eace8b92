"""What was learned of deployments and their planned runs, stored across restarts, so that it is not learned again."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from datadog_checks.prefect.api.models import Deployment
from datadog_checks.prefect.state_store import StateStore, aware_moment, compress, decompress

from .deployments import KnownDeployments
from .inventory import Inventory
from .planned_runs import PlannedRuns

DOCUMENT = "deployments"
# A large server has a megabyte of it, a part of which changes all the time.
SAVED_EVERY = timedelta(minutes=1)
# It is saved anew even if nothing changes, or its events would be too old to be followed after a restart.
KEPT_FRESH_EVERY = timedelta(hours=6)
# Of the stored text. Beyond it, the deployments that were read the longest ago are left out.
MOST_BYTES = 1_000_000
# The best ratio that zlib reaches in a tenth of a second for ten thousand deployments.
COMPRESSION = 6
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

# A deployment's fields and start times, as they are stored.
Row = list[Any]


class StoredMirror:
    """Loads the state of both mirrors once, and saves it when it has changed, at most once a minute.

    It is saved at the end of a check run: what only one of the mirrors has seen is left out.
    """

    def __init__(
        self, store: StateStore, inventory: Inventory, deployments: KnownDeployments, planned_runs: PlannedRuns
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._deployments = deployments
        self._planned_runs = planned_runs
        self._saved_at: datetime | None = None
        self._saved: tuple[int, int, bool] | None = None

    def restore(self, with_planned_runs: bool) -> None:
        """Give the mirrors what was stored. Raises `ValueError` if that is damaged; then they have none of it."""
        document = self._store.load(DOCUMENT)
        if document is None:
            return
        try:
            rows = decompress(document["deployments"])
            deployments = [self._deployment_of(row) for row in rows]
            planned = {row[0]: _times_of(row[-1]) for row in rows if row[-1] is not None}
            saved_at, is_complete = aware_moment(document["saved_at"]), bool(document["is_complete"])
            self._deployments.restore({deployment.id: deployment for deployment in deployments}, document)
        except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"damaged: {error}") from None
        self._saved_at = saved_at
        self._saved = self._deployments.changes, self._planned_runs.changes, is_complete
        if with_planned_runs:
            self._planned_runs.restore(planned)

    def save_if_due(self, now: datetime) -> None:
        """Save what both mirrors know now, if it has changed since."""
        deployments, planned_runs = self._deployments, self._planned_runs
        if not deployments.may_be_stored or not planned_runs.is_verified:
            return
        is_complete = deployments.is_complete and not planned_runs.unknown
        state = deployments.changes, planned_runs.changes, is_complete
        was_complete = self._saved is not None and self._saved[2]
        wait = KEPT_FRESH_EVERY if state == self._saved else SAVED_EVERY
        has_ended = is_complete and not was_complete
        if self._saved_at and timedelta() <= now - self._saved_at < wait and not has_ended:
            return
        self._saved_at, self._saved = now, state
        about = {"saved_at": now.isoformat(), "is_complete": is_complete}
        self._store.save(DOCUMENT, {**about, **deployments.document(), "deployments": self._packed()})

    def _packed(self) -> str:
        rows = list(self._rows())
        packed = compress(rows, COMPRESSION)
        while len(packed) > MOST_BYTES:
            fitting = int(0.9 * len(rows) * MOST_BYTES / len(packed))
            rows = rows[len(rows) - fitting :]
            packed = compress(rows, COMPRESSION)
        return packed

    def _rows(self) -> Iterator[Row]:
        """A row for each deployment, in the order in which they were read."""
        known = self._deployments.known
        times = dict(self._planned_runs.to_store(known, self._deployments.changed))
        for identity, deployment in known.items():
            starts = times.get(identity)
            yield [
                identity,
                deployment.name,
                deployment.flow_id,
                self._inventory.flow_name(deployment.flow_id),
                deployment.paused,
                deployment.status,
                deployment.work_pool_name,
                deployment.work_queue_id,
                deployment.work_queue_name,
                deployment.tags,
                None if deployment.updated is None else (deployment.updated - EPOCH) // MICROSECOND,
                None if starts is None else _row_of(starts),
            ]

    def _deployment_of(self, row: Row) -> Deployment:
        identity, name, flow_id, flow_name, paused, status, pool_name, queue_id, queue_name, tags, updated, _ = row
        if flow_id is not None and flow_name is not None:
            self._inventory.put_flow_name(str(flow_id), str(flow_name))
        return Deployment(
            id=identity,
            name=name,
            flow_id=flow_id,
            paused=paused,
            status=status,
            work_pool_name=pool_name,
            work_queue_id=queue_id,
            work_queue_name=queue_name,
            tags=tags,
            updated=None if updated is None else EPOCH + updated * MICROSECOND,
        )


def _row_of(times: Iterable[float]) -> list[int]:
    """Start times as steps in microseconds: the first time, the number of times, and how the steps follow each other.

    Schedules repeat themselves: `[first, step, how often, step, how often, ...]`.
    """
    row: list[int] = []
    last = 0
    for time in times:
        moment = round(time * 1e6)
        step, last = moment - last, moment
        if not row:
            row.append(moment)
        elif len(row) > 1 and row[-2] == step:
            row[-1] += 1
        else:
            row += [step, 1]
    return row


def _times_of(row: Sequence[int]) -> array[float]:
    """The inverse of `_row_of`. Raises `TypeError` or `ValueError` for anything else."""
    times: array[float] = array("d")
    if not row:
        return times
    moment = row[0]
    times.append(moment / 10**6)
    for step, number in zip(row[1::2], row[2::2], strict=True):
        if step < 0 or not 0 < number <= MOST_BYTES:
            raise ValueError("damaged")
        for _ in range(number):
            moment += step
            times.append(moment / 10**6)
    return times
