"""Metric queries and formulas give the values that Datadog's documentation defines."""

from __future__ import annotations

import pytest

from lab.datadog.queries import Evaluation, QueryError, Scalars, Series, Window, parse
from lab.datadog.series import Point, Recording

SIZE, DONE, FAILED = "prefect.server.size", "prefect.server.done", "prefect.server.failed"
INTERVAL = 10.0
A, B = (("queue", "a"),), (("queue", "b"),)


def recording(types: dict[str, str], *series: tuple[str, str, list[Point]]) -> Recording:
    found = Recording(INTERVAL, types=types)
    for name, tags, points in series:
        found.points[name, frozenset(tags.split())] += points
    return found


QUEUES = recording(
    {SIZE: "gauge", DONE: "count", FAILED: "count"},
    (SIZE, "queue:a pool:p host:h", [(10, 1.0), (20, 3.0)]),
    (SIZE, "queue:b pool:p host:h", [(10, 5.0), (20, 7.0)]),
    (DONE, "queue:a pool:p host:h", [(10, 10.0), (20, 0.0)]),
    (DONE, "queue:b pool:p host:h", [(10, 20.0), (20, 30.0)]),
    (FAILED, "queue:a pool:p host:h", [(10, 10.0), (20, 0.0)]),
)


def series(text: str, interval: float = INTERVAL, **variables: str) -> Series:
    found = Evaluation(QUEUES, Window(0, 20, interval), variables).series(parse(text))
    assert isinstance(found, dict)
    return found


def scalars(formula: str, aggregator: str, **queries: str) -> Scalars:
    parsed = {name: (parse(text), aggregator) for name, text in queries.items()}
    found = Evaluation(QUEUES, Window(0, 20, INTERVAL)).scalars(parse(formula), parsed)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("aggregator", "values"), [("sum", [6, 10]), ("avg", [3, 5]), ("min", [1, 3]), ("max", [5, 7])]
)
def test_series_without_a_group_are_aggregated_at_each_time(aggregator: str, values: list[float]) -> None:
    assert series(f"{aggregator}:{SIZE}{{*}}") == {(): dict(enumerate(values))}


def test_series_are_grouped_by_tags() -> None:
    assert series(f"sum:{SIZE}{{*}} by {{queue}}") == {A: {0: 1, 1: 3}, B: {0: 5, 1: 7}}


def test_a_group_by_a_tag_that_is_not_there_is_called_so() -> None:
    assert series(f"sum:{SIZE}{{*}} by {{flow}}") == {(("flow", "N/A"),): {0: 6, 1: 10}}


@pytest.mark.parametrize("scope", ["queue:a", "!queue:b", "queue:A", "pool:p,queue:a", "queue:?"])
def test_filters_select_series_by_their_tags(scope: str) -> None:
    selected = {A, B} if "?" in scope else {A}
    assert set(series(f"sum:{SIZE}{{{scope}}} by {{queue}}")) == selected


def test_a_template_variable_filters_by_its_value_and_not_at_all_by_a_star() -> None:
    assert set(series(f"sum:{SIZE}{{$queue}} by {{queue}}", queue="queue:b")) == {B}
    assert set(series(f"sum:{SIZE}{{$queue}} by {{queue}}", queue="*")) == {A, B}


def test_a_template_variable_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(QueryError, match="no template variable"):
        series(f"sum:{SIZE}{{$nothing}}")


def test_what_no_series_has_gives_nothing() -> None:
    assert series(f"sum:{SIZE}{{queue:c}}") == {}


def test_gauges_are_averaged_over_a_longer_bucket_and_counts_summed_up() -> None:
    assert series(f"sum:{SIZE}{{*}} by {{queue}}", interval=20) == {A: {0: 2}, B: {0: 6}}
    assert series(f"sum:{DONE}{{*}} by {{queue}}.as_count()", interval=20) == {A: {0: 10}, B: {0: 50}}


def test_a_rollup_chooses_how_a_bucket_is_aggregated() -> None:
    assert series(f"sum:{SIZE}{{*}} by {{queue}}.rollup(max)", interval=20) == {A: {0: 3}, B: {0: 7}}


def test_a_rate_is_a_count_for_each_second() -> None:
    assert series(f"sum:{DONE}{{*}}.as_rate()") == {(): {0: 3, 1: 3}}


def test_a_gauge_cannot_be_a_count() -> None:
    with pytest.raises(QueryError, match="is a gauge"):
        series(f"sum:{SIZE}{{*}}.as_count()")


def test_arithmetic_takes_values_of_the_same_group_and_time() -> None:
    assert series(f"sum:{DONE}{{*}} by {{queue}}.as_count() - sum:{FAILED}{{*}} by {{queue}}.as_count()") == {
        A: {0: 0, 1: 0}
    }


def test_multiplication_comes_before_addition_and_brackets_before_both() -> None:
    assert series(f"2 + 3 * sum:{SIZE}{{queue:a}}") == {(): {0: 5, 1: 11}}
    assert series(f"(2 + 3) * sum:{SIZE}{{queue:a}}") == {(): {0: 5, 1: 15}}
    assert series(f"-sum:{SIZE}{{queue:a}} - 1 - 1") == {(): {0: -3, 1: -5}}


def test_a_division_by_zero_has_no_value() -> None:
    assert series(f"sum:{FAILED}{{queue:a}}.as_count() / sum:{DONE}{{queue:a}}.as_count()") == {(): {0: 1}}


def test_functions_bound_values_or_take_them_away() -> None:
    assert series(f"clamp_max(sum:{SIZE}{{queue:a}}, 2)") == {(): {0: 1, 1: 2}}
    assert series(f"clamp_min(sum:{SIZE}{{queue:a}}, 2)") == {(): {0: 2, 1: 3}}
    assert series(f"cutoff_max(sum:{SIZE}{{queue:a}}, 2)") == {(): {0: 1}}
    assert series(f"cutoff_min(sum:{SIZE}{{queue:a}}, 2)") == {(): {1: 3}}


def test_for_one_value_queries_are_reduced_before_the_formula_is_taken() -> None:
    failed, done = f"sum:{FAILED}{{*}}.as_count()", f"sum:{DONE}{{*}}.as_count()"
    assert scalars("100 * a / b", "sum", a=failed, b=done) == {(): 100 * 10 / 60}


def test_the_last_value_is_that_of_the_last_bucket() -> None:
    assert scalars("a", "last", a=f"sum:{SIZE}{{*}} by {{queue}}") == {A: 3, B: 7}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sum:prefect.server.size",
        "median:prefect.server.size{*}",
        "sum:prefect.server.size{*} by queue",
        "sum:prefect.server.size{*} +",
        "sum:prefect.server.size{*} | 1",
    ],
)
def test_what_is_no_query_is_an_error(text: str) -> None:
    with pytest.raises(QueryError, match="no query"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [f"anomalies(sum:{SIZE}{{*}}, 2)", f"sum:{SIZE}{{*}}.fill(zero)", f"sum:{SIZE}{{*}}.rollup(p95)", "other + 1"],
)
def test_what_is_not_understood_is_an_error_and_not_left_out(text: str) -> None:
    with pytest.raises(QueryError):
        series(text)
