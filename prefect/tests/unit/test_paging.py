"""Whole sets read page by page, while objects come and go, whatever page size the server allows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import pytest

from datadog_checks.prefect.api.errors import ApiError, Rejected, RequestFailed
from datadog_checks.prefect.api.models import FlowRun, TaskRun, WorkPool
from datadog_checks.prefect.api.paging import Order, Pager

from .builders import after
from .fake_server import InCheckRuns

Row = dict[str, Any]
REFUSALS = {
    "with the number": "Invalid limit: must be less than or equal to {most}.",
    "without the number": "the limit is too large",
}


class Table(InCheckRuns):
    """A `/…/filter` endpoint over rows, with Prefect's filters by id and time, and a page limit."""

    def __init__(self, rows: list[Row], most: int = 200, refusal: str = "with the number") -> None:
        self.rows = rows
        self.bodies: list[Mapping[str, Any]] = []
        self.before_answer: Callable[[int], None] = lambda number: None
        self._most = most
        self._refusal = REFUSALS[refusal].format(most=most)

    def post(self, path: str, parse: Callable[[bytes], Any], body: Mapping[str, Any]) -> Any:
        self.bodies.append(body)
        if body["limit"] > self._most:
            raise Rejected(f"POST {path}", 422, self._refusal)
        self.before_answer(len(self.bodies))
        rows = [row for row in self.rows if self._matches(row, body)]
        if "sort" in body:
            rows.sort(key=lambda row: str(row["expected_start_time"]))
        offset = body.get("offset", 0)
        return parse(json.dumps(rows[offset : offset + body["limit"]]).encode())

    @staticmethod
    def _matches(row: Row, body: Mapping[str, Any]) -> bool:
        [criteria] = [value for key, value in body.items() if key in ("flow_runs", "task_runs")] or [{}]
        ids = criteria.get("id", {})
        after_ = criteria.get("expected_start_time", {}).get("after_")
        return (
            row.get("id") not in ids.get("not_any_", [])
            and ("any_" not in ids or row.get("id") in ids["any_"])
            and (after_ is None or datetime.fromisoformat(row["expected_start_time"]) >= datetime.fromisoformat(after_))
        )

    @property
    def answered(self) -> list[Mapping[str, Any]]:
        return [body for body in self.bodies if body["limit"] <= self._most]


def pools(number: int) -> list[Row]:
    return [{"id": f"p{index:03}", "name": f"pool {index}", "status": "READY"} for index in range(number)]


def runs(*seconds: float) -> list[Row]:
    return [
        {"id": run_id(index), "state_type": "SCHEDULED", "expected_start_time": after(second).isoformat()}
        for index, second in enumerate(seconds)
    ]


def run_id(number: int) -> str:
    return str(uuid.UUID(int=number))


def pager(table: Table) -> Pager:
    return Pager(table)  # type: ignore[arg-type]


def read_pools(table: Table) -> list[str]:
    return [pool.id for pool in pager(table).by_offset(WorkPool, "/work_pools/filter", {})]


def read_by_time(table: Table, model: type[Any] = FlowRun, kind: str = "flow_runs") -> list[str]:
    order: Order[Any] = Order("EXPECTED_START_TIME_ASC", "expected_start_time", lambda run: run.expected_start_time)
    pages = pager(table).by_time(model, f"/{kind}/filter", kind, {"state": {}}, order, excludes_ids=model is FlowRun)
    return [run.id for page in pages for run in page]


def ids(rows: list[Row]) -> list[str]:
    return [row["id"] for row in rows]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("most", [1, 2, 3, 7, 50, 120, 200, 500])
def test_all_objects_are_read_once_whatever_page_size_the_server_allows(most: int, refusal: str) -> None:
    table = Table(pools(120), most, refusal)
    assert read_pools(table) == ids(table.rows)


@pytest.mark.parametrize(("refusal", "refused"), [("with the number", 1), ("without the number", 2)])
def test_the_page_size_that_a_refusal_teaches_is_kept(refusal: str, refused: int) -> None:
    table = Table(pools(60), 50, refusal)
    reader = pager(table)
    for _ in range(2):
        assert len(reader.by_offset(WorkPool, "/work_pools/filter", {})) == 60
    assert len(table.bodies) - len(table.answered) == refused
    assert {body["limit"] for body in table.answered} == {50}


@pytest.mark.parametrize(
    "refusal",
    [
        Rejected("POST /x", 422, "name: field required"),
        Rejected("POST /x", 404, "no limit here"),
        Rejected("POST /x", 500, ""),
    ],
    ids=["422 about something else", "404", "500"],
)
def test_a_refusal_about_something_else_is_passed_on(refusal: Rejected) -> None:
    table = Table(pools(3))

    def refuse(_: int) -> None:
        raise refusal

    table.before_answer = refuse
    with pytest.raises(Rejected) as raised:
        read_pools(table)
    assert raised.value is refusal
    # Of a server that fails, it is found out whether it does so for everything.
    assert len(table.bodies) == (2 if refusal.status == 500 else 1)


def test_a_server_that_allows_no_page_at_all_is_not_asked_for_ever() -> None:
    table = Table(pools(3), most=0, refusal="without the number")
    with pytest.raises(ApiError):
        read_pools(table)
    assert len(table.bodies) < 20


@pytest.mark.parametrize(("number", "requests"), [(0, 1), (1, 1), (199, 1), (200, 2), (201, 2)])
def test_a_walk_ends_with_the_first_page_that_is_not_full(number: int, requests: int) -> None:
    table = Table(pools(number))
    assert read_pools(table) == ids(table.rows)
    assert len(table.bodies) == requests


def test_pages_by_offset_overlap_by_one_object() -> None:
    table = Table(pools(9), most=4)
    assert read_pools(table) == ids(table.rows)
    assert [body["offset"] for body in table.answered] == [0, 3, 6]


def test_a_walk_starts_again_when_an_object_before_it_is_gone() -> None:
    table = Table(pools(9), most=4)

    def delete_the_first(number: int) -> None:
        if number == 3:  # after the refusal and the first page
            del table.rows[0]

    table.before_answer = delete_the_first
    assert read_pools(table) == ids(pools(9))[1:]


def test_an_object_that_appears_before_the_walk_makes_it_neither_skip_nor_repeat() -> None:
    table = Table(pools(9), most=4)

    def insert_a_first(number: int) -> None:
        if number == 3:
            table.rows.insert(0, {"id": "new", "name": "new", "status": "READY"})

    table.before_answer = insert_a_first
    found = read_pools(table)
    assert [pool for pool in found if pool != "new"] == ids(pools(9))


def test_a_set_that_changes_all_the_time_is_given_up() -> None:
    table = Table(pools(40), most=4)

    def delete_one(_: int) -> None:
        del table.rows[0]

    table.before_answer = delete_one
    with pytest.raises(RequestFailed, match="POST /work_pools/filter failed: the set changed"):
        read_pools(table)


@pytest.mark.parametrize("lost", [0, 1, 2, 3, 5, 8])
def test_an_object_without_identity_costs_no_other_one(lost: int) -> None:
    table = Table(pools(9), most=4)
    del table.rows[lost]["id"]
    assert read_pools(table) == [identity for number, identity in enumerate(ids(pools(9))) if number != lost]


@pytest.mark.parametrize("most", [2, 3, 200])
@pytest.mark.parametrize(("model", "kind"), [(FlowRun, "flow_runs"), (TaskRun, "task_runs")])
def test_runs_are_read_once_in_the_order_of_time(model: type[Any], kind: str, most: int) -> None:
    table = Table(runs(*range(10)), most)
    assert read_by_time(table, model, kind) == ids(table.rows)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 200])
@pytest.mark.parametrize(("model", "kind"), [(FlowRun, "flow_runs"), (TaskRun, "task_runs")])
def test_more_runs_of_one_time_than_fit_on_a_page_are_read_once(model: type[Any], kind: str, most: int) -> None:
    table = Table(runs(1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4), most)
    assert sorted(read_by_time(table, model, kind)) == ids(table.rows)


def test_flow_runs_of_the_last_time_are_left_out_by_their_ids_and_task_runs_by_an_offset() -> None:
    table = Table(runs(1, 2, 2, 3), most=2)
    read_by_time(table)
    assert table.answered[1]["flow_runs"] == {
        "state": {},
        "expected_start_time": {"after_": "2026-03-14T09:00:02Z"},
        "id": {"not_any_": [run_id(1)]},
    }
    assert table.answered[1]["offset"] == 0
    table = Table(runs(1, 2, 2, 3), most=2)
    read_by_time(table, TaskRun, "task_runs")
    assert table.answered[1]["task_runs"] == {"state": {}, "expected_start_time": {"after_": "2026-03-14T09:00:02Z"}}
    assert table.answered[1]["offset"] == 1


def test_runs_that_go_while_they_are_read_make_the_walk_skip_none_that_stay() -> None:
    table = Table(runs(*range(12)), most=4)

    def delete_the_first(number: int) -> None:
        if number > 2:
            del table.rows[0]

    table.before_answer = delete_the_first
    assert read_by_time(table) == ids(runs(*range(12)))


@pytest.mark.parametrize("lost", [[0], [3], [1, 2], [4, 5, 6], [9]])
def test_runs_without_identity_do_not_end_the_walk_early(lost: list[int]) -> None:
    table = Table(runs(*range(10)), most=4)
    for number in lost:
        del table.rows[number]["id"]
    assert read_by_time(table) == [run_id(number) for number in range(10) if number not in lost]


class Repeating(Table):
    """A server, or a cache before it, that answers every page with the first."""

    def post(self, path: str, parse: Callable[[bytes], Any], body: Mapping[str, Any]) -> Any:
        return super().post(path, parse, {"limit": body["limit"]})


@pytest.mark.parametrize(("model", "kind"), [(FlowRun, "flow_runs"), (TaskRun, "task_runs")])
def test_runs_of_a_server_that_repeats_itself_are_not_read_for_ever(model: type[Any], kind: str) -> None:
    table = Repeating(runs(*range(300)))
    with pytest.raises(RequestFailed, match="repeat"):
        read_by_time(table, model, kind)
    assert len(table.bodies) == 2


def test_objects_of_a_server_that_repeats_itself_are_not_read_for_ever() -> None:
    table = Repeating(pools(300))
    with pytest.raises(RequestFailed, match="changed during each of 3 readings"):
        read_pools(table)
    assert len(table.bodies) == 6


def test_a_page_of_nothing_but_runs_without_time_fails_instead_of_going_on_for_ever() -> None:
    table = Table([{"id": f"r{number}", "state_type": "PENDING", "expected_start_time": None} for number in range(3)])
    assert len(read_by_time(table)) == 3
    table = Table(table.rows, most=2)
    with pytest.raises(RequestFailed, match="without expected_start_time"):
        read_by_time(table)


def read_by_ids(table: Table, wanted: list[str]) -> list[FlowRun]:
    return list(pager(table).by_ids(FlowRun, "/flow_runs/filter", "flow_runs", wanted))


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("most", [1, 3, 50, 200])
def test_objects_asked_for_by_id_are_found_although_pages_are_cut(most: int, refusal: str) -> None:
    table = Table(runs(*range(30)), most, refusal)
    wanted = [*ids(table.rows)[5:], run_id(100), run_id(101)]
    found = read_by_ids(table, wanted)
    assert sorted(run.id for run in found) == ids(table.rows)[5:]


def test_no_more_ids_are_asked_for_at_once_than_a_page_holds() -> None:
    table = Table(runs(*range(450)))
    wanted = ids(table.rows)
    assert len(read_by_ids(table, [*wanted, *wanted])) == 450
    assert [len(body["flow_runs"]["id"]["any_"]) for body in table.bodies] == [200, 200, 50]


def test_nothing_is_asked_for_when_no_id_is_wanted() -> None:
    table = Table(runs(1))
    assert read_by_ids(table, []) == []
    assert table.bodies == []


def test_what_is_no_id_is_not_asked_for_since_the_server_would_refuse_the_request() -> None:
    table = Table(runs(1))
    found = read_by_ids(table, ["my-run", run_id(0)])
    assert ids(table.rows) == [run.id for run in found]
    assert [body["flow_runs"]["id"]["any_"] for body in table.bodies] == [[run_id(0)]]
