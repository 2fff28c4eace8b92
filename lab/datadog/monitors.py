"""Datadog's metric monitors, evaluated on a recording: when a group is in which state."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from .queries import AGGREGATORS, Evaluation, Expression, Group, QueryError, Window, metric_queries, parse
from .series import Recording

QUERY = re.compile(
    r"(?P<change>pct_change\()?(?P<aggregator>avg|sum|min|max)\(last_(?P<window>\w+)\)(?:,last_(?P<shift>\w+)\))?:"
    r"(?P<expression>.+?) (?P<comparator>>=|<=|>|<) (?P<threshold>-?[0-9.]+)"
)
SECONDS = {"5m": 300, "10m": 600, "15m": 900, "30m": 1800, "1h": 3600, "1d": 86400}
COMPARATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class State(StrEnum):
    OK = "OK"
    WARN = "Warn"
    ALERT = "Alert"
    NO_DATA = "No Data"


@dataclass(frozen=True)
class Monitor:
    """A monitor of `assets/monitors/`. `shift_seconds` is set for one that compares with an earlier time."""

    name: str
    title: str
    document: Mapping[str, Any]
    aggregator: str
    window_seconds: float
    shift_seconds: float | None
    expression: Expression
    comparator: str
    thresholds: Mapping[str, float]
    no_data_seconds: float | None
    new_group_seconds: float

    @classmethod
    def load(cls, path: Path) -> Monitor:
        """Raises `QueryError` for a query that is not understood, or that says another threshold than the options."""
        document = json.loads(path.read_text(encoding="utf-8"))
        definition, options = document["definition"], document["definition"]["options"]
        found = QUERY.fullmatch(definition["query"])
        if not found or bool(found["change"]) != bool(found["shift"]):
            raise QueryError(f"{path.name}: the query is not understood.")
        thresholds = {name: float(value) for name, value in options["thresholds"].items()}
        if float(found["threshold"]) != thresholds["critical"]:
            raise QueryError(f"{path.name}: the query and the options name different thresholds.")
        return cls(
            path.stem,
            document["title"],
            document,
            found["aggregator"],
            SECONDS[found["window"]],
            SECONDS[found["shift"]] if found["shift"] else None,
            parse(found["expression"]),
            found["comparator"],
            thresholds,
            60.0 * options["no_data_timeframe"] if options["notify_no_data"] else None,
            options["new_group_delay"],
        )

    def values(self, recording: Recording, at: float) -> dict[Group, float]:
        """The value that is compared with the thresholds, by group, at a moment; groups without data are left out."""
        window = Window(at - self.window_seconds, at, recording.interval_seconds)
        now = self._reduced(recording, window)
        if self.shift_seconds is None:
            return now
        before = self._reduced(recording, window.moved(-self.shift_seconds))
        return {
            group: 100 * (value - before[group]) / abs(before[group])
            for group, value in now.items()
            if before.get(group)
        }

    def _reduced(self, recording: Recording, window: Window) -> dict[Group, float]:
        if any(query.has("as_count") for query in metric_queries(self.expression)):
            # Counts are summed up over the whole window before anything is calculated with them.
            window = Window(window.start, window.end, self.window_seconds)
        series = Evaluation(recording, window).series(self.expression)
        if isinstance(series, float | int):
            raise QueryError(f"{self.name} watches a number.")
        return {group: AGGREGATORS[self.aggregator](list(values.values())) for group, values in series.items()}

    def state(self, value: float, before: State) -> State:
        """The state that follows on `before`: one is left only at its recovery threshold."""
        exceeds = COMPARATORS[self.comparator]
        thresholds = self.thresholds
        if exceeds(value, thresholds["critical"]):
            return State.ALERT
        if before == State.ALERT and not self._recovered(value, "critical_recovery"):
            return State.ALERT
        if "warning" in thresholds:
            if exceeds(value, thresholds["warning"]):
                return State.WARN
            if before in (State.WARN, State.ALERT) and not self._recovered(value, "warning_recovery"):
                return State.WARN
        return State.OK

    def _recovered(self, value: float, name: str) -> bool:
        if name not in self.thresholds:
            return True
        limit = self.thresholds[name]
        return value <= limit if self.comparator.startswith(">") else value >= limit

    def history(
        self, recording: Recording, since: float | None = None, step_seconds: float = 60
    ) -> Iterator[tuple[float, dict[Group, State]]]:
        """The states of all groups every minute, from the beginning or from `since` on; without data the last stays."""
        states: dict[Group, State] = {}
        first: dict[Group, float] = {}
        at = recording.start if since is None else since
        while at < recording.end + step_seconds:
            for group, value in self.values(recording, at).items():
                if at - first.setdefault(group, at) >= self.new_group_seconds:
                    states[group] = self.state(value, states.get(group, State.OK))
            if self.no_data_seconds is not None:
                window = Window(at - self.no_data_seconds, at, recording.interval_seconds)
                for group in first.keys() - self._reduced(recording, window).keys():
                    states[group] = State.NO_DATA
            yield at, dict(states)
            at += step_seconds

    def reached(self, recording: Recording, since: float | None = None) -> dict[State, set[Group]]:
        """The groups that were in a state other than OK at any time."""
        found: dict[State, set[Group]] = {}
        for _, states in self.history(recording, since):
            for group, state in states.items():
                if state != State.OK:
                    found.setdefault(state, set()).add(group)
        return found


def load_monitors(folder: Path) -> dict[str, Monitor]:
    """All monitors of a folder by the names of their files."""
    return {path.stem: Monitor.load(path) for path in sorted(folder.glob("*.json"))}
