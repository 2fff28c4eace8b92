"""Crowds on a running server: copies of one thing, put into its database, since over the API they would take long.

One of a kind is made over the API, in the shape in which the server writes it.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from .prefect_api import Json, PrefectApi
from .server import PrefectServer
from .task_run import uuid7
from .waiting import wait_until

Row: TypeAlias = dict[str, Any]
# By table, in an order in which each row finds what it refers to.
Rows: TypeAlias = dict[str, list[Row]]

LOCK_SECONDS = 60.0
EVENTS_SECONDS = 120.0
EVENTS_AT_ONCE = 100
DEPLOYMENTS_A_FLOW = 10
MILLISECOND = timedelta(milliseconds=1)


@contextmanager
def crowd_of_deployments(server: PrefectServer, run_id: str, number: int) -> Iterator[None]:
    """So many deployments, ten of each flow, and of each a run that is what this run of a deployment is."""
    with _database(server) as database:
        run = _row(database, "flow_run", run_id)
        state = _row(database, "flow_run_state", run["state_id"])
        deployment = _row(database, "deployment", run["deployment_id"])
        flow = _row(database, "flow", run["flow_id"])
    rows: Rows = {"flow": [], "deployment": [], "flow_run_state": [], "flow_run": []}
    made = datetime.now(UTC) - timedelta(hours=1)
    for position in range(number):
        if position % DEPLOYMENTS_A_FLOW == 0:
            flow = {**flow, "id": str(uuid.uuid4()), "name": f"crowd-{position}-{run_id}"}
            rows["flow"].append(flow)
        times = dict.fromkeys(("created", "updated"), _sql(made + position * MILLISECOND))
        named = {"id": str(uuid.uuid4()), "flow_id": flow["id"], "name": f"crowd-{position}"}
        rows["deployment"].append({**deployment, **times, **named})
        state_id, own_id = uuid7(), uuid7()
        rows["flow_run_state"].append({**state, "id": state_id, "flow_run_id": own_id})
        of_it = {"deployment_id": named["id"], "flow_id": flow["id"], "idempotency_key": None}
        rows["flow_run"].append({**run, **of_it, "id": own_id, "state_id": state_id})
    with _present(server, rows):
        yield


@contextmanager
def crowd_of_task_runs(
    server: PrefectServer,
    task_run_ids: Sequence[str],
    number: int,
    within: timedelta,
    until: datetime | None = None,
) -> Iterator[list[str]]:
    """So many copies of each of these task runs, by their ids, created one after the other within a time until now."""
    rows: Rows = {"task_run_state": [], "task_run": []}
    last, apart = until or datetime.now(UTC), within / number
    with _database(server) as database:
        for identity in task_run_ids:
            task_run = _row(database, "task_run", identity)
            state = _row(database, "task_run_state", task_run["state_id"])
            for position in range(number):
                state_id, own_id = uuid7(), uuid7()
                rows["task_run_state"].append({**state, "id": state_id, "task_run_id": own_id})
                own = {"id": own_id, "state_id": state_id, "dynamic_key": own_id}
                rows["task_run"].append({**task_run, **own, "expected_start_time": _sql(last - position * apart)})
    with _present(server, rows):
        yield [row["id"] for row in rows["task_run"]]


def crowd_of_histories(server: PrefectServer, api: PrefectApi, run_id: str, number: int) -> None:
    """So many flow runs that went through what this one went through, with all its states and events."""
    with _database(server) as database:
        run = _row(database, "flow_run", run_id)
        query = "SELECT * FROM flow_run_state WHERE flow_run_id = ?"
        states = [dict(row) for row in database.execute(query, (run_id,))]
    told = api.events(resource={"id": [f"prefect.flow-run.{run_id}"]})
    own = [run_id, *(state["id"] for state in states)]
    events: list[Json] = []
    rows: Rows = {"flow_run_state": [], "flow_run": []}
    for _ in range(number):
        text = json.dumps({"run": run, "states": states, "events": told})
        for identity in own:
            text = text.replace(identity, uuid7())
        copy = json.loads(text)
        rows["flow_run"].append(copy["run"])
        rows["flow_run_state"] += copy["states"]
        events += copy["events"]
    with _database(server) as database:
        _insert(database, rows)
    for first in range(0, len(events), EVENTS_AT_ONCE):
        api.post_events(events[first : first + EVENTS_AT_ONCE])
    occurred = {"since": told[0]["occurred"], "until": told[-1]["occurred"]}
    body = {"filter": {"occurred": occurred, "event": {"prefix": ["prefect.flow-run."]}}, "limit": 0}
    what = f"The sight of {len(events)} events"
    wait_until(lambda: api.post("events/filter", body)["total"] >= len(events) + len(told), EVENTS_SECONDS, what)


def running_flow_runs(server: PrefectServer) -> dict[str, float]:
    """How many runs of which deployment are RUNNING, by the database."""
    query = (
        "SELECT deployment_id, COUNT(*) FROM flow_run"
        " WHERE state_type = 'RUNNING' AND deployment_id IS NOT NULL GROUP BY deployment_id"
    )
    with _database(server) as database:
        return {identity: float(number) for identity, number in database.execute(query)}


def unfinished_task_runs(server: PrefectServer) -> dict[tuple[str, str], float]:
    """How many task runs are in an unfinished state, by its type in lower case and their task's key; likewise."""
    query = (
        "SELECT LOWER(state_type), task_key, COUNT(*) FROM task_run"
        " WHERE state_type IN ('PENDING', 'RUNNING', 'PAUSED') GROUP BY state_type, task_key"
    )
    with _database(server) as database:
        return {(state_type, key): float(number) for state_type, key, number in database.execute(query)}


def _sql(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


@contextmanager
def _database(server: PrefectServer) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(server.home / "prefect.db", timeout=LOCK_SECONDS)
    try:
        database.row_factory = sqlite3.Row
        yield database
        database.commit()
    finally:
        database.close()


@contextmanager
def _present(server: PrefectServer, rows: Rows) -> Iterator[None]:
    with _database(server) as database:
        _insert(database, rows)
    try:
        yield
    finally:
        with _database(server) as database:
            for table in reversed(rows):
                database.executemany(f"DELETE FROM {table} WHERE id = ?", [(row["id"],) for row in rows[table]])


def _row(database: sqlite3.Connection, table: str, identity: str) -> Row:
    return dict(database.execute(f"SELECT * FROM {table} WHERE id = ?", (identity,)).fetchone())


def _insert(database: sqlite3.Connection, rows: Rows) -> None:
    for table, new in rows.items():
        columns, marks = ", ".join(new[0]), ", ".join("?" * len(new[0]))
        query = f"INSERT INTO {table} ({columns}) VALUES ({marks})"
        database.executemany(query, [list(row.values()) for row in new])
