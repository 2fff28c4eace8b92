"""The truth about a server's runs, from its own database and the metrics' definitions alone.

Events of what has no UUID are poison: they count nowhere, and it does not matter whether they are handed on.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .definitions import Entered, Measurement, first_end, of_flow_run, of_task_run
from .poison import is_canonical
from .totals import Totals

READINESS = frozenset(
    f"prefect.{kind}.{status}"
    for kind in ("work-pool", "work-queue", "deployment")
    for status in ("ready", "not-ready")
)

FLOW_RUNS = """
    SELECT run.id, run.expected_start_time, run.deployment_id, deployment.name AS deployment_name,
           run.flow_id, flow.name AS flow_name, run.work_queue_id, work_queue.name AS work_queue_name,
           work_pool.id AS work_pool_id, work_pool.name AS work_pool_name
    FROM flow_run AS run
    LEFT JOIN deployment ON deployment.id = run.deployment_id
    LEFT JOIN flow ON flow.id = run.flow_id
    LEFT JOIN work_queue ON work_queue.id = run.work_queue_id
    LEFT JOIN work_pool ON work_pool.id = work_queue.work_pool_id
"""
FLOW_RUN_TAGS = (
    "deployment_id",
    "deployment_name",
    "flow_id",
    "flow_name",
    "work_pool_id",
    "work_pool_name",
    "work_queue_id",
    "work_queue_name",
)


@dataclass(frozen=True)
class TaskRun:
    """A task run as its events tell it."""

    id: str
    states: Sequence[Entered]
    task_key: str
    flow_run_id: str | None
    expected_start: float
    upstream: frozenset[str]

    @property
    def tags(self) -> frozenset[str]:
        """Those that it has besides its flow run's."""
        name = re.sub("-([0-9a-f]{8}|unknown)$", "", self.task_key)
        return frozenset({f"task_key:{self.task_key}", f"task_name:{name}"})


def read_truth(database: Path, unseen: Collection[str] = ()) -> Totals:
    """What should have been submitted of all runs and events in a server's SQLite database.

    `unseen` are ids of events that nobody could see, and that can therefore not be handed on as events.
    """
    totals = Totals()
    with _opened(database) as connection:
        connection.row_factory = sqlite3.Row
        tags = {row["id"]: _flow_run_tags(row) for row in connection.execute(FLOW_RUNS)}
        for row in connection.execute(FLOW_RUNS):
            measurements = of_flow_run(_flow_run_states(connection, row["id"]), _seconds(row["expected_start_time"]))
            _add(totals, "flow_runs", measurements, tags[row["id"]])
        task_runs = _task_runs(connection)
        ends = _ends(connection, task_runs)
        for task_run in task_runs:
            upstream_ends = [ends[identity] for identity in task_run.upstream]
            measurements = of_task_run(task_run.states, task_run.expected_start, upstream_ends)
            _add(totals, "task_runs", measurements, tags.get(task_run.flow_run_id or "", frozenset()) | task_run.tags)
        _add_events(totals, connection, unseen)
    return totals


def _add(totals: Totals, family: str, measurements: Iterable[Measurement], tags: frozenset[str]) -> None:
    for metric, seconds in measurements:
        if seconds is None:
            totals.add_count(f"{family}.{metric}", tags)
        else:
            totals.add_sample(f"{family}.{metric}", tags, seconds)


def count_events(database: Path) -> int:
    """How many events a server has."""
    with _opened(database) as connection:
        (number,) = connection.execute("SELECT COUNT(*) FROM events").fetchone()
        return int(number)


def has_all_events(database: Path, sent: Collection[str]) -> bool:
    """Whether a server has the events of all states of its flow runs, and those whose ids are in `sent`."""
    with _opened(database) as connection:
        there = {identity for (identity,) in connection.execute("SELECT id FROM events")}
        states = {identity for (identity,) in connection.execute("SELECT id FROM flow_run_state")}
    return there >= states.union(sent)


def _opened(database: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True))


# The database


def _flow_run_tags(row: sqlite3.Row) -> frozenset[str]:
    return frozenset(f"{tag}:{row[tag]}" for tag in FLOW_RUN_TAGS if row[tag])


def _flow_run_states(connection: sqlite3.Connection, run_id: str) -> list[Entered]:
    query = "SELECT timestamp, type, name FROM flow_run_state WHERE flow_run_id = ? ORDER BY timestamp"
    return [Entered(_seconds(at), kind, name) for at, kind, name in connection.execute(query, (run_id,))]


def _task_runs(connection: sqlite3.Connection) -> list[TaskRun]:
    events: dict[str, list[sqlite3.Row]] = {}
    query = (
        "SELECT occurred, resource_id, resource, related, payload FROM events"
        " WHERE resource_id LIKE 'prefect.task-run.%' ORDER BY occurred"
    )
    for row in connection.execute(query):
        if is_canonical(row["resource_id"]):
            events.setdefault(row["resource_id"], []).append(row)
    return [_task_run(resource_id.removeprefix("prefect.task-run."), rows) for resource_id, rows in events.items()]


def _task_run(identity: str, rows: Sequence[sqlite3.Row]) -> TaskRun:
    resources = [json.loads(row["resource"]) for row in rows]
    described = json.loads(rows[0]["payload"])["task_run"]
    related = {item["prefect.resource.role"]: item["prefect.resource.id"] for item in json.loads(rows[0]["related"])}
    inputs: dict[str, list[dict[str, Any]]] = described["task_inputs"]
    return TaskRun(
        id=identity,
        states=[
            Entered(_seconds(row["occurred"]), resource["prefect.state-type"], resource["prefect.state-name"])
            for row, resource in zip(rows, resources, strict=True)
        ],
        task_key=described["task_key"],
        flow_run_id=related.get("flow-run", "").removeprefix("prefect.flow-run.") or None,
        expected_start=datetime.fromisoformat(described["expected_start_time"]).timestamp(),
        upstream=frozenset(
            source["id"]
            for parameter, sources in inputs.items()
            if parameter != "__parents__"
            for source in sources
            if source["input_type"] == "task_run"
        ),
    )


def _ends(connection: sqlite3.Connection, task_runs: Sequence[TaskRun]) -> dict[str, float]:
    """When task runs ended: those that stand for subflows, of which no event tells, as the server has recorded it."""
    recorded = connection.execute("SELECT id, end_time FROM task_run WHERE end_time IS NOT NULL")
    ends = {identity: _seconds(end) for identity, end in recorded}
    for run in task_runs:
        if (end := first_end(run.states)) is not None:
            ends[run.id] = end
    return ends


def _add_events(totals: Totals, connection: sqlite3.Connection, unseen: Collection[str]) -> None:
    for row in connection.execute("SELECT id, event, occurred, resource_id, resource FROM events"):
        about_run = row["resource_id"].startswith(("prefect.flow-run.", "prefect.task-run."))
        changes_state = about_run and "prefect.state-type" in json.loads(row["resource"])
        is_seen = is_canonical(row["resource_id"]) and row["id"] not in unseen
        if is_seen and (changes_state or row["event"] in READINESS):
            totals.add_event(row["event"], row["resource_id"], _seconds(row["occurred"]))


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
