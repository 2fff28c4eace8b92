"""Which names include and exclude lists take."""

from __future__ import annotations

import re

import pytest

from datadog_checks.prefect.config.filters import NameFilter


@pytest.mark.parametrize(
    ("include", "exclude", "name", "taken"),
    [
        (None, None, "anything", True),
        ([], [], "anything", True),
        (["etl"], None, "etl", True),
        (["etl"], None, "nightly-etl-eu", True),
        (["^etl$"], None, "nightly-etl-eu", False),
        (["etl"], None, "ETL", False),
        (["(?i)etl"], None, "ETL", True),
        (["etl", "ml"], None, "ml-train", True),
        (None, ["tmp"], "tmp-1", False),
        (None, ["tmp"], "etl", True),
        ([], ["tmp"], "etl", True),
        (["etl"], ["tmp"], "etl-tmp", False),
        (["etl"], ["tmp"], "etl", True),
        (["etl"], ["etl"], "etl", False),
        (["ü$"], None, "etl pool ü", True),
        ([""], None, "", True),
        (["."], None, "", False),
    ],
)
def test_a_name_is_taken_when_a_pattern_to_include_is_found_in_it_and_none_to_exclude(
    include: list[str] | None, exclude: list[str] | None, name: str, taken: bool
) -> None:
    assert NameFilter.of(include, exclude).takes(name) is taken


@pytest.mark.parametrize(("include", "taken"), [(None, True), ([], True), ([".*"], False)])
def test_a_name_that_is_not_known_is_taken_only_where_none_has_to_be_included(
    include: list[str] | None, taken: bool
) -> None:
    assert NameFilter.of(include, [".*"]).takes(None) is taken


def test_a_filter_made_of_nothing_takes_all() -> None:
    assert NameFilter().takes("anything")


def test_a_pattern_that_does_not_compile_is_an_error() -> None:
    with pytest.raises(re.error):
        NameFilter.of(["("], None)


def test_patterns_are_told_in_an_order_of_their_own() -> None:
    assert NameFilter.of(["b", "a"], ["d", "c"]).patterns() == [["a", "b"], ["c", "d"]]
    assert NameFilter.of([], None).patterns() == [None, []]
