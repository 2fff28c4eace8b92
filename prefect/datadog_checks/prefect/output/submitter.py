"""The only place that submits: what a collector found, and zeros for tag sets that disappeared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from datadog_checks.base import AgentCheck
from datadog_checks.prefect.counting.transitions import Outcome
from datadog_checks.prefect.state_store import Document, compress, decompress
from datadog_checks.prefect.tags import Tags

from .metrics import BY_NAME, METRICS, Metric

ZEROS_FOR_SECONDS = 3600.0
PACKED_FOR_SECONDS = 60.0
COMPRESSION = 1
# The most tag sets kept per metric or family. Those seen the longest ago are dropped first.
MOST_TAG_SETS = 20_000


@dataclass
class Sheet:
    """What one collector found in one check run."""

    samples: list[tuple[Metric, Tags, float]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    without_zeros: set[str] = field(default_factory=set)

    def add(self, name: str, value: float, tags: Tags = ()) -> None:
        """Add a gauge's value, an increment of a count, or a histogram's sample. The metric must be declared."""
        self.samples.append((BY_NAME[name], tags, value))

    def withhold_zeros(self, name: str) -> None:
        """Submit no zeros for this metric: not all of its values are known in this check run."""
        self.without_zeros.add(name)

    def add_one_of(self, names: Collection[str], name: str, tags: Tags) -> None:
        """Add 1 for one of several mutually exclusive gauges, and 0 for the others."""
        for candidate in names:
            self.add(candidate, float(candidate == name), tags)

    def add_outcome(self, family: str, outcome: Outcome, tags: Tags) -> None:
        """Add the counts and durations of a transition."""
        for ending in outcome.counts:
            self.add(f"{family}.{ending}", 1, tags)
        for ending, seconds in outcome.durations:
            self.add(f"{family}.{ending}", seconds, tags)


class VanishedTagSets:
    """Which tag sets had a value in the last hour, so that zeros can be submitted when they disappear.

    The state gauges of a family share theirs, and so do its counts: if runs complete, 0 runs fail.
    """

    def __init__(self) -> None:
        self._last_seen: dict[str, dict[Tags, float]] = {}
        # Packed tag sets, and when they were packed: a large server has a megabyte, which changes little.
        self._packed: dict[str, tuple[float, str]] = {}
        self._now = 0.0

    def zeros(
        self, metrics: Collection[Metric], seen: Mapping[str, Collection[Tags]], now: float
    ) -> list[tuple[Metric, Tags]]:
        """The tag sets of these metrics that had a value in the last hour, but have none in `seen` (by metric name).

        `now` is in seconds since the epoch. Remembers `seen` for the next call.
        """
        self._now = now
        metrics = [metric for metric in metrics if metric.zero_when_gone]
        for metric in metrics:
            last_seen = self._last_seen.setdefault(_group(metric), {})
            number = len(last_seen)
            last_seen.update(dict.fromkeys(seen.get(metric.name, ()), now))
            if len(last_seen) != number:
                self._packed.pop(_group(metric), None)
        for group in {_group(metric) for metric in metrics}:
            self._forget(group, now)
        return [
            (metric, tags)
            for metric in metrics
            for tags in self._last_seen[_group(metric)].keys() - set(seen.get(metric.name, ()))
        ]

    def _forget(self, group: str, now: float) -> None:
        last_seen = self._last_seen[group]
        gone = [tags for tags, at in last_seen.items() if not abs(now - at) <= ZEROS_FOR_SECONDS]
        if len(last_seen) - len(gone) > MOST_TAG_SETS:
            gone += sorted(last_seen.keys() - set(gone), key=last_seen.__getitem__)[:-MOST_TAG_SETS]
        for tags in gone:
            del last_seen[tags]
            self._packed.pop(group, None)

    def document(self) -> Document:
        """The state to be stored. Its times are up to a minute old."""
        for group, last_seen in self._last_seen.items():
            packed_at, _ = self._packed.get(group, (float("-inf"), ""))
            if not 0 <= self._now - packed_at < PACKED_FOR_SECONDS:
                self._packed[group] = (self._now, _pack(last_seen))
        return {group: packed for group, (_, packed) in self._packed.items()}

    @classmethod
    def restored(cls, document: Document) -> VanishedTagSets:
        """The inverse of `document`. Raises `ValueError` if it is damaged."""
        memory = cls()
        try:
            for group, packed in document.items():
                # Earlier versions of the check had a group for each gauge.
                group = GROUP_OF.get(group, group)
                if group in GROUPS:
                    memory._last_seen.setdefault(group, {}).update(_unpack(packed))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"damaged: {error}") from None
        return memory


def _pack(last_seen: Mapping[Tags, float]) -> str:
    entries = [[at, *tags] for tags, at in last_seen.items()]
    return compress(entries, COMPRESSION)


def _unpack(packed: str) -> dict[Tags, float]:
    return {tuple(map(str, tags)): float(at) for at, *tags in decompress(packed)}


def _group(metric: Metric) -> str:
    if metric.type == "count":
        return f"{metric.name.partition('.')[0]} counts"
    return f"{metric.name.rpartition('.')[0]} gauges"


GROUP_OF = {metric.name: _group(metric) for metric in METRICS if metric.zero_when_gone}
# Other groups, of another version of the check, are not restored, because nothing would ever drop them.
GROUPS = frozenset(GROUP_OF.values())


class Submitter:
    """Submits sheets to the Agent. `instance_tags` are added to everything."""

    def __init__(self, check: AgentCheck, instance_tags: Sequence[str], vanished: VanishedTagSets) -> None:
        self._check = check
        self._instance_tags = list(instance_tags)
        self.vanished = vanished
        # What was submitted since the last zeros: metrics, their tag sets by name, and metrics that get no zeros.
        self._collected: set[Metric] = set()
        self._seen: dict[str, set[Tags]] = {}
        self._without_zeros: set[str] = set()

    def submit(self, sheet: Sheet, owned: Collection[str]) -> None:
        """Submit what a collector found, who owns these metrics.

        A value that the Agent rejects causes a warning, not an error: the others must not be submitted again.
        """
        counts: dict[tuple[Metric, Tags], float] = {}
        for metric, tags, value in sheet.samples:
            self._seen.setdefault(metric.name, set()).add(tags)
            if metric.type == "count":
                counts[metric, tags] = counts.get((metric, tags), 0) + value
            else:
                self._submit(metric, tags, value)
        for (metric, tags), value in counts.items():
            self._submit(metric, tags, value)
        for event in sheet.events:
            try:
                self._check.event({**event, "tags": [*self._instance_tags, *event["tags"]]})
            except Exception as error:
                self._warn("a Datadog event", error)
        self._collected.update(metric for metric in METRICS if metric.name in owned)
        self._without_zeros |= sheet.without_zeros

    def submit_zeros(self, now: datetime) -> None:
        """End a check run: submit 0 for tag sets that its metrics had in the last hour and do not have now."""
        for metric, tags in self.vanished.zeros(self._collected, self._seen, now.timestamp()):
            if metric.name not in self._without_zeros:
                self._submit(metric, tags, 0)
        self._collected, self._seen, self._without_zeros = set(), {}, set()

    def _submit(self, metric: Metric, tags: Tags, value: float) -> None:
        try:
            getattr(self._check, metric.type)(metric.name, value, tags=[*self._instance_tags, *tags])
        except Exception as error:
            self._warn(metric.full_name, error)

    def _warn(self, what: str, error: Exception) -> None:
        self._check.warning("Missing: %s. The Agent rejected it (%s).", what, type(error).__name__)
