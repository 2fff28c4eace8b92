"""Whatever comes and goes on the server for days, the check remembers no more of it, and asks for no more at a time.

The server is one in memory, whose clock goes half a minute with each check run.
"""

from __future__ import annotations

import gc
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datadog_checks.prefect import PrefectCheck
from datadog_checks.prefect.collectors import task_runs
from datadog_checks.prefect.mirror import inventory
from lab.agent import Agent, CheckRunResult, datadog_agent
from lab.comings_and_goings import PERIOD, ComingsAndGoings
from lab.memory_server import MemoryServer, answering
from lab.object_graph import Held, grown, held_by, show_largest, size_of

from ..conftest import AgentFactory

URL = "http://prefect.test:4200/api"
# The host's clock is behind: only what the server says counts.
BEGINNING = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=1)
RUNS = 5_280
# All that is kept for an hour is full by then.
FIRST_LOOK = 960
# Less is read in each of them than with an hour.
SHORT_MEMORY = {"event_lookback_seconds": 600, "max_catch_up_seconds": 600}
# On an old server, where little else differs.
FEWER_RUNS = 1_440
FIRST_LOOK_OF_FEWER = 960
# What is bounded by number alone, and by a large one: days of what happens here would not fill it.
FEW_REMEMBERED = 20
MOST_IDS = 512
MULTITUDE = 600
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def sums(clean_agent: None, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The sums of all counts by name, where the stub of the Agent would keep each sample."""
    sums: Counter[str] = Counter()

    def add(_: PrefectCheck, name: str, value: float, **__: Any) -> None:
        sums[name] += int(value)

    monkeypatch.setattr(PrefectCheck, "count", add)
    for other in ("gauge", "histogram"):
        monkeypatch.setattr(PrefectCheck, other, lambda *_, **__: None)
    return sums


def run_for_days(watching: Agent, world: ComingsAndGoings, runs: int, first_look: int) -> list[dict[str, Held]]:
    """What the check holds after the first look, and after all runs; with what it has stored."""
    looks: list[dict[str, Held]] = []
    for number in range(1, runs + 1):
        world.pass_half_a_minute()
        report = watching.check.run()
        warnings = watching.check.get_warnings()
        assert (report, warnings) == ("", []), f"run {number}"
        if number in (first_look, runs):
            gc.collect()
            looks.append(held_by(watching.check) | stored())
    assert world.server.refused == []
    return looks


def stored() -> dict[str, Held]:
    """The state on disk, by its name."""
    return {f"stored {key}": Held(size=len(text)) for key, text in datadog_agent._cache.items()}


@pytest.mark.parametrize(
    ("is_old", "runs", "first_look"),
    [
        pytest.param(False, RUNS, FIRST_LOOK, id="Prefect 3.8"),
        # There the events alone tell when a task run ended.
        pytest.param(True, FEWER_RUNS, FIRST_LOOK_OF_FEWER, id="Prefect 3.4"),
    ],
)
def test_nothing_grows_with_the_number_of_check_runs(
    sums: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_old: bool,
    runs: int,
    first_look: int,
) -> None:
    assert runs % (2 * PERIOD) == first_look % (2 * PERIOD) == 0
    server = MemoryServer(BEGINNING, "3.4.25" if is_old else "3.8.8", ends_of_task_runs=not is_old)
    world = ComingsAndGoings(server)
    monkeypatch.setattr(inventory, "REMEMBERED", FEW_REMEMBERED)
    monkeypatch.setattr(task_runs, "REMEMBERED", FEW_REMEMBERED)
    with answering(server):
        watching = Agent({"prefect_url": URL, "min_collection_interval": 30, "skip_proxy": True, **SHORT_MEMORY})
        before, after = run_for_days(watching, world, runs, first_look)
    with capsys.disabled():
        show_largest(after, 10)
    # All that happened was counted, so all of it was read.
    assert {name: sums[name] for name in world.truth} == world.truth
    assert too_long(server) == {}
    assert grown(before, after, factor=1.05, spare=5) == {}
    # Texts that get longer, and what is stored.
    assert size_of(after) < 1.1 * size_of(before)


def too_long(server: MemoryServer) -> dict[str, int]:
    """Where a request named too many."""
    return {where: number for where, number in server.longest.items() if number > MOST_IDS}


class Multitude:
    """A server on which there are more of a kind than one request may name, many of them of the same moment."""

    def __init__(self) -> None:
        self.server = MemoryServer(BEGINNING)
        self._made = 0
        self.pool_id = self._new("work_pools", name="pool", type="process", status="READY")
        self.flow_id = self._new("flows", name="flow")
        of_pool = {"work_pool_id": self.pool_id, "work_pool_name": "pool", "status": "READY"}
        self.queues = [self._new("work_queues", name=f"queue-{number}", **of_pool) for number in range(MULTITUDE)]
        times = {"created": BEGINNING, "updated": BEGINNING}
        self.deployments = [
            self._new("deployments", name=f"d-{number}", flow_id=self.flow_id, status="READY", **times)
            for number in range(MULTITUDE)
        ]

    def _new(self, table: str, **fields: Any) -> str:
        self._made += 1
        identity = f"{self._made:08x}-0000-4000-8000-000000000000"
        self.server.put(table, id=identity, **fields)
        return identity

    def flow_runs(self, state: str, at: datetime, **fields: Any) -> None:
        """Of each deployment one that came into this state at the same moment as all others."""
        about: dict[str, Any] = {"state_type": state, "state_name": state.capitalize(), "state": {"timestamp": at}}
        about |= {"expected_start_time": at, "run_count": 0, **fields}
        for deployment_id in self.deployments:
            of_it = {"flow_id": self.flow_id, "deployment_id": deployment_id, "work_queue_id": self.queues[0]}
            self._new("flow_runs", **of_it, **about)

    def task_run_with_many_upstream(self, at: datetime) -> None:
        """Its beginning; nobody knows any more when those ended whose results it takes."""
        flow_run_id = next(iter(self.server.tables["flow_runs"]))
        upstream = [{"input_type": "task_run", "id": self._new("flows", name="gone")} for _ in range(MULTITUDE)]
        self._new(
            "task_runs",
            flow_run_id=flow_run_id,
            task_key="reduce-0a1b2c3d",
            dynamic_key="0",
            task_inputs={"data": upstream},
            run_count=1,
            state_type="RUNNING",
            state_name="Running",
            state={"timestamp": at},
            expected_start_time=at,
            start_time=at,
        )

    def remove(self, table: str, ids: list[str]) -> None:
        for identity in ids:
            del self.server.tables[table][identity]


def test_however_many_there_are_of_a_kind_no_request_names_more_than_so_many_of_them(agent: AgentFactory) -> None:
    multitude = Multitude()
    server, now = multitude.server, BEGINNING
    multitude.flow_runs("SCHEDULED", now + HOUR, next_scheduled_start_time=now + HOUR)
    multitude.flow_runs("SCHEDULED", now - MINUTE, next_scheduled_start_time=now - MINUTE)
    multitude.flow_runs("RUNNING", now - HOUR, start_time=now - HOUR)
    with answering(server):
        watching = agent(prefect_url=URL, min_collection_interval=60)
        results = [watching.run() for _ in range(MULTITUDE // 64 + 2)]
        server.now += MINUTE
        ended = {"start_time": now - MINUTE, "end_time": now, "total_run_time": 60.0, "run_count": 1}
        multitude.flow_runs("COMPLETED", now, **ended)
        multitude.task_run_with_many_upstream(now)
        results.append(watching.run())
        last = results[-1]
        multitude.remove("work_queues", multitude.queues[1:])
        multitude.remove("deployments", multitude.deployments[1:])
        for _ in range(9):
            server.now += MINUTE
            results.append(watching.run())
    assert {result.error for result in results} == {""}
    assert server.refused == []
    assert {name: summed(last, name) for name in ("scheduled", "running", "completed.count")} == {
        "scheduled": 2 * MULTITUDE,
        "running": MULTITUDE,
        "completed.count": MULTITUDE,
    }
    assert sum(result.count("task_runs.throughput") for result in results) == 1
    assert too_long(server) == {}


def summed(result: CheckRunResult, name: str) -> float:
    return sum(series.value for series in result.matching(f"flow_runs.{name}"))
