"""For how long zeros follow a tag set that has no value any more."""

from __future__ import annotations

import base64
import json
import zlib
from contextlib import suppress
from typing import Any

import pytest

from datadog_checks.prefect.output import submitter
from datadog_checks.prefect.output.metrics import BY_NAME, Metric
from datadog_checks.prefect.output.submitter import VanishedTagSets
from datadog_checks.prefect.tags import Tags

RUNNING = BY_NAME["flow_runs.running"]
PENDING = BY_NAME["flow_runs.pending"]
COMPLETED = BY_NAME["flow_runs.completed.count"]
FAILED = BY_NAME["flow_runs.failed.count"]
TASK_RUNNING = BY_NAME["task_runs.running"]
TASK_FAILED = BY_NAME["task_runs.failed.count"]
POOL_READY = BY_NAME["work_pool.is_ready"]
A: Tags = ("flow_name:a",)
B: Tags = ("flow_name:b",)


def zeros(memory: VanishedTagSets, metrics: list[Metric], seen: set[tuple[Metric, Tags]], now: float) -> object:
    by_name: dict[str, set[Tags]] = {}
    for metric, tags in seen:
        by_name.setdefault(metric.name, set()).add(tags)
    return sorted((metric.name, tags) for metric, tags in memory.zeros(metrics, by_name, now))


def packed(entries: Any) -> dict[str, str]:
    return stored(base64.b64encode(zlib.compress(json.dumps(entries).encode())).decode())


def stored(text: Any) -> dict[str, Any]:
    return {"flow_runs.running": text}


def test_a_gauge_that_vanished_is_zero_for_one_hour_and_then_no_more() -> None:
    memory = VanishedTagSets()
    assert zeros(memory, [RUNNING], {(RUNNING, A)}, now=1000) == []
    assert zeros(memory, [RUNNING], set(), now=1015) == [("flow_runs.running", A)]
    assert zeros(memory, [RUNNING], set(), now=4600) == [("flow_runs.running", A)]
    assert zeros(memory, [RUNNING], set(), now=4600.5) == []
    assert zeros(memory, [RUNNING], set(), now=4000) == []


def test_the_hour_begins_anew_with_each_value() -> None:
    memory = VanishedTagSets()
    zeros(memory, [RUNNING], {(RUNNING, A)}, now=1000)
    zeros(memory, [RUNNING], {(RUNNING, A)}, now=4000)
    assert zeros(memory, [RUNNING], set(), now=7600) == [("flow_runs.running", A)]


def test_only_tag_sets_that_have_no_value_now_get_a_zero() -> None:
    memory = VanishedTagSets()
    zeros(memory, [RUNNING], {(RUNNING, A), (RUNNING, B)}, now=1000)
    assert zeros(memory, [RUNNING], {(RUNNING, B)}, now=1015) == [("flow_runs.running", A)]


def test_where_runs_are_or_were_running_none_are_pending() -> None:
    memory = VanishedTagSets()
    assert zeros(memory, [RUNNING, PENDING], {(RUNNING, A)}, now=1000) == [("flow_runs.pending", A)]
    later = zeros(memory, [RUNNING, PENDING], set(), now=1015)
    assert later == [("flow_runs.pending", A), ("flow_runs.running", A)]


def test_state_gauges_of_flow_runs_and_of_task_runs_do_not_share_their_tag_sets() -> None:
    memory = VanishedTagSets()
    assert zeros(memory, [RUNNING, TASK_RUNNING], {(RUNNING, A)}, now=1000) == []
    assert zeros(memory, [TASK_RUNNING], set(), now=1015) == []


def test_what_an_earlier_version_remembered_of_each_gauge_is_kept() -> None:
    memory = VanishedTagSets()
    memory._last_seen = {"flow_runs.running": {A: 1000.0}, "flow_runs.pending": {B: 1000.0}}
    restored = VanishedTagSets.restored(memory.document())
    assert zeros(restored, [RUNNING], set(), now=1015) == [("flow_runs.running", A), ("flow_runs.running", B)]


def test_where_runs_completed_none_failed() -> None:
    memory = VanishedTagSets()
    at_once = zeros(memory, [COMPLETED, FAILED], {(COMPLETED, A)}, now=1000)
    assert at_once == [("flow_runs.failed.count", A)]
    later = zeros(memory, [COMPLETED, FAILED], set(), now=1015)
    assert later == [("flow_runs.completed.count", A), ("flow_runs.failed.count", A)]


def test_counts_of_flow_runs_and_of_task_runs_do_not_share_their_tag_sets() -> None:
    memory = VanishedTagSets()
    assert zeros(memory, [FAILED, TASK_FAILED], {(FAILED, A)}, now=1000) == []
    assert zeros(memory, [TASK_FAILED], set(), now=1015) == []


def test_metrics_that_were_not_collected_get_no_zeros() -> None:
    memory = VanishedTagSets()
    zeros(memory, [RUNNING, POOL_READY], {(RUNNING, A)}, now=1000)
    assert zeros(memory, [PENDING], set(), now=1015) == [("flow_runs.pending", A)]
    assert zeros(memory, [RUNNING], set(), now=1030) == [("flow_runs.running", A)]


def test_a_gauge_that_describes_an_object_stops_with_it() -> None:
    memory = VanishedTagSets()
    zeros(memory, [POOL_READY], {(POOL_READY, A)}, now=1000)
    assert zeros(memory, [POOL_READY], set(), now=1015) == []


def test_what_is_remembered_survives_a_restart() -> None:
    memory = VanishedTagSets()
    zeros(memory, [RUNNING, COMPLETED], {(RUNNING, A), (COMPLETED, B), (RUNNING, ())}, now=1000.5)
    document = json.loads(json.dumps(memory.document()))
    again = VanishedTagSets.restored(document)
    assert zeros(again, [RUNNING, COMPLETED], set(), now=4600) == [
        ("flow_runs.completed.count", B),
        ("flow_runs.running", ()),
        ("flow_runs.running", A),
    ]
    assert zeros(again, [RUNNING, COMPLETED], set(), now=4601) == []


def test_what_is_stored_is_renewed_at_once_where_tag_sets_come_or_go_and_else_once_a_minute() -> None:
    memory = VanishedTagSets()
    zeros(memory, [RUNNING], {(RUNNING, A)}, now=1000)
    first = memory.document()
    zeros(memory, [RUNNING], {(RUNNING, A)}, now=1015)
    assert memory.document() == first
    zeros(memory, [RUNNING], {(RUNNING, A), (RUNNING, B)}, now=1030)
    second = memory.document()
    assert second != first
    zeros(memory, [RUNNING], {(RUNNING, A), (RUNNING, B)}, now=1089)
    assert memory.document() == second
    zeros(memory, [RUNNING], {(RUNNING, A), (RUNNING, B)}, now=1090)
    assert memory.document() != second


def test_an_empty_memory_survives_a_restart() -> None:
    again = VanishedTagSets.restored(VanishedTagSets().document())
    assert zeros(again, [RUNNING], set(), now=1000) == []


@pytest.mark.parametrize(
    "document",
    [
        stored(None),
        stored(5),
        stored("%%%"),
        stored("ü"),
        stored("YWJj"),
        stored(packed([])["flow_runs.running"][:-8]),
        stored(base64.b64encode(zlib.compress(b"not JSON")).decode()),
        packed(None),
        packed(5),
        packed([5]),
        packed([[]]),
        packed([["soon", "flow_name:a"]]),
        packed([[None, "flow_name:a"]]),
    ],
)
def test_a_damaged_document_is_a_value_error(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        VanishedTagSets.restored(document)


@pytest.mark.parametrize("at", [float("inf"), float("nan"), 1e300])
def test_a_damaged_time_does_not_make_zeros_for_ever(at: float) -> None:
    memory = VanishedTagSets()
    with suppress(ValueError):
        memory = VanishedTagSets.restored(packed([[at, "flow_name:a"]]))
    assert zeros(memory, [RUNNING], set(), now=1000) == []


def test_no_more_than_so_many_tag_sets_are_remembered_the_latest_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitter, "MOST_TAG_SETS", 3)
    memory = VanishedTagSets()
    for number in range(10):
        zeros(memory, [RUNNING], {(RUNNING, (f"flow_name:{number}",))}, now=1000 + number)
    assert zeros(memory, [RUNNING], set(), now=1015) == [
        ("flow_runs.running", (f"flow_name:{number}",)) for number in (7, 8, 9)
    ]
