"""Check runs as the Agent makes them, on the stubs of `datadog_checks.base` instead of the Agent's own bindings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from datadog_checks.base import AgentCheck, stubs

NAMESPACE = "prefect.server."

# One for the whole process, as the bindings in the Agent; they carry no types.
aggregator: Any = stubs.aggregator
datadog_agent: Any = stubs.datadog_agent


@dataclass(frozen=True)
class Series:
    """One sample as the check submitted it, or after `aggregate` one line of what `agent check` shows."""

    name: str
    type: str
    value: float
    tags: frozenset[str]
    hostname: str = ""

    def tag(self, key: str) -> str:
        """The value of the first tag of this key. Raises `StopIteration` if there is none."""
        return next(tag.partition(":")[2] for tag in sorted(self.tags) if tag.startswith(f"{key}:"))


@dataclass(frozen=True)
class CheckRunResult:
    """All that one check run submitted. `error` is what the Agent's status would show, empty when it went well.

    `error_type` is the full name of what was raised then. Names of metrics are taken with or without the namespace;
    `tags` select the series that have all of them.
    """

    series: list[Series]
    events: list[dict[str, Any]] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    error_type: str = ""

    def names(self) -> set[str]:
        """The full names of all metrics."""
        return {series.name for series in self.series}

    def matching(self, name: str, **tags: str) -> list[Series]:
        """All samples of a metric whose tags include `tags`."""
        wanted = {f"{key}:{value}" for key, value in tags.items()}
        full_name = name if name.startswith(NAMESPACE) else NAMESPACE + name
        return [series for series in self.series if series.name == full_name and wanted <= series.tags]

    def one(self, name: str, **tags: str) -> Series:
        """The only sample of a metric with these tags. Raises AssertionError when there is none or another."""
        found = self.matching(name, **tags)
        seen = "\n".join(f"  {series}" for series in found or self.matching(name))
        assert len(found) == 1, f"{len(found)} samples of {name} with {tags} instead of one; there are:\n{seen}"
        return found[0]

    def gauge(self, name: str, **tags: str) -> float:
        """The value of the only gauge with these tags. Raises AssertionError as `one` does."""
        series = self.one(name, **tags)
        assert series.type == "gauge", f"{name} is a {series.type}"
        return series.value

    def count(self, name: str, **tags: str) -> float:
        """The sum of a count over all tag sets with these tags; 0 when nothing was submitted."""
        return sum(self._values("count", name, **tags))

    def samples(self, name: str, **tags: str) -> list[float]:
        """The samples of a histogram, in the order in which they were submitted."""
        return self._values("histogram", name, **tags)

    def _values(self, sample_type: str, name: str, **tags: str) -> list[float]:
        found = self.matching(name, **tags)
        others = [series for series in found if series.type != sample_type]
        assert not others, f"{name} should be a {sample_type}: {others}"
        return [series.value for series in found]


class Agent:
    """The Agent around one instance of the check; what it stores survives `restart`, as the Agent's cache does."""

    def __init__(
        self,
        instance: Mapping[str, Any],
        init_config: Mapping[str, Any] | None = None,
        check_class: type[AgentCheck] | None = None,
    ) -> None:
        self._instance = dict(instance)
        self._init_config = dict(init_config or {})
        self._check_class = check_class or _prefect_check()
        configuration = json.dumps([self._init_config, self._instance], sort_keys=True)
        self.check_id = f"prefect:{hashlib.sha256(configuration.encode()).hexdigest()[:16]}"
        self.check = self._new_check()

    def restart(self) -> None:
        """Go on with a new check object, as after a restart of the Agent."""
        self.check = self._new_check()

    def run(self) -> CheckRunResult:
        """One check run. What it does wrong is in the result's `error`, not raised."""
        aggregator.reset()
        datadog_agent._metadata.clear()
        datadog_agent._sent_logs.clear()
        report = self.check.run()
        failure = json.loads(report)[0] if report else {"message": "", "traceback": ""}
        return CheckRunResult(
            series=[self._series(sample) for name in aggregator.metric_names for sample in aggregator.metrics(name)],
            events=[{**event, "tags": [*event.get("tags", []), *self._sender_tags()]} for event in aggregator.events],
            logs=list(datadog_agent._sent_logs[self.check_id]),
            metadata={name: str(value) for (_, name), value in datadog_agent._metadata.items()},
            warnings=list(self.check.get_warnings()),
            error=failure["message"],
            # The last that a traceback says is the error, as `type: message`.
            error_type=failure["traceback"].rstrip().removesuffix(failure["message"]).rpartition("\n")[2].rstrip(": "),
        )

    def _new_check(self) -> AgentCheck:
        check = self._check_class("prefect", self._init_config, [self._instance])
        check.check_id = self.check_id
        return check

    def _series(self, sample: Any) -> Series:
        tags = frozenset([*sample.tags, *self._sender_tags()])
        type_name = aggregator.METRIC_ENUM_MAP_REV[sample.type]
        return Series(sample.name, type_name, float(sample.value), tags, sample.hostname or "")

    def _sender_tags(self) -> list[str]:
        # The Agent's sender appends the service itself; a check that submits it would have it twice.
        service = self._instance.get("service") or self._init_config.get("service")
        return [f"service:{service}"] if service else []


class CheckedAgent(Agent):
    """An Agent for comparisons of whole tag sets: all that is submitted must have one tag `prefect_server`.

    It is taken out, so that each test compares what it is about.
    """

    def run(self) -> CheckRunResult:
        result = super().run()
        series = [replace(found, tags=frozenset(_without_server(found.tags))) for found in result.series]
        events = [{**event, "tags": _without_server(event["tags"])} for event in result.events]
        return replace(result, series=series, events=events)


def _without_server(tags: Collection[str]) -> list[str]:
    others = [tag for tag in tags if not tag.startswith("prefect_server:")]
    assert len(others) + 1 == len(tags), f"not one tag prefect_server: {sorted(tags)}"
    return others


def forget_everything() -> None:
    """Empty the stubs with the persistent cache: an Agent that was never there before."""
    aggregator.reset()
    datadog_agent.reset()


def forget_deployments() -> None:
    """Drop what the check has stored of deployments and flows, which an older version of it did not store."""
    for key in [key for key in datadog_agent._cache if "_deployments_" in key]:
        del datadog_agent._cache[key]


def aggregate(results: Sequence[CheckRunResult]) -> list[Series]:
    """What `agent check --check-times N` shows of N runs, sorted by name and tags.

    Gauges have their last value, counts are summed, and histograms are the five series that the Agent makes of them.
    """
    samples: dict[tuple[str, str, frozenset[str], str], list[float]] = {}
    for result in results:
        for series in result.series:
            samples.setdefault((series.name, series.type, series.tags, series.hostname), []).append(series.value)
    lines = []
    for (name, type_name, tags, hostname), values in samples.items():
        if type_name == "histogram":
            for suffix, suffix_type, value in histogram_series(values):
                lines.append(Series(f"{name}.{suffix}", suffix_type, value, tags, hostname))
        else:
            value = sum(values) if type_name == "count" else values[-1]
            lines.append(Series(name, type_name, value, tags, hostname))
    return sorted(lines, key=lambda line: (line.name, sorted(line.tags)))


def histogram_series(samples: Sequence[float]) -> list[tuple[str, str, float]]:
    """Suffix, type and value of the Agent's five series of a histogram, which interpolate nothing."""
    ordered = sorted(samples)
    number = len(ordered)
    return [
        ("avg", "gauge", sum(ordered) / number),
        ("max", "gauge", ordered[-1]),
        ("median", "gauge", ordered[(number - 1) // 2]),
        ("95percentile", "gauge", ordered[(95 * number - 1) // 100]),
        # A rate by type, but checks are sampled over an interval of one second: the Agent shows the number of samples.
        ("count", "rate", float(number)),
    ]


def _prefect_check() -> type[AgentCheck]:
    # imported here so that the lab's own tools can be used without the check
    from datadog_checks.prefect import PrefectCheck

    check_class: type[AgentCheck] = PrefectCheck
    return check_class
