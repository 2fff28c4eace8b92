"""Documents in the Agent's persistent cache."""

from __future__ import annotations

import json

import pytest

from datadog_checks.prefect.state_store import FORMAT, StateStore


def store_over(cache: dict[str, str], warnings: list[str] | None = None) -> StateStore:
    told: list[str] = [] if warnings is None else warnings
    return StateStore(lambda name: cache.get(name, ""), cache.__setitem__, told.append)


def test_a_document_that_was_saved_is_loaded_by_its_name() -> None:
    cache: dict[str, str] = {}
    store_over(cache).save("flow_runs", {"seen": {"1": "ü"}, "start": None})
    store_over(cache).save("task_runs", {})
    assert store_over(cache).load("flow_runs") == {"seen": {"1": "ü"}, "start": None}
    assert store_over(cache).load("task_runs") == {}


def test_where_nothing_is_stored_there_is_no_document() -> None:
    assert store_over({}).load("flow_runs") is None


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        '{"format": 1, "data": {"a"',
        "null",
        "[]",
        "17",
        "{}",
        '{"data": {}}',
        f'{{"format": {FORMAT}}}',
        f'{{"format": {FORMAT}, "data": []}}',
        f'{{"format": {FORMAT}, "data": null}}',
        f'{{"format": {FORMAT - 1}, "data": {{}}}}',
        f'{{"format": {FORMAT + 1}, "data": {{}}}}',
        f'{{"format": "{FORMAT}", "data": {{}}}}',
        '{"format": null, "data": {}}',
    ],
)
def test_a_text_that_is_damaged_or_of_another_format_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        store_over({"flow_runs": text}).load("flow_runs")


def test_loading_and_saving_touch_no_other_document() -> None:
    cache = {"task_runs": "not JSON"}
    store = store_over(cache)
    store.save("flow_runs", {"a": 1})
    assert cache == {"task_runs": "not JSON", "flow_runs": json.dumps({"format": 1, "data": {"a": 1}}).replace(" ", "")}


def test_what_cannot_be_read_is_told_by_its_name() -> None:
    warnings: list[str] = []
    store_over({}, warnings).report_unreadable("flow_runs")
    assert warnings == ["the stored state of flow_runs cannot be read: counting starts one collection interval ago"]
