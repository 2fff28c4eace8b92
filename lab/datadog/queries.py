"""Datadog's metric queries, evaluated on a recording: `sum:metric{filter} by {tag}.as_count()`, functions, formulas.

Only what the assets use is understood; anything else is a `QueryError`, so that a query is never half evaluated.
"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, TypeAlias

from lark import Lark, Token, Transformer, UnexpectedInput
from lark.exceptions import VisitError

from .series import Point, Recording, Tags

GRAMMAR = r"""
?start: sum
?sum: product | sum "+" product -> plus | sum "-" product -> minus
?product: unary | product "*" unary -> times | product "/" unary -> over
?unary: atom | "-" unary -> negative
?atom: NUMBER -> number | STRING -> string | "(" sum ")" | call | metric | NAME -> name
call: NAME "(" sum ("," sum)* ")"
metric: HEAD BRACES ["by" BRACES] modifier*
modifier: "." NAME "(" [sum ("," sum)*] ")"
HEAD: /(avg|sum|min|max):[a-z][a-z0-9_.]*/
BRACES: /\{[^{}]*\}/
NAME: /[a-z][a-z0-9_]*/
STRING: /'[^']*'/
%import common.NUMBER
%ignore " "
"""

Group: TypeAlias = tuple[tuple[str, str], ...]
# By group, the values by the number of their bucket.
Series: TypeAlias = dict[Group, dict[int, float]]
Scalars: TypeAlias = dict[Group, float]

NO_TAG = "N/A"
AGGREGATORS: dict[str, Callable[[Sequence[float]], float]] = {
    "avg": lambda values: math.fsum(values) / len(values),
    "sum": math.fsum,
    "min": min,
    "max": max,
    "last": lambda values: values[-1],
}
# Of each value and a number; None takes the value away.
FUNCTIONS: dict[str, Callable[[float, float], float | None]] = {
    "clamp_max": min,
    "clamp_min": max,
    "cutoff_max": lambda value, limit: value if value <= limit else None,
    "cutoff_min": lambda value, limit: value if value >= limit else None,
}
OPERATORS: dict[str, Callable[[float, float], float]] = {
    "plus": operator.add,
    "minus": operator.sub,
    "times": operator.mul,
    "over": operator.truediv,
}


class QueryError(Exception):
    """A query that is not one, or that asks for something that is not submitted."""


@dataclass(frozen=True)
class Number:
    value: float


@dataclass(frozen=True)
class Text:
    value: str


@dataclass(frozen=True)
class Name:
    """A query of the same request, in a formula."""

    name: str


@dataclass(frozen=True)
class Operation:
    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Call:
    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True)
class MetricQuery:
    """`modifiers` are names with their arguments, e.g. `("rollup", (Name("max"),))`."""

    aggregator: str
    metric: str
    filters: tuple[str, ...]
    by: tuple[str, ...]
    modifiers: tuple[tuple[str, tuple[Expression, ...]], ...]

    def has(self, modifier: str) -> bool:
        return any(name == modifier for name, _ in self.modifiers)


Expression: TypeAlias = Number | Text | Name | Operation | Call | MetricQuery


@dataclass(frozen=True)
class Window:
    """A span of time, `start` excluded and `end` included, cut into buckets of `interval` seconds."""

    start: float
    end: float
    interval: float

    def bucket_of(self, at: float) -> int | None:
        return math.ceil((at - self.start) / self.interval) - 1 if self.start < at <= self.end else None

    def time_of(self, bucket: int) -> float:
        """The beginning of a bucket, where Datadog draws it."""
        return self.start + bucket * self.interval

    def moved(self, seconds: float) -> Window:
        return Window(self.start + seconds, self.end + seconds, self.interval)


class _Builder(Transformer[Token, Expression]):
    def number(self, items: list[Any]) -> Number:
        return Number(float(items[0]))

    def string(self, items: list[Any]) -> Text:
        return Text(str(items[0])[1:-1])

    def name(self, items: list[Any]) -> Name:
        return Name(str(items[0]))

    def negative(self, items: list[Any]) -> Operation:
        return Operation("minus", Number(0), items[0])

    def plus(self, items: list[Any]) -> Operation:
        return Operation("plus", *items)

    def minus(self, items: list[Any]) -> Operation:
        return Operation("minus", *items)

    def times(self, items: list[Any]) -> Operation:
        return Operation("times", *items)

    def over(self, items: list[Any]) -> Operation:
        return Operation("over", *items)

    def call(self, items: list[Any]) -> Call:
        return Call(str(items[0]), tuple(items[1:]))

    def modifier(self, items: list[Any]) -> tuple[str, tuple[Expression, ...]]:
        return str(items[0]), tuple(item for item in items[1:] if item is not None)

    def metric(self, items: list[Any]) -> MetricQuery:
        head, scope, by, *modifiers = items
        aggregator, _, metric = str(head).partition(":")
        return MetricQuery(aggregator, metric, _listed(scope), _listed(by) if by else (), tuple(modifiers))


def _listed(braces: Token) -> tuple[str, ...]:
    return tuple(part.strip() for part in str(braces)[1:-1].split(","))


_PARSER = Lark(GRAMMAR, parser="earley", maybe_placeholders=True)


@cache
def parse(text: str) -> Expression:
    """The query or formula as a tree. Raises `QueryError`."""
    try:
        expression: Expression = _Builder().transform(_PARSER.parse(text))
    except (UnexpectedInput, VisitError) as error:
        raise QueryError(f"{text!r} is no query that is understood here: {error}") from error
    return expression


def metric_queries(expression: Expression) -> Iterator[MetricQuery]:
    """All queries for a metric in an expression."""
    match expression:
        case MetricQuery():
            yield expression
        case Operation(_, left, right):
            yield from metric_queries(left)
            yield from metric_queries(right)
        case Call(_, arguments):
            for argument in arguments:
                yield from metric_queries(argument)


def names_in(expression: Expression) -> set[str]:
    """The names of queries that a formula uses."""
    match expression:
        case Name(name):
            return {name}
        case Operation(_, left, right):
            return names_in(left) | names_in(right)
        case Call(_, arguments):
            return {name for argument in arguments for name in names_in(argument)}
    return set()


class Evaluation:
    """Answers queries over one window of a recording; `variables` are the values of template variables as filters."""

    def __init__(self, recording: Recording, window: Window, variables: Mapping[str, str] | None = None) -> None:
        self._recording, self.window = recording, window
        self._variables = variables or {}

    def series(self, expression: Expression, queries: Mapping[str, Expression] | None = None) -> Series | float:
        """The values over time by group, or a number. `queries` are what names in a formula stand for."""
        match expression:
            case Number(value):
                return value
            case Name(name):
                if name not in (queries or {}):
                    raise QueryError(f"There is no query called {name}.")
                return self.series((queries or {})[name])
            case Operation(name, left, right):
                return combine(OPERATORS[name], self.series(left, queries), self.series(right, queries))
            case Call(name, (inner, Number(limit))) if name in FUNCTIONS:
                return _apply(FUNCTIONS[name], self.series(inner, queries), limit)
            case MetricQuery():
                return self._answer(expression)
        raise QueryError(f"{expression} is not understood here.")

    def scalars(self, expression: Expression, queries: Mapping[str, tuple[Expression, str]]) -> Scalars | float:
        """One value a group: each query is reduced by its aggregator first, then the formula is taken."""
        match expression:
            case Number(value):
                return value
            case Name(name):
                if name not in queries:
                    raise QueryError(f"There is no query called {name}.")
                query, aggregator = queries[name]
                return reduce(self.series(query), aggregator)
            case Operation(name, left, right):
                found = combine(
                    OPERATORS[name], _as_series(self.scalars(left, queries)), _as_series(self.scalars(right, queries))
                )
                return found if isinstance(found, float) else {group: values[0] for group, values in found.items()}
            case Call(name, (inner, Number(limit))) if name in FUNCTIONS:
                applied = _apply(FUNCTIONS[name], _as_series(self.scalars(inner, queries)), limit)
                return applied if isinstance(applied, float) else {key: value[0] for key, value in applied.items()}
        raise QueryError(f"{expression} is not understood here.")

    def _answer(self, query: MetricQuery) -> Series:
        kind = self._recording.types.get(query.metric)
        method = self._rollup_method(query, kind)
        per_group: dict[Group, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for tags, points in self._recording.of(query.metric):
            if self._passes(query.filters, tags):
                buckets = per_group[group_of(tags, query.by)]
                for bucket, value in self._rolled_up(points, method).items():
                    buckets[bucket].append(value / self.window.interval if query.has("as_rate") else value)
        aggregate = AGGREGATORS[query.aggregator]
        return {
            group: {bucket: aggregate(values) for bucket, values in sorted(buckets.items())}
            for group, buckets in per_group.items()
            if buckets
        }

    def _rollup_method(self, query: MetricQuery, kind: str | None) -> str:
        method = "sum" if kind == "count" else "avg"
        for name, arguments in query.modifiers:
            match name, arguments:
                case "rollup", (Name(given),) if given in AGGREGATORS:
                    method = given
                case (("as_count" | "as_rate"), ()):
                    if kind == "gauge":
                        raise QueryError(f"{query.metric} is a gauge, which {name}() is not for.")
                case _:
                    raise QueryError(f".{name}{arguments} is not understood here.")
        return method

    def _rolled_up(self, points: Sequence[Point], method: str) -> dict[int, float]:
        buckets: dict[int, list[float]] = defaultdict(list)
        for at, value in points:
            if (bucket := self.window.bucket_of(at)) is not None:
                buckets[bucket].append(value)
        return {bucket: AGGREGATORS[method](values) for bucket, values in buckets.items()}

    def _passes(self, filters: Sequence[str], tags: Tags) -> bool:
        for text in filters:
            negated, pattern = text.startswith("!"), text.removeprefix("!")
            if pattern.startswith("$"):
                if pattern[1:] not in self._variables:
                    raise QueryError(f"There is no template variable {pattern}.")
                pattern = self._variables[pattern[1:]]
            # Who asks for a tag of any value gets what has none, too, as for a variable that is not set.
            hit = pattern == "*" or any(fnmatchcase(tag, pattern.lower()) for tag in tags)
            if hit == negated:
                return False
        return True


def group_of(tags: Tags, by: Sequence[str]) -> Group:
    """The values of the tags by which a query groups."""
    values = dict(tag.split(":", 1) for tag in tags if ":" in tag)
    return tuple((key, values.get(key, NO_TAG)) for key in by)


def combine(function: Callable[[float, float], float], left: Series | float, right: Series | float) -> Series | float:
    """Arithmetic on values of the same group and time. Where a side has none, or it divides by zero, there is none."""
    if isinstance(left, float | int):
        if isinstance(right, float | int):
            return function(left, right)
        number = float(left)
        return _each(right, lambda value: function(number, value))
    if isinstance(right, float | int):
        number = float(right)
        return _each(left, lambda value: function(value, number))
    found: Series = {}
    for group in left.keys() & right.keys():
        values: dict[int, float] = {}
        for bucket in sorted(left[group].keys() & right[group].keys()):
            try:
                values[bucket] = function(left[group][bucket], right[group][bucket])
            except ZeroDivisionError:
                continue
        if values:
            found[group] = values
    return found


def _apply(function: Callable[[float, float], float | None], series: Series | float, limit: float) -> Series | float:
    if isinstance(series, float | int):
        raise QueryError("A function is for queries, not for numbers.")
    return _each(series, lambda value: function(value, limit))


def _each(series: Series, function: Callable[[float], float | None]) -> Series:
    found: Series = {}
    for group, values in series.items():
        changed: dict[int, float] = {}
        for bucket, value in values.items():
            try:
                new = function(value)
            except ZeroDivisionError:
                continue
            if new is not None:
                changed[bucket] = new
        if changed:
            found[group] = changed
    return found


def reduce(series: Series | float, aggregator: str) -> Scalars:
    """One value a group, over time."""
    if isinstance(series, float | int):
        raise QueryError("A number is no query.")
    return {group: AGGREGATORS[aggregator](list(values.values())) for group, values in series.items()}


def _as_series(scalars: Scalars | float) -> Series | float:
    return scalars if isinstance(scalars, float | int) else {group: {0: value} for group, value in scalars.items()}
