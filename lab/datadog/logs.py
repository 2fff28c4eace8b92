"""Datadog's log pipelines, as far as `assets/logs/prefect.yaml` needs them, and the Agent's rule for multiple lines.

A grok rule is translated into a regular expression; anything that is not understood is a `PipelineError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

REFERENCE = re.compile(r'%\{(?P<matcher>\w+)(?:\("(?P<argument>(?:[^"\\]|\\.)*)"\))?(?::(?P<attribute>[\w.]+))?\}')
MATCHERS = {
    "data": r"[\s\S]*",
    "notSpace": r"\S+",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}
# Datadog's patterns for dates, as regular expression and as Python's format.
DATES = {"yyyy-MM-dd HH:mm:ss.SSS": (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", "%Y-%m-%d %H:%M:%S.%f")}
# Of the first letters that the status remapper goes by; what begins otherwise is info.
STATUSES = {"c": "critical", "e": "error", "w": "warning", "i": "info", "d": "debug"}


class PipelineError(Exception):
    """A pipeline that asks for what is not understood here."""


@dataclass
class Entry:
    """A log as Datadog keeps it. `date` is in epoch milliseconds, None for the time at which it was received."""

    service: str
    message: str
    status: str = "info"
    date: float | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)

    @property
    def time(self) -> str | None:
        """The time of day, for a list."""
        if self.date is not None:
            return datetime.fromtimestamp(self.date / 1000, UTC).strftime("%H:%M:%S")
        time = self.attributes.get("time")
        return str(time)[:8] if time else None


@dataclass(frozen=True)
class GrokRule:
    """A rule of a grok parser; `attributes` are those of its groups, each with its date format if it has one."""

    name: str
    pattern: re.Pattern[str]
    attributes: Mapping[str, tuple[str, str | None]]

    def match(self, text: str) -> dict[str, Any] | None:
        """The attributes of a text that the rule matches from end to end."""
        found = self.pattern.fullmatch(text)
        if not found:
            return None
        values: dict[str, Any] = {}
        for group, (attribute, date_format) in self.attributes.items():
            if (value := found[group]) is not None:
                values[attribute] = _milliseconds(value, date_format) if date_format else value
        return values


def _milliseconds(text: str, date_format: str) -> float:
    return datetime.strptime(text, date_format).replace(tzinfo=UTC).timestamp() * 1000


def rules_of(grok: Mapping[str, str]) -> list[GrokRule]:
    """The match rules of a grok parser, with the support rules put into them."""
    support = dict(_named(grok["supportRules"]))
    return [_translated(name, text, support) for name, text in _named(grok["matchRules"])]


def _named(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):
        if line:
            name, _, rule = line.partition(" ")
            yield name, rule


def _translated(name: str, rule: str, support: Mapping[str, str]) -> GrokRule:
    attributes: dict[str, tuple[str, str | None]] = {}

    def replaced(found: re.Match[str]) -> str:
        matcher, argument, attribute = found["matcher"], found["argument"], found["attribute"]
        if matcher in support:
            return REFERENCE.sub(replaced, support[matcher])
        date_format = None
        if matcher == "regex":
            # The argument is a string in which a backslash stands as two.
            pattern = argument.replace("\\\\", "\\")
        elif matcher == "date" and argument in DATES:
            pattern, date_format = DATES[argument]
        elif matcher in MATCHERS:
            pattern = MATCHERS[matcher]
        else:
            raise PipelineError(f"The rule {name} uses {found[0]}, which is not understood here.")
        if not attribute:
            return f"(?:{pattern})"
        group = f"g{len(attributes)}"
        attributes[group] = attribute, date_format
        return f"(?P<{group}>{pattern})"

    return GrokRule(name, re.compile(REFERENCE.sub(replaced, rule)), attributes)


class Pipeline:
    """`assets/logs/prefect.yaml`, or another document of its kind."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.processors: Sequence[Mapping[str, Any]] = document["pipeline"]["processors"]
        self._rules = [
            rules_of(processor["grok"]) if processor["type"] == "grok-parser" else [] for processor in self.processors
        ]

    @classmethod
    def load(cls, path: Path) -> Pipeline:
        return cls(yaml.safe_load(path.read_text(encoding="utf-8")))

    def process(self, text: str, service: str = "") -> Entry:
        """What becomes of a log; JSON is taken apart before, as Datadog does."""
        entry = Entry(service, text)
        parsed = _json_object(text)
        if parsed is not None:
            entry.attributes = parsed
            entry.message = str(parsed.get("message", ""))
        for processor, rules in zip(self.processors, self._rules, strict=True):
            if processor["enabled"]:
                self._apply(processor, rules, entry)
        return entry

    def _apply(self, processor: Mapping[str, Any], rules: Sequence[GrokRule], entry: Entry) -> None:
        match processor["type"]:
            case "grok-parser":
                _grok(processor["source"], rules, entry)
            case "attribute-remapper":
                _remap(processor, entry)
            case "arithmetic-processor":
                _multiply(processor, entry)
            case "date-remapper":
                date = _first(processor["sources"], entry)
                entry.date = float(date) if date is not None else None
            case "status-remapper":
                level = _first(processor["sources"], entry)
                entry.status = STATUSES.get(str(level or "")[:1].lower(), "info")
            case "message-remapper":
                message = _first(processor["sources"], entry)
                entry.message = entry.message if message is None else str(message)
            case unknown:
                raise PipelineError(f"A processor of type {unknown} is not understood here.")


def _grok(source: str, rules: Sequence[GrokRule], entry: Entry) -> None:
    # What was JSON has its parts already.
    if source == "message" and "message" not in entry.attributes and not entry.attributes:
        text: Any = entry.message
    else:
        text = get(entry.attributes, source) if source != "message" else None
    if not isinstance(text, str):
        return
    for rule in rules:
        found = rule.match(text)
        if found is not None:
            entry.rules.append(rule.name)
            for attribute, value in found.items():
                put(entry.attributes, attribute, value)
            return


def _remap(processor: Mapping[str, Any], entry: Entry) -> None:
    [source] = processor["sources"]
    value = get(entry.attributes, source)
    taken = get(entry.attributes, processor["target"]) is not None
    if value is not None and (processor["overrideOnConflict"] or not taken):
        put(entry.attributes, processor["target"], value)
        if not processor["preserveSource"]:
            remove(entry.attributes, source)


def _multiply(processor: Mapping[str, Any], entry: Entry) -> None:
    found = re.fullmatch(r"([\w.]+) \* (\d+)", processor["expression"])
    if not found:
        raise PipelineError(f"The expression {processor['expression']!r} is not understood here.")
    value = get(entry.attributes, found[1])
    if isinstance(value, int | float):
        put(entry.attributes, processor["target"], value * int(found[2]))


def _first(sources: Iterable[str], entry: Entry) -> Any:
    for source in sources:
        if (value := get(entry.attributes, source)) is not None:
            return value
    return None


def get(attributes: Mapping[str, Any], path: str) -> Any:
    """The value at a path such as `error.kind`, None where there is none."""
    value: Any = attributes
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def put(attributes: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path."""
    *parents, last = path.split(".")
    for key in parents:
        attributes = attributes.setdefault(key, {})
    attributes[last] = value


def remove(attributes: dict[str, Any], path: str) -> None:
    """Remove the value at a path, which is there, and objects that are empty without it."""
    key, _, rest = path.partition(".")
    if rest:
        remove(attributes[key], rest)
    if not rest or not attributes[key]:
        del attributes[key]


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def joined(lines: Iterable[str], pattern: str) -> Iterator[str]:
    """The entries that the Agent makes of lines: one begins where the pattern of its `multi_line` rule matches."""
    beginning = re.compile(pattern)
    entry: list[str] = []
    for line in lines:
        if beginning.match(line) and entry:
            yield "\n".join(entry)
            entry = []
        entry.append(line)
    if entry:
        yield "\n".join(entry)
