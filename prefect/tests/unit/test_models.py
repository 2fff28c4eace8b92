"""How answers are parsed, and how little is lost when they are not as they should be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datadog_checks.prefect.api.answers import read_event_page, read_objects
from datadog_checks.prefect.api.models import (
    Deployment,
    Event,
    FlowRun,
    Oddities,
    State,
    TaskRun,
    WorkPool,
    WorkQueue,
    utc_text,
)

from .builders import T0, after

ARBITRARY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
# Fields that the models know, with anything in them.
NEARLY_AN_OBJECT = st.dictionaries(
    st.sampled_from(["id", "event", "occurred", "resource", "related", "payload", "type", "timestamp", "state"]),
    ARBITRARY_JSON,
    max_size=5,
)


def event(**changes: Any) -> dict[str, Any]:
    """An event as the server sends it; a change to `...` takes a field out."""
    whole = {
        "id": "e1",
        "event": "prefect.task-run.Running",
        "occurred": "2026-03-14T09:00:00Z",
        "resource": {"prefect.resource.id": "prefect.task-run.t1", "prefect.state-type": "RUNNING"},
        "related": [{"prefect.resource.id": "prefect.flow-run.f1", "prefect.resource.role": "flow-run"}],
        "payload": {
            "intended": {"from": "PENDING", "to": "RUNNING"},
            "initial_state": {"type": "PENDING", "name": "Pending"},
            "task_run": {"task_key": "load-8c2f0a1b", "total_run_time": 1.5},
        },
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def read_events(*events: object) -> tuple[list[Event], str]:
    oddities = Oddities()
    body = json.dumps({"events": events, "total": len(events), "next_page": None}).encode()
    return read_event_page(body, oddities).events, str(oddities)


def test_what_is_as_it_should_be_is_read_without_a_word() -> None:
    oddities = Oddities()
    body = b'[{"id": "a", "name": "etl", "status": "READY", "type": "process", "unheard_of": {"x": 1}}]'
    pools, size = read_objects(WorkPool, body, oddities)
    assert pools == [WorkPool(id="a", name="etl", status="READY", type="process")]
    assert size == 1
    assert not oddities
    assert str(oddities) == ""


def test_a_field_that_does_not_parse_is_lost_alone_and_told_of_once_for_all_objects() -> None:
    oddities = Oddities()
    body = json.dumps(
        [
            {"id": "a", "name": "one", "priority": "first", "status": "READY"},
            {"id": "b", "name": "two", "priority": 2, "status": "READY", "last_polled": "yesterday"},
            {"id": "c", "name": "three", "priority": {}, "status": "READY"},
        ]
    ).encode()
    queues, size = read_objects(WorkQueue, body, oddities)
    assert [(queue.id, queue.name, queue.priority, queue.last_polled) for queue in queues] == [
        ("a", "one", None, None),
        ("b", "two", 2, None),
        ("c", "three", None, None),
    ]
    assert size == 3
    assert str(oddities) == "WorkQueue.last_polled (1), WorkQueue.priority (2)"


def test_an_unknown_status_costs_the_status_alone() -> None:
    oddities = Oddities()
    [deployment], _ = read_objects(Deployment, b'[{"id": "a", "name": "d", "status": "SLEEPY"}]', oddities)
    assert (deployment.name, deployment.status) == ("d", None)
    assert "Deployment.status" in str(oddities)


@pytest.mark.parametrize("fields", ['"name": "d"', '"name": "d", "status": null'])
def test_an_essential_field_that_is_absent_or_null_is_told_of(fields: str) -> None:
    oddities = Oddities()
    [deployment], _ = read_objects(Deployment, f'[{{"id": "a", {fields}}}]'.encode(), oddities)
    assert deployment.status is None
    assert str(oddities) == "Deployment.status (1)"


def test_a_field_that_is_not_essential_may_be_absent_without_a_word() -> None:
    oddities = Oddities()
    [run], _ = read_objects(FlowRun, b'[{"id": "a", "state_type": "RUNNING", "start_time": null}]', oddities)
    assert (run.start_time, run.deployment_id) == (None, None)
    assert not oddities


def test_an_object_without_identity_is_dropped_and_the_others_stay() -> None:
    oddities = Oddities()
    body = b'[{"name": "lost"}, {"id": null, "name": "lost"}, {"id": 7}, 5, null, {"id": "a", "state_type": "PAUSED"}]'
    runs, size = read_objects(FlowRun, body, oddities)
    assert [run.id for run in runs] == ["a"]
    assert size == 6
    assert sum(int(part.split("(")[1].rstrip(")")) for part in str(oddities).split(", ")) >= 5


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b'[{"id": "a"', b'{"id": "a"}', b"null", b'"text"', b"17", b"<html></html>", b"\xff\xfe\xfd", b"[1,]"],
)
def test_a_body_that_is_no_array_of_json_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_objects(FlowRun, body, Oddities())


def test_a_body_that_is_nested_too_deeply_is_refused_as_the_client_expects_it() -> None:
    for body in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000):
        with pytest.raises((ValueError, RecursionError)):
            read_objects(TaskRun, body, Oddities())


def test_an_object_that_is_nested_just_as_deeply_as_can_be_read_costs_no_other() -> None:
    for depth in range(100, 1000):
        body = b'[{"id": "a"}, {"id": "b", "tags": ' + b"[" * depth + b"]" * depth + b"}]"
        try:
            objects, size = read_objects(TaskRun, body, Oddities())
        except RecursionError:
            break
        assert [run.id for run in objects][:1] == ["a"], depth
        assert size == 2


def test_an_empty_array_holds_nothing() -> None:
    assert read_objects(TaskRun, b"[]", Oddities()) == ([], 0)


def test_times_without_a_zone_are_not_taken_for_any_time() -> None:
    oddities = Oddities()
    body = b'[{"id": "a", "state_type": "PENDING", "end_time": "2026-03-14T09:00:00"}]'
    [run], _ = read_objects(TaskRun, body, oddities)
    assert run.end_time is None
    assert str(oddities) == "TaskRun.end_time (1)"


def test_a_state_without_its_time_is_dropped_from_a_history() -> None:
    oddities = Oddities()
    body = b'[{"id": "a", "type": "RUNNING"}, {"id": "b", "type": "PENDING", "timestamp": "2026-03-14T09:00:00Z"}]'
    states, _ = read_objects(State, body, oddities)
    assert [state.id for state in states] == ["b"]
    assert str(oddities) == "State.identity (1)"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_time_span_that_is_no_number_of_seconds_is_absent(number: str) -> None:
    oddities = Oddities()
    [run], _ = read_objects(
        FlowRun, b'[{"id": "a", "state_type": "FAILED", "total_run_time": %b}]' % number.encode(), oddities
    )
    assert run.total_run_time is None
    assert str(oddities) == "FlowRun.total_run_time (1)"


@pytest.mark.parametrize("limit", ["9" * 20, "9" * 400, "-" + "9" * 400])
def test_a_limit_with_which_nothing_can_be_calculated_is_absent(limit: str) -> None:
    body = b'[{"id": "a", "name": "b", "status": "READY", "concurrency_limit": %b}]' % limit.encode()
    oddities = Oddities()
    [queue], _ = read_objects(WorkQueue, body, oddities)
    assert queue.concurrency_limit is None
    assert str(oddities) == "WorkQueue.concurrency_limit (1)"


def test_any_number_of_odd_fields_with_names_of_any_length_makes_a_warning_that_can_be_read() -> None:
    oddities = Oddities()
    for number in range(5000):
        oddities.note(Event, f"resource.{number:04}.{'x' * 1000}", "an id")
    assert len(str(oddities)) < 4000
    assert str(oddities).endswith(", other.fields (4970)")


def test_an_event_is_read_with_its_payload() -> None:
    [read], oddities = read_events(event())
    assert read.occurred == T0
    assert read.payload is not None
    assert read.payload.task_run is not None
    assert read.payload.task_run.total_run_time == 1.5
    assert oddities == ""


def test_an_unknown_value_deep_inside_a_payload_costs_that_field_alone() -> None:
    payload = {
        "intended": {"from": "PENDING", "to": ["RUNNING"]},
        "initial_state": {"type": "DREAMING", "name": "Asleep"},
        "task_run": {"task_key": "load-8c2f0a1b", "total_run_time": "long", "task_inputs": {"x": [{"id": 5}]}},
    }
    [read], oddities = read_events(event(payload=payload))
    assert read.payload is not None
    assert read.payload.initial_state is not None
    assert read.payload.task_run is not None
    assert read.payload.intended == {"from": "PENDING"}
    assert (read.payload.initial_state.type, read.payload.initial_state.name) == (None, "Asleep")
    assert (read.payload.task_run.task_key, read.payload.task_run.total_run_time) == ("load-8c2f0a1b", None)
    assert [source.id for source in read.payload.task_run.task_inputs["x"]] == [None]
    assert oddities == (
        "Event.payload.initial_state.type (1), Event.payload.intended.to (1), "
        "Event.payload.task_run.task_inputs (1), Event.payload.task_run.total_run_time (1)"
    )


@pytest.mark.parametrize("field", ["resource", "related", "payload"])
@pytest.mark.parametrize("value", [None, "text", 5])
def test_a_part_of_an_event_that_is_null_or_something_else_is_as_absent(field: str, value: object) -> None:
    [read], _ = read_events(event(**{field: value}))
    [without], _ = read_events(event(**{field: ...}))
    assert read == without


def test_bad_items_of_a_list_are_taken_out_of_it_and_the_good_ones_stay() -> None:
    resources: list[Any] = [{"prefect.resource.id": f"prefect.tag.{number}"} for number in range(12)]
    resources[2] = "not a resource"
    resources[10] = 7
    [read], oddities = read_events(event(related=resources))
    assert [resource["prefect.resource.id"] for resource in read.related] == [
        f"prefect.tag.{number}" for number in range(12) if number not in (2, 10)
    ]
    assert oddities == "Event.related (2)"


@pytest.mark.parametrize(
    "changes", [{"id": ...}, {"id": None}, {"event": ...}, {"occurred": ...}, {"occurred": "soon"}, {"occurred": None}]
)
def test_an_event_without_identity_or_time_is_dropped_and_the_others_stay(changes: dict[str, Any]) -> None:
    events, oddities = read_events(event(**changes), event(id="e2"))
    assert [read.id for read in events] == ["e2"]
    assert oddities


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"events": null, "total": 1}',
        b'{"events": [], "total": "many"}',
        b'{"events": []}',
        b'{"',
    ],
)
def test_what_is_no_page_of_events_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_event_page(body, Oddities())


def test_a_next_page_that_is_no_text_is_none() -> None:
    page = read_event_page(b'{"events": [], "total": 3, "next_page": 5}', Oddities())
    assert (page.events, page.total, page.next_page) == ([], 3, None)


def test_a_time_is_written_as_the_servers_filters_take_it() -> None:
    assert utc_text(T0) == "2026-03-14T09:00:00Z"
    assert utc_text(after(0.000001)) == "2026-03-14T09:00:00.000001Z"


@given(ARBITRARY_JSON | st.lists(NEARLY_AN_OBJECT, max_size=4))
def test_arbitrary_json_gives_objects_or_a_value_error(value: object) -> None:
    body = json.dumps(value).encode()
    for model in (FlowRun, State, Event):
        if isinstance(value, list):
            objects, size = read_objects(model, body, Oddities())
            assert size == len(value)
            assert len(objects) <= size
        else:
            with pytest.raises(ValueError, match=r"."):
                read_objects(model, body, Oddities())


@given(st.lists(NEARLY_AN_OBJECT | ARBITRARY_JSON, max_size=4), st.integers(0, 99), ARBITRARY_JSON)
def test_a_page_of_arbitrary_events_keeps_its_total(events: list[object], total: int, next_page: object) -> None:
    body = json.dumps({"events": events, "total": total, "next_page": next_page}).encode()
    page = read_event_page(body, Oddities())
    assert page.total == total
    assert len(page.events) <= len(events)


@given(st.binary(max_size=40))
def test_arbitrary_bytes_give_a_page_of_events_only_where_they_are_one(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_event_page(body, Oddities())
