"""A dashboard's widgets, and what each shows of a recording."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from datadog_checks.prefect.output.metrics import METRICS, metadata_rows, series_names

from .queries import (
    Evaluation,
    Expression,
    Group,
    MetricQuery,
    QueryError,
    Scalars,
    Series,
    Window,
    metric_queries,
    names_in,
    parse,
)
from .series import Recording

Json: TypeAlias = dict[str, Any]

# What the Agent and the instance put on every series.
TAGS_OF_ALL = frozenset({"host", "prefect_server", "service"})
TAGS_OF: dict[str, frozenset[str]] = {
    name: TAGS_OF_ALL | frozenset(metric.tags.split(", ") if metric.tags else ())
    for metric in METRICS
    for name in series_names(metric)
}
UNITS: dict[str, str] = {row["metric_name"]: row["unit_name"] for row in metadata_rows()}
KINDS: dict[str, str] = {row["metric_name"]: row["metric_type"] for row in metadata_rows()}
COMPARATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}
VARIABLE = re.compile(r"\$(\w+)")
# What Datadog's limits of a top list are without one of its own.
MOST_ROWS = 10


@dataclass(frozen=True)
class Line:
    """One line, area or stack of bars: points are epoch seconds and value. `palette` is of the formula's style."""

    label: str
    points: list[tuple[float, float]]
    display: str
    palette: str | None
    unit: str


@dataclass(frozen=True)
class Row:
    """A line of a top list; `palette` is of the conditional format that it meets, if any."""

    label: str
    value: float
    palette: str | None


@dataclass(frozen=True)
class Widget:
    """A widget inside a group, with its place in the group's grid."""

    id: int
    definition: Json
    layout: Mapping[str, int]

    @property
    def type(self) -> str:
        return str(self.definition["type"])

    @property
    def title(self) -> str:
        return str(self.definition.get("title") or self.definition.get("content", "").split("\n")[0].strip("*# "))


@dataclass(frozen=True)
class WidgetGroup:
    title: str
    color: str
    layout: Mapping[str, int]
    widgets: Sequence[Widget]


@dataclass
class Picture:
    """What a widget shows. Which fields are set depends on its type; `problem` says why it shows nothing."""

    widget: Widget
    lines: list[Line] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    value: float | None = None
    palette: str | None = None
    unit: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Dashboard:
    """`assets/dashboards/*.json`."""

    document: Json
    groups: Sequence[WidgetGroup]

    @classmethod
    def load(cls, path: Path) -> Dashboard:
        document = json.loads(path.read_text(encoding="utf-8"))
        groups = []
        for outer in document["widgets"]:
            definition = outer["definition"]
            widgets = [Widget(inner["id"], inner["definition"], inner["layout"]) for inner in definition["widgets"]]
            groups.append(WidgetGroup(definition["title"], definition["background_color"], outer["layout"], widgets))
        return cls(document, groups)

    @property
    def widgets(self) -> Iterator[Widget]:
        for group in self.groups:
            yield from group.widgets

    @property
    def prefixes(self) -> dict[str, str | None]:
        """The tag that each template variable filters by; None for the one that takes any."""
        return {variable["name"]: variable.get("prefix") for variable in self.document["template_variables"]}

    def filters(self, values: Mapping[str, str] | None = None) -> dict[str, str]:
        """What each template variable stands for in a filter, with these values, else with its default."""
        found = {}
        for variable in self.document["template_variables"]:
            value = (values or {}).get(variable["name"], variable["default"])
            prefix = variable.get("prefix")
            found[variable["name"]] = value if value == "*" or not prefix else f"{prefix}:{value}"
        return found


def requests_of(widget: Widget) -> Iterator[Json]:
    """The requests of a widget that ask for metrics."""
    for request in widget.definition.get("requests", ()):
        if "queries" in request:
            yield request


def expressions_of(widget: Widget) -> Iterator[tuple[Json, Expression]]:
    """The queries of a widget, as they are written and parsed."""
    for request in requests_of(widget):
        for query in request["queries"]:
            yield query, parse(query["query"])


def unknown_in(expression: Expression, prefixes: Mapping[str, str | None] | None = None) -> list[str]:
    """What a query names that we do not submit, and what it asks in a way that the metric's type is not for.

    `prefixes` are the dashboard's template variables: a query has to use those whose tag its metric has, and no other.
    """
    problems = []
    for query in metric_queries(expression):
        if query.metric not in TAGS_OF:
            problems.append(f"{query.metric} is not submitted")
            continue
        known = TAGS_OF[query.metric]
        used = {text for text in query.filters if text.startswith("$")}
        keys = [text.removeprefix("!").partition(":")[0] for text in query.filters if text != "*" and text not in used]
        problems += [f"{query.metric} has no tag {key}" for key in (*keys, *query.by) if key not in known]
        problems += _misused(query)
        if prefixes is not None:
            expected = {f"${name}" for name, prefix in prefixes.items() if prefix is None or prefix in known}
            problems += [f"{query.metric} is not filtered by {name}" for name in sorted(expected - used)]
            problems += [f"{query.metric} cannot be filtered by {name}" for name in sorted(used - expected)]
    return problems


def _misused(query: MetricQuery) -> Iterator[str]:
    is_count = KINDS[query.metric] == "count"
    if is_count and not (query.has("as_count") or query.has("as_rate")):
        yield f"{query.metric} is a count, but neither as_count nor as_rate is said"
    if is_count and query.aggregator != "sum":
        yield f"{query.metric} is a count, but is not summed up"
    if not is_count and (query.has("as_count") or query.has("as_rate")):
        yield f"{query.metric} is no count, but as_count or as_rate is said"
    if not is_count and query.aggregator == "sum" and UNITS[query.metric] == "second":
        yield f"{query.metric} is a time, but is summed up"


def problems_of(dashboard: Dashboard) -> list[str]:
    """What the widgets ask for that does not exist."""
    problems = []
    for widget in dashboard.widgets:
        found: list[str] = []
        for request in requests_of(widget):
            names = {query["name"] for query in request["queries"]}
            used = {name for formula in request["formulas"] for name in names_in(parse(formula["formula"]))}
            found += [f"there is no query {name}" for name in sorted(used - names)]
            found += [f"{name} is in no formula" for name in sorted(names - used)]
        for _, expression in expressions_of(widget):
            found += unknown_in(expression, dashboard.prefixes)
        for request in widget.definition.get("requests", ()):
            for name in VARIABLE.findall(str(request.get("query", {}).get("query_string", ""))):
                found += [] if name in dashboard.prefixes else [f"there is no template variable {name}"]
        problems += [f"{widget.title}: {problem}" for problem in found]
    return problems


def draw(dashboard: Dashboard, recording: Recording, values: Mapping[str, str] | None = None) -> dict[int, Picture]:
    """What each widget that asks for metrics shows of the whole recording, by the widget's id."""
    window = window_of(recording)
    evaluation = Evaluation(recording, window, dashboard.filters(values))
    pictures = {}
    for widget in dashboard.widgets:
        if any(True for _ in requests_of(widget)):
            picture = pictures[widget.id] = Picture(widget)
            try:
                _draw(picture, evaluation)
            except QueryError as error:
                picture.problem = str(error)
            if not (picture.problem or picture.lines or picture.rows or picture.value is not None):
                picture.problem = "no data"
    return pictures


def window_of(recording: Recording) -> Window:
    """The whole recording, a bucket for each check run."""
    interval = recording.interval_seconds
    buckets = round((recording.end - recording.start) / interval) + 1
    return Window(recording.end - buckets * interval, recording.end, interval)


def _draw(picture: Picture, evaluation: Evaluation) -> None:
    widget = picture.widget
    for request in requests_of(widget):
        parsed = {query["name"]: parse(query["query"]) for query in request["queries"]}
        scalars = {
            query["name"]: (parsed[query["name"]], query.get("aggregator", "avg")) for query in request["queries"]
        }
        for formula in request["formulas"]:
            expression = parse(formula["formula"])
            unit = unit_of(formula, expression, parsed)
            if widget.type == "timeseries":
                series = evaluation.series(expression, parsed)
                picture.lines += list(_lines(request, formula, _grouped(series), evaluation.window, unit))
                continue
            picture.unit = unit
            found = evaluation.scalars(expression, scalars)
            answers: Scalars = found if isinstance(found, dict) else {(): found}
            formats = request.get("conditional_formats", ())
            if widget.type == "query_value":
                picture.value = answers.get(())
                picture.palette = None if picture.value is None else _palette(formats, picture.value)
                background = _grouped(evaluation.series(expression, parsed))
                picture.lines += list(_lines({"display_type": "area"}, formula, background, evaluation.window, unit))
            else:
                picture.rows += _ranked(answers, request, formats)


def _grouped(series: Series | float) -> Series:
    if isinstance(series, float | int):
        raise QueryError("A widget that shows a number needs no query.")
    return series


def _lines(request: Json, formula: Json, series: Series, window: Window, unit: str) -> Iterator[Line]:
    own = formula.get("style", {}).get("palette")
    for group, values in sorted(series.items()):
        points = [(window.time_of(bucket), value) for bucket, value in values.items()]
        yield Line(label_of(group) or formula["alias"], points, request["display_type"], own, unit)


def _ranked(answers: Mapping[Group, float], request: Json, formats: Sequence[Json]) -> list[Row]:
    order = request["sort"]["order_by"][0]["order"]
    ranked = sorted(answers.items(), key=lambda item: (item[1], item[0]), reverse=order == "desc")
    most = request["sort"].get("count", MOST_ROWS)
    return [Row(label_of(group), value, _palette(formats, value)) for group, value in ranked[:most]]


def _palette(formats: Sequence[Json], value: float) -> str | None:
    """The palette of the first format that the value meets."""
    for one in formats:
        if COMPARATORS[one["comparator"]](value, one["value"]):
            return str(one["palette"])
    return None


def label_of(group: Group) -> str:
    return ", ".join(value for _, value in group)


def unit_of(formula: Json, expression: Expression, queries: Mapping[str, Expression]) -> str:
    """The unit that the formula demands, else the metric's own where the formula is nothing but that metric."""
    if "number_format" in formula:
        return str(formula["number_format"]["unit"]["unit_name"])
    units = {UNITS.get(query.metric, "") for name in names_in(expression) for query in metric_queries(queries[name])}
    return units.pop() if len(units) == 1 else ""
