"""The truth about a server's runs, from its own database and the metrics' definitions alone.

Nothing of the check is used here: what the definitions say is written down a second time, as literally as possible.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .totals import Totals

TERMINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
LATE_START_GRACE_SECONDS = 15.0
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
class State:
    """A state that a run entered; `at` is in Unix seconds."""

    at: float
    type: str
    name: str


@dataclass(frozen=True)
class TaskRun:
    """A task run as its events tell it."""

    id: str
    states: Sequence[State]
    task_key: str
    flow_run_id: str | None
    expected_start: float
    upstream: frozenset[str]


def read_truth(database: Path, unseen: Collection[str] = ()) -> Totals:
    """What should have been submitted of all runs and events in a server's SQLite database.

    `unseen` are ids of events that nobody could see, and that can therefore not be handed on as events.
    """
    totals = Totals()
    with _opened(database) as connection:
        connection.row_factory = sqlite3.Row
        tags = {row["id"]: _flow_run_tags(row) for row in connection.execute(FLOW_RUNS)}
        for row in connection.execute(FLOW_RUNS):
            states = _flow_run_states(connection, row["id"])
            _add_flow_run(totals, states, _seconds(row["expected_start_time"]), tags[row["id"]])
        task_runs = _task_runs(connection)
        ends = _ends(connection, task_runs)
        for task_run in task_runs:
            _add_task_run(totals, task_run, ends, tags.get(task_run.flow_run_id or "", frozenset()))
        _add_events(totals, connection, unseen)
    return totals


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


# Definitions


def _add_flow_run(totals: Totals, states: Sequence[State], expected_start: float, tags: frozenset[str]) -> None:
    _add_run(totals, "flow_runs", states, expected_start, tags)
    start = _start(states)
    if start is not None:
        totals.add_sample("flow_runs.queue_wait_duration", tags, max(0.0, start - expected_start))
    for gap in _retry_gaps(states):
        totals.add_sample("flow_runs.retry_gaps_duration", tags, gap)


def _add_task_run(totals: Totals, run: TaskRun, ends: Mapping[str, float], flow_run_tags: frozenset[str]) -> None:
    name = re.sub("-([0-9a-f]{8}|unknown)$", "", run.task_key)
    tags = flow_run_tags | {f"task_key:{run.task_key}", f"task_name:{name}"}
    _add_run(totals, "task_runs", run.states, run.expected_start, tags)
    start = _start(run.states)
    if start is not None and run.upstream:
        latest = max(ends[identity] for identity in run.upstream)
        totals.add_sample("task_runs.dependency_wait_duration", tags, max(0.0, start - latest))


def _add_run(totals: Totals, family: str, states: Sequence[State], expected_start: float, tags: frozenset[str]) -> None:
    """What flow runs and task runs have in common: ends, starts, and the time they ran."""
    start = _start(states)
    if start is not None:
        totals.add_count(f"{family}.throughput", tags)
        if start - expected_start > LATE_START_GRACE_SECONDS:
            totals.add_count(f"{family}.late_start.count", tags)
    running = 0.0
    for before, state in zip((None, *states), states, strict=False):
        if before is not None and before.type == "RUNNING":
            running += state.at - before.at
        if state.type in TERMINAL and (before is None or before.type not in TERMINAL):
            totals.add_count(f"{family}.{state.type.lower()}.count", tags)
            if start is not None and start < state.at:
                totals.add_sample(f"{family}.execution_duration", tags, running)
            running = 0.0


def _start(states: Sequence[State]) -> float | None:
    return next((state.at for state in states if state.type == "RUNNING"), None)


def _retry_gaps(states: Sequence[State]) -> Iterator[float]:
    waiting_since = None
    for state in states:
        if state.name == "AwaitingRetry":
            waiting_since = state.at
        elif state.type == "RUNNING" and waiting_since is not None:
            yield state.at - waiting_since
            waiting_since = None
        elif state.type in TERMINAL:
            waiting_since = None


# The database


def _flow_run_tags(row: sqlite3.Row) -> frozenset[str]:
    return frozenset(f"{tag}:{row[tag]}" for tag in FLOW_RUN_TAGS if row[tag])


def _flow_run_states(connection: sqlite3.Connection, run_id: str) -> list[State]:
    query = "SELECT timestamp, type, name FROM flow_run_state WHERE flow_run_id = ? ORDER BY timestamp"
    return [State(_seconds(at), kind, name) for at, kind, name in connection.execute(query, (run_id,))]


def _task_runs(connection: sqlite3.Connection) -> list[TaskRun]:
    events: dict[str, list[sqlite3.Row]] = {}
    query = (
        "SELECT occurred, resource_id, resource, related, payload FROM events"
        " WHERE resource_id LIKE 'prefect.task-run.%' ORDER BY occurred"
    )
    for row in connection.execute(query):
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
            State(_seconds(row["occurred"]), resource["prefect.state-type"], resource["prefect.state-name"])
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
        terminal = [state.at for state in run.states if state.type in TERMINAL]
        if terminal:
            ends[run.id] = terminal[0]
    return ends


def _add_events(totals: Totals, connection: sqlite3.Connection, unseen: Collection[str]) -> None:
    for row in connection.execute("SELECT id, event, occurred, resource_id, resource FROM events"):
        about_run = row["resource_id"].startswith(("prefect.flow-run.", "prefect.task-run."))
        changes_state = about_run and "prefect.state-type" in json.loads(row["resource"])
        if (changes_state or row["event"] in READINESS) and row["id"] not in unseen:
            totals.add_event(row["event"], row["resource_id"], _seconds(row["occurred"]))


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
