"""The only place that submits: what a collector found, by the table of metrics, and zeros for what vanished."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from datadog_checks.base import AgentCheck

from .metrics import BY_NAME, METRICS, Metric
from .scopes import Tags
from .state_store import Document
from .transitions import Outcome

ZEROS_FOR_SECONDS = 3600.0
# Bounds what is kept of tag sets that come and go; the ones that vanished first are forgotten first.
MOST_TAG_SETS = 20_000


@dataclass
class Sheet:
    """What one collector found in one check run."""

    samples: list[tuple[Metric, Tags, float]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    without_zeros: set[str] = field(default_factory=set)

    def add(self, name: str, value: float, tags: Tags = ()) -> None:
        """A gauge's value, an addition to a count, or a histogram's sample. The name must be a declared one."""
        self.samples.append((BY_NAME[name], tags, value))

    def withhold_zeros(self, name: str) -> None:
        """Tag sets that have no value now may have one: they have not vanished."""
        self.without_zeros.add(name)

    def add_one_of(self, names: Collection[str], name: str, tags: Tags) -> None:
        """1 for one of several gauges that exclude each other, 0 for the others."""
        for candidate in names:
            self.add(candidate, float(candidate == name), tags)

    def add_outcome(self, family: str, outcome: Outcome, tags: Tags) -> None:
        for ending in outcome.counts:
            self.add(f"{family}.{ending}", 1, tags)
        for ending, seconds in outcome.durations:
            self.add(f"{family}.{ending}", seconds, tags)


class VanishedTagSets:
    """Which tag sets had a value lately, so that zeros can follow it.

    Gauges are remembered each for itself. The counts of a family share their tag sets: where runs complete, 0 of them
    failed.
    """

    def __init__(self) -> None:
        self._last_seen: dict[str, dict[Tags, float]] = {}

    def zeros(
        self, metrics: Iterable[Metric], seen: Collection[tuple[Metric, Tags]], now: float
    ) -> list[tuple[Metric, Tags]]:
        """The tag sets of these metrics that had a value within the last hour and are not among those `seen` now."""
        metrics = [metric for metric in metrics if metric.zero_when_gone]
        for metric, tags in seen:
            if metric.zero_when_gone:
                self._last_seen.setdefault(_group(metric), {})[tags] = now
        for group in {_group(metric) for metric in metrics}:
            self._forget(group, now)
        already = set(seen)
        return [
            (metric, tags)
            for metric in metrics
            for tags in self._last_seen.get(_group(metric), ())
            if (metric, tags) not in already
        ]

    def _forget(self, group: str, now: float) -> None:
        last_seen = {
            tags: at for tags, at in self._last_seen.get(group, {}).items() if abs(now - at) <= ZEROS_FOR_SECONDS
        }
        kept = sorted(last_seen, key=last_seen.__getitem__)[-MOST_TAG_SETS:]
        self._last_seen[group] = {tags: last_seen[tags] for tags in kept}

    def document(self) -> Document:
        groups = {
            group: [[at, *tags] for tags, at in last_seen.items()] for group, last_seen in self._last_seen.items()
        }
        packed = zlib.compress(json.dumps(groups, separators=(",", ":")).encode())
        return {"packed": base64.b64encode(packed).decode("ascii")}

    @classmethod
    def restored(cls, document: Document) -> VanishedTagSets:
        """The inverse of `document`; raises `ValueError` for what is damaged."""
        memory = cls()
        try:
            groups = json.loads(zlib.decompress(base64.b64decode(document["packed"], validate=True)))
            for group in GROUPS & groups.keys():
                entries = groups[group]
                memory._last_seen[group] = {tuple(map(str, tags)): float(at) for at, *tags in entries}
        except (KeyError, TypeError, AttributeError, zlib.error) as error:
            raise ValueError(f"damaged: {error}") from None
        return memory


def _group(metric: Metric) -> str:
    return f"{metric.name.partition('.')[0]} counts" if metric.type == "count" else metric.name


# Others are left of an earlier version: nothing would ever forget them.
GROUPS = frozenset(_group(metric) for metric in METRICS if metric.zero_when_gone)


class Submitter:
    """Hands sheets to the Agent. `instance_tags` go on everything."""

    def __init__(self, check: AgentCheck, instance_tags: Sequence[str], vanished: VanishedTagSets) -> None:
        self._check = check
        self._instance_tags = list(instance_tags)
        self.vanished = vanished

    def submit(self, sheet: Sheet, owned: Collection[str], now: datetime) -> None:
        """Submit what a collector found, and zeros for the tag sets of its `owned` metrics that vanished lately."""
        counts: dict[tuple[Metric, Tags], float] = {}
        for metric, tags, value in sheet.samples:
            if metric.type == "count":
                counts[metric, tags] = counts.get((metric, tags), 0) + value
            elif metric.type == "gauge":
                self._check.gauge(metric.name, value, tags=[*self._instance_tags, *tags])
            else:
                self._check.histogram(metric.name, value, tags=[*self._instance_tags, *tags])
        metrics = [metric for metric in METRICS if metric.name in owned and metric.name not in sheet.without_zeros]
        seen = {(metric, tags) for metric, tags, _ in sheet.samples if metric.type != "histogram"}
        for metric, tags in self.vanished.zeros(metrics, seen, now.timestamp()):
            if metric.type == "count":
                counts[metric, tags] = 0
            else:
                self._check.gauge(metric.name, 0, tags=[*self._instance_tags, *tags])
        for (metric, tags), value in counts.items():
            self._check.count(metric.name, value, tags=[*self._instance_tags, *tags])
        for event in sheet.events:
            self._check.event({**event, "tags": [*self._instance_tags, *event["tags"]]})
