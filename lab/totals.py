"""Sums over many check runs, and what of them was lost or came twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .agent import NAMESPACE, CheckRunResult

# Two durations that differ by less are the same: seconds, with microseconds rounded on the way.
SAME_SECONDS = 2e-6

Series = tuple[str, frozenset[str]]
EventKey = tuple[str, str, int]


@dataclass
class Totals:
    """Counts and histogram samples by metric (without the namespace) and tags, and Datadog events.

    An event is its `event_type`, the id of its resource and its timestamp in whole Unix seconds, as the Agent sends it.
    """

    counts: Counter[Series] = field(default_factory=Counter)
    samples: dict[Series, list[float]] = field(default_factory=dict)
    events: Counter[EventKey] = field(default_factory=Counter)

    def add_count(self, name: str, tags: frozenset[str]) -> None:
        self.counts[name, tags] += 1

    def add_sample(self, name: str, tags: frozenset[str], seconds: float) -> None:
        self.samples.setdefault((name, tags), []).append(seconds)

    def add_event(self, event_type: str, resource_id: str, timestamp: float) -> None:
        self.events[event_type, resource_id, int(timestamp)] += 1

    @property
    def size(self) -> tuple[int, int, int]:
        """The numbers of counted things, of samples and of events."""
        return self.counts.total(), sum(map(len, self.samples.values())), self.events.total()


def totals_of(results: Iterable[CheckRunResult]) -> Totals:
    """All that check runs submitted, gauges left out."""
    totals = Totals()
    for result in results:
        for series in result.series:
            name = series.name.removeprefix(NAMESPACE)
            if series.type == "count":
                totals.counts[name, series.tags] += int(series.value)
            elif series.type == "histogram":
                totals.add_sample(name, series.tags, series.value)
        for event in result.events:
            # It is the id of the resource, with its kind.
            totals.add_event(event["event_type"], event["aggregation_key"], event["timestamp"])
    return totals


def missing(wanted: Totals, there: Totals) -> list[str]:
    """What `wanted` has more of than `there`, a line each, sorted."""
    lines = [f"{_text(series)}: {number}" for series, number in (wanted.counts - there.counts).items()]
    lines += [f"event {key}: {number}" for key, number in (wanted.events - there.events).items()]
    for series, samples in wanted.samples.items():
        unmatched = _unmatched(samples, there.samples.get(series, ()))
        lines += [f"{_text(series)}: sample {seconds:.6f} s" for seconds in unmatched]
    return sorted(lines)


def _unmatched(wanted: Iterable[float], there: Iterable[float]) -> list[float]:
    """The samples that have no partner, walking both lists in order."""
    left = sorted(there, reverse=True)
    alone = []
    for seconds in sorted(wanted):
        while left and left[-1] < seconds - SAME_SECONDS:
            left.pop()
        if left and left[-1] <= seconds + SAME_SECONDS:
            left.pop()
        else:
            alone.append(seconds)
    return alone


def _text(series: Series) -> str:
    name, tags = series
    return f"{name} {{{', '.join(sorted(tag for tag in tags if '_id:' not in tag))}}}"
