"""What Datadog keeps of check runs: points in time of each series, recorded over real check runs."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.agent import CheckRunResult, aggregate

Point = tuple[float, float]
Tags = frozenset[str]
Key = tuple[str, Tags]

DECIMALS = 4


@dataclass
class Recording:
    """The series of one Agent that runs the check every `interval_seconds`.

    Points are epoch seconds and value, in the order of time; `types` are Datadog's (gauge, count, rate); `runs` are the
    moments of the check runs. `events` and `logs` are Datadog's events, and log lines as (service, line).
    """

    interval_seconds: float
    runs: list[float] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    points: dict[Key, list[Point]] = field(default_factory=lambda: defaultdict(list))
    events: list[dict[str, Any]] = field(default_factory=list)
    logs: list[tuple[str, str]] = field(default_factory=list)

    def add(self, result: CheckRunResult, at: float, host: str) -> None:
        """Take what a check run submitted: with the Agent's host, and tags in lower case, as Datadog has them."""
        self.runs.append(at)
        for line in aggregate([result]):
            self.types[line.name] = line.type
            tags = frozenset(tag.lower() for tag in (*line.tags, f"host:{host}"))
            self.points[line.name, tags].append((at, line.value))
        self.events += result.events

    @property
    def start(self) -> float:
        return self.runs[0]

    @property
    def end(self) -> float:
        return self.runs[-1]

    def names(self) -> set[str]:
        """The names of all metrics that have points."""
        return {name for name, _ in self.points}

    def of(self, metric: str) -> Iterator[tuple[Tags, list[Point]]]:
        """The series of a metric, each with its tags."""
        for (name, tags), points in self.points.items():
            if name == metric:
                yield tags, points

    def moved(self, seconds: float) -> Recording:
        """The same, that much later (earlier where negative)."""
        moved = Recording(self.interval_seconds, [at + seconds for at in self.runs], dict(self.types))
        for key, points in self.points.items():
            moved.points[key] = [(at + seconds, value) for at, value in points]
        return moved

    def followed_by(self, other: Recording) -> Recording:
        """This recording and a later one as one."""
        joined = Recording(self.interval_seconds, [*self.runs, *other.runs], self.types | other.types)
        for recording in (self, other):
            for key, points in recording.points.items():
                joined.points[key] += points
        joined.events = [*self.events, *other.events]
        joined.logs = [*self.logs, *other.logs]
        return joined

    def save(self, path: Path) -> None:
        """Write it to a compressed JSON file."""
        index = {at: number for number, at in enumerate(self.runs)}
        document = {
            "interval_seconds": self.interval_seconds,
            "runs": [round(at, 1) for at in self.runs],
            "types": self.types,
            "series": [
                [name, sorted(tags), [[index[at], round(value, DECIMALS)] for at, value in points]]
                for (name, tags), points in sorted(
                    self.points.items(), key=lambda item: (item[0][0], sorted(item[0][1]))
                )
            ],
            "events": self.events,
            "logs": self.logs,
        }
        text = json.dumps(document, separators=(",", ":"))
        # without the time of writing, so that equal recordings are equal files
        path.write_bytes(gzip.compress(text.encode(), mtime=0))

    @classmethod
    def load(cls, path: Path) -> Recording:
        """The inverse of `save`."""
        document = json.loads(gzip.decompress(path.read_bytes()))
        runs = document["runs"]
        recording = cls(document["interval_seconds"], runs, document["types"])
        for name, tags, points in document["series"]:
            recording.points[name, frozenset(tags)] = [(runs[number], value) for number, value in points]
        recording.events = document["events"]
        recording.logs = [(service, line) for service, line in document["logs"]]
        return recording
