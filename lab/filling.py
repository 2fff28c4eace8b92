"""Fill a server's database with scheduled deployments and their past, in the shape in which the server writes them.

Over the API that would take hours: one of everything is made there, and copied by direct inserts.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from .prefect_api import PrefectApi, iso
from .server import PrefectServer
from .task_run import ClientTaskRun, uuid7
from .waiting import wait_until

Row: TypeAlias = dict[str, Any]

PLANNING_SECONDS = 60.0
# None is due while something is measured.
FIRST_PLANNED_IN = timedelta(hours=2)
LAST_ENDED_AGO = timedelta(hours=2)
DEPLOYMENTS_PER_FLOW = 10
ROWS_AT_ONCE = 500
SCHEDULE = {"schedule": {"interval": 3600.0, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"}, "active": True}
# Something of the size that it has in earnest.
PARAMETERS = {
    "title": "Parameters",
    "type": "object",
    "properties": {
        name: {"title": name, "type": "string", "default": "2026-01-01", "position": position}
        for position, name in enumerate(("start", "end", "table", "region"))
    },
}


@dataclass(frozen=True)
class Size:
    """What a server has: hourly deployments, each with planned runs, and with ended runs of one task each."""

    deployments: int
    planned: int = 20
    ended: int = 10

    def __str__(self) -> str:
        return f"{self.deployments:,} deployments, {self.deployments * self.planned:,} planned runs"


def fill(server: PrefectServer, size: Size, pool: str, queue: str = "default") -> None:
    """Give a running server deployments in this work queue; the server is restarted in between."""
    api = PrefectApi(server.api_url, server.auth)
    deployment_id, ended_id = _one_of_everything(api, pool, queue)
    server.stop()
    connection = sqlite3.connect(server.home / "prefect.db")
    try:
        connection.row_factory = sqlite3.Row
        _Copier(connection, deployment_id, ended_id).copy(size)
        connection.commit()
    finally:
        connection.close()
    server.start()


def _one_of_everything(api: PrefectApi, pool: str, queue: str) -> tuple[str, str]:
    """The ids of a deployment whose runs the scheduler has planned, and of an ended run of it, with a task run."""
    flow = api.create_flow("filled-0")
    deployment = api.create_deployment(
        "deployment-0",
        flow["id"],
        pool,
        queue,
        schedules=[SCHEDULE],
        entrypoint="flows/etl.py:etl",
        path="/opt/prefect/flows",
        parameter_openapi_schema=PARAMETERS,
    )
    wait_until(lambda: api.post("flow_runs/count", {}) > 0, PLANNING_SECONDS, "A run that the scheduler plans")
    run = api.create_deployment_run(deployment["id"])
    task = ClientTaskRun(api, "load", run["id"])
    for state in ("PENDING", "RUNNING", "COMPLETED"):
        api.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": state}, "force": True})
        task.enter(state)
    api.wait_for_task_run(task.id, lambda task_run: task_run["state_type"] == "COMPLETED")
    return str(deployment["id"]), str(run["id"])


class _Copier:
    """Replaces a deployment and its runs by any number of copies."""

    def __init__(self, connection: sqlite3.Connection, deployment_id: str, ended_id: str) -> None:
        self._connection = connection
        self._deployment = self._row("deployment", id=deployment_id)
        self._flow = self._row("flow", id=self._deployment["flow_id"])
        self._schedule = self._row("deployment_schedule", deployment_id=deployment_id)
        self._planned = self._row("flow_run", deployment_id=deployment_id, state_type="SCHEDULED")
        self._planned_state = self._row("flow_run_state", id=self._planned["state_id"])
        self._ended = self._row("flow_run", id=ended_id)
        self._ended_state = self._row("flow_run_state", id=self._ended["state_id"])
        self._task = self._row("task_run", flow_run_id=ended_id)
        self._task_state = self._row("task_run_state", id=self._task["state_id"])
        self._full_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)

    def copy(self, size: Size) -> None:
        for table in ("task_run_state", "task_run", "flow_run_state", "flow_run", "deployment_schedule", "deployment"):
            self._connection.execute(f"DELETE FROM {table}")
        self._insert(self._flows_and_deployments(size))

    def _flows_and_deployments(self, size: Size) -> Iterator[tuple[str, Row]]:
        flow = self._flow
        for number in range(size.deployments):
            if number and number % DEPLOYMENTS_PER_FLOW == 0:
                flow = {**self._flow, "id": str(uuid.uuid4()), "name": f"filled-{number}"}
                yield "flow", flow
            deployment_id = str(uuid.uuid4())
            of_it = {"flow_id": flow["id"], "deployment_id": deployment_id}
            schedule = {**self._schedule, "id": str(uuid.uuid4()), "deployment_id": deployment_id}
            named = {"id": deployment_id, "flow_id": flow["id"], "name": f"deployment-{number}"}
            yield "deployment", {**self._deployment, **named}
            yield "deployment_schedule", schedule
            for hours in range(size.planned):
                yield from self._planned_run(of_it, schedule, self._full_hour + FIRST_PLANNED_IN + hours * HOUR)
            for hours in range(size.ended):
                yield from self._ended_run(of_it, self._full_hour - LAST_ENDED_AGO - hours * HOUR)

    def _planned_run(self, of_deployment: Row, schedule: Row, at: datetime) -> Iterator[tuple[str, Row]]:
        run_id, state_id = uuid7(), uuid7()
        details = {**json.loads(self._planned_state["state_details"]), "scheduled_time": iso(at)}
        state = {"id": state_id, "flow_run_id": run_id, "state_details": json.dumps(details)}
        yield "flow_run_state", {**self._planned_state, **state}
        own = {
            "id": run_id,
            "state_id": state_id,
            "expected_start_time": _sql(at),
            "next_scheduled_start_time": _sql(at),
            "idempotency_key": f"scheduled {of_deployment['deployment_id']} {schedule['id']} {at.isoformat(sep=' ')}",
        }
        if self._planned["created_by"] is not None:  # as before 3.2
            own["created_by"] = json.dumps({**json.loads(self._planned["created_by"]), "id": schedule["id"]})
        yield "flow_run", {**self._planned, **of_deployment, **own}

    def _ended_run(self, of_deployment: Row, at: datetime) -> Iterator[tuple[str, Row]]:
        run_id, state_id, task_id, task_state_id = uuid7(), uuid7(), uuid7(), uuid7()
        times = dict.fromkeys(("created", "expected_start_time", "start_time", "end_time", "state_timestamp"), _sql(at))
        yield "flow_run_state", {**self._ended_state, "id": state_id, "flow_run_id": run_id, "timestamp": _sql(at)}
        yield "flow_run", {**self._ended, **of_deployment, **times, "id": run_id, "state_id": state_id}
        yield "task_run_state", {**self._task_state, "id": task_state_id, "task_run_id": task_id, "timestamp": _sql(at)}
        yield "task_run", {**self._task, **times, "id": task_id, "flow_run_id": run_id, "state_id": task_state_id}

    def _row(self, table: str, **values: str) -> Row:
        condition = " AND ".join(f"{column} = ?" for column in values)
        query = f"SELECT * FROM {table} WHERE {condition} LIMIT 1"
        return dict(self._connection.execute(query, list(values.values())).fetchone())

    def _insert(self, rows: Iterable[tuple[str, Row]]) -> None:
        waiting: dict[str, list[Row]] = {}
        for table, row in rows:
            waiting.setdefault(table, []).append(row)
            if len(waiting[table]) >= ROWS_AT_ONCE:
                self._insert_into(table, waiting.pop(table))
        for table, left in waiting.items():
            self._insert_into(table, left)

    def _insert_into(self, table: str, rows: list[Row]) -> None:
        columns, marks = ", ".join(rows[0]), ", ".join("?" * len(rows[0]))
        query = f"INSERT INTO {table} ({columns}) VALUES ({marks})"
        self._connection.executemany(query, [list(row.values()) for row in rows])


HOUR = timedelta(hours=1)


def _sql(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
