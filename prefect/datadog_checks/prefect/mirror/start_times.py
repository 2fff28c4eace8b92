"""Start times of planned runs."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Collection, Container, Iterator, Mapping

from datadog_checks.prefect.tags import Tags

# Start times in order, in seconds since the epoch, by tags; tags are None for runs that the filters exclude.
Times = dict[Tags | None, "array[float]"]


class StartTimes:
    """Start times by deployment, ordered by when a deployment was put in. `changes` increases with each change."""

    def __init__(self) -> None:
        self._times: dict[str, Times] = {}
        self.changes = 0

    def __contains__(self, deployment_id: object) -> bool:
        return deployment_id in self._times

    def __iter__(self) -> Iterator[str]:
        return iter(self._times)

    def __len__(self) -> int:
        return len(self._times)

    def items(self) -> Collection[tuple[str, Times]]:
        return self._times.items()

    def of(self, deployment_id: str) -> Times:
        return self._times[deployment_id]

    def put(self, deployment_id: str, times: Times) -> None:
        """Replace all times of a deployment, which becomes the last one in order."""
        self.changes += self._times.pop(deployment_id, {}) != times
        self._times[deployment_id] = times

    def restore(self, deployment_id: str, times: Times) -> None:
        """Put times in that were stored, which is no change."""
        self._times[deployment_id] = times

    def remove(self, deployment_id: str) -> None:
        """Forget a deployment, if it is known."""
        self.changes += self._times.pop(deployment_id, None) is not None

    def forget_until(self, moment: float) -> list[str]:
        """Forget the times until this one, inclusive. Returns the deployments that had some."""
        past = []
        for identity, times_by_tags in self._times.items():
            for tags, times in list(times_by_tags.items()):
                if times and times[0] <= moment:
                    del times[: bisect_right(times, moment)]
                    past.append(identity)
                if not times:
                    del times_by_tags[tags]
        self.changes += len(past)
        return past

    def total(self) -> int:
        return sum(len(times) for times_by_tags in self._times.values() for times in times_by_tags.values())

    def number_of(self, deployment_ids: Collection[str]) -> int:
        """How many times these deployments have, all of which must be known."""
        return sum(len(times) for identity in deployment_ids for times in self._times[identity].values())

    def number_after(self, deployment_id: str, moment: float) -> int:
        return sum(len(times) - bisect_right(times, moment) for times in self._times[deployment_id].values())

    def last(self, deployment_id: str) -> float:
        """The last time of a deployment; 0 without any."""
        times_by_tags = self._times.get(deployment_id, {})
        return max((times[-1] for times in times_by_tags.values() if times), default=0.0)

    def totals(self, without: Container[str]) -> Mapping[Tags, int]:
        """The number of times by tags, without those of some deployments."""
        totals: dict[Tags, int] = {}
        for identity, times_by_tags in self._times.items():
            for tags, times in times_by_tags.items():
                if tags is not None and identity not in without:
                    totals[tags] = totals.get(tags, 0) + len(times)
        return totals
