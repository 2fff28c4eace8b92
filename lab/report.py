"""What `agent check` prints: metrics, events, metadata, warnings and errors of some check runs, as text or as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from .agent import CheckRunResult, Series, aggregate

WIDTH = 120
INDENT = " " * 4


@dataclass(frozen=True)
class Report:
    """The check runs of one instance; `expected_names` are the metric names that should have been seen."""

    prefect_url: str
    results: Sequence[CheckRunResult]
    expected_names: Sequence[str] = ()

    @property
    def series(self) -> list[Series]:
        return aggregate(self.results)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for result in self.results for event in result.events]

    @property
    def metadata(self) -> dict[str, str]:
        return {name: value for result in self.results for name, value in result.metadata.items()}

    @property
    def warnings(self) -> list[str]:
        return [warning for result in self.results for warning in result.warnings]

    @property
    def errors(self) -> list[str]:
        return [result.error for result in self.results if result.error]

    @property
    def missing_names(self) -> list[str]:
        """The expected names that no check run submitted."""
        return sorted(set(self.expected_names) - {series.name for series in self.series})

    def as_json(self) -> dict[str, Any]:
        """The report as it is put into a JSON document."""
        metrics = [
            {"name": series.name, "type": series.type, "value": series.value, "tags": sorted(series.tags)}
            for series in self.series
        ]
        return {
            "prefect_url": self.prefect_url,
            "check_runs": len(self.results),
            "metrics": metrics,
            "events": self.events,
            "metadata": self.metadata,
            "warnings": self.warnings,
            "errors": self.errors,
            "missing_metrics": self.missing_names,
        }

    def as_text(self) -> str:
        """The report for a terminal of 120 columns, with a summary as its last line."""
        metadata = (f"{name}: {value}" for name, value in sorted(self.metadata.items()))
        sections = (
            ("Metrics", _metric_lines(self.series)),
            ("Events", _event_lines(self.events)),
            ("Version metadata", metadata),
            ("Warnings", self.warnings),
            ("Errors", self.errors),
            ("Metrics that were not seen", self.missing_names),
        )
        blocks = [
            "\n".join([title, "=" * len(title), *lines, ""]) for title, content in sections if (lines := [*content])
        ]
        return "\n".join([*blocks, self.summary()])

    def summary(self) -> str:
        """One line of numbers."""
        return (
            f"{len({series.name for series in self.series})} metric names, {len(self.series)} series, "
            f"{len(self.events)} events, {len(self.warnings)} warnings, {len(self.errors)} errors "
            f"in {len(self.results)} check runs"
        )


def _metric_lines(series: Sequence[Series]) -> Iterator[str]:
    for (name, type_name), group in groupby(series, key=lambda line: (line.name, line.type)):
        yield f"{name} ({type_name})"
        for line in group:
            yield from _wrapped(f"{_number(line.value):>12}  ", _names_first(line.tags))


def _event_lines(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        when = datetime.fromtimestamp(event["timestamp"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        yield f"{when} UTC  {event.get('alert_type', 'info'):<7}  {event['event_type']}"
        yield f"{INDENT}{event['msg_title']}"
        for paragraph in str(event["msg_text"]).splitlines():
            yield from _wrapped(INDENT * 2, paragraph.split())
        yield f"{INDENT}aggregation_key {event.get('aggregation_key', '')}"
        yield from _wrapped(INDENT, _names_first(event.get("tags", [])))


def _names_first(tags: Iterable[str]) -> list[str]:
    return sorted(tags, key=lambda tag: (tag.partition(":")[0].endswith("_id"), tag))


def _wrapped(start: str, words: Sequence[str]) -> list[str]:
    """Lines that begin with `start`, or with blanks below it; a word longer than a line is left whole."""
    text = textwrap.TextWrapper(
        width=WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return text.wrap(" ".join(words)) or [start.rstrip()]


def _number(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.3f}"
