"""Ten thousand damaged answers of all endpoints: no check run ends in an error that is not one of ours.

The answers are those of a real server, recorded at the beginning, and replayed with damage dealt by a seed. What fails
tells its seed and life; `FUZZ_SEED` and `FUZZ_LIFE` replay it.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from itertools import count
from random import Random

import pytest
import requests

from datadog_checks.prefect import check as check_module
from datadog_checks.prefect.api.client import Client
from datadog_checks.prefect.api.clock import ServerClock
from datadog_checks.prefect.api.time_budget import MOST_PAUSE_SECONDS
from datadog_checks.prefect.config.settings import LEAST_BUDGET_SECONDS
from lab.agent import Agent, CheckRunResult, forget_everything
from lab.mutations import mutate
from lab.prefect_api import PrefectApi
from lab.recording import RecordedAnswer, Recording, answered_by, endpoint_of, recorded
from lab.server import FAST_EVENTS, PrefectServer
from lab.task_run import ClientTaskRun

from ..unit.fake_http import Time
from .stage import Stage
from .test_task_runs import is_in_state

LOG = logging.getLogger(__name__)
SEED = int(os.environ.get("FUZZ_SEED", "20240"))
ONLY_LIFE = os.environ.get("FUZZ_LIFE")

MUTATED_ANSWERS = 10_000
MUTATED_ANSWERS_AN_ENDPOINT = 100
MOST_LIVES = 1000
RUNS_A_LIFE = 3
HEALTHY_EVERY = 50  # lives
ANSWER_SECONDS = 0.05
ENDPOINTS = {
    "GET /api/admin/version",
    "GET /api/csrf-token",
    "GET /api/events/filter/next",
    "GET /api/flow_run_states/",
    "GET /api/health",
    "GET /api/ready",
    "POST /api/deployments/count",
    "POST /api/deployments/filter",
    "POST /api/events/filter",
    "POST /api/flow_runs/count",
    "POST /api/flow_runs/filter",
    "POST /api/flows/filter",
    "POST /api/task_runs/filter",
    "POST /api/v2/concurrency_limits/filter",
    "POST /api/work_pools/*/workers/filter",
    "POST /api/work_pools/filter",
    "POST /api/work_queues/filter",
}
OUR_ERRORS = "datadog_checks.prefect.api.errors."


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One of everything, on a server that wants CSRF tokens."""
    with PrefectServer(env={**FAST_EVENTS, "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"}) as server:
        yield Stage(PrefectApi(server.api_url, csrf=True))


@pytest.fixture(scope="module")
def recording(stage: Stage) -> Recording:
    """What the server answers when the check asks after things of which much is going on."""
    recording = Recording()
    forget_everything()
    watching = new_agent(stage)
    with recorded(recording):
        assert_healthy(watching.run())
    populate(stage)
    with recorded(recording):
        # To the second Agent all is new, also what the first has seen.
        for agent in (watching, new_agent(stage, min_collection_interval=3600), watching):
            assert_healthy(agent.run())
    assert set(recording) == ENDPOINTS
    forget_everything()
    return recording


def new_agent(stage: Stage, **options: int) -> Agent:
    instance = {"prefect_url": stage.api.api_url, "collect_events": True, "skip_proxy": True, **options}
    return Agent({**instance, "min_collection_interval": 15, **options})


def assert_healthy(result: CheckRunResult) -> None:
    assert (result.error, result.warnings) == ("", [])


def populate(stage: Stage) -> None:
    api = stage.api
    for worker in ("w1", "w2"):
        api.heartbeat(stage.pool["name"], worker, interval_seconds=3600)
    api.poll_work_pool(stage.pool["name"], [stage.queue["name"]])
    runs = [
        stage.run("PENDING", "RUNNING", "FAILED", "SCHEDULED:AwaitingRetry", "PENDING", "RUNNING", "COMPLETED"),
        stage.run("PENDING", "CANCELLED"),
        stage.run("PENDING", "RUNNING", "CRASHED"),
        stage.run("PENDING", "RUNNING", "CANCELLING"),
        stage.run("PENDING", "RUNNING", "PAUSED"),
        stage.run("PENDING"),
        stage.run(),
        stage.run("SCHEDULED:Late"),
        stage.run("SCHEDULED:AwaitingConcurrencySlot"),
        # More events than a page holds.
        *(stage.run("PENDING", "RUNNING", "COMPLETED") for _ in range(10)),
        api.create_flow_run(stage.flow["id"]),
    ]
    planned = stage.run()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    api.set_flow_run_state(planned["id"], "SCHEDULED", scheduled_time=tomorrow, force=True)
    running = runs[3]["id"]
    upstream, over, failed, active, waiting = (
        ClientTaskRun(api, name, running) for name in ("extract", "load", "check", "wait", "ask")
    )
    downstream = ClientTaskRun(api, "transform", running, upstream=[upstream.id])
    last = [
        task.enter(state)
        for task, states in {
            upstream: ("PENDING", "RUNNING", "COMPLETED"),
            over: ("PENDING", "RUNNING", "FAILED", "PENDING", "RUNNING", "COMPLETED"),
            failed: ("PENDING", "RUNNING", "FAILED"),
            downstream: ("PENDING", "RUNNING"),
            active: ("PENDING", "RUNNING", "PAUSED"),
            waiting: ("PENDING",),
        }.items()
        for state in states
    ]
    stage.seen(*runs, planned)
    api.wait_for_events(last)
    for task, state in ((upstream, "COMPLETED"), (failed, "FAILED"), (downstream, "RUNNING"), (waiting, "PENDING")):
        api.wait_for_task_run(task.id, partial(is_in_state, state))


class DamagingReplay:
    """Answers in the server's place, in a time that only goes on with each answer."""

    def __init__(self, recording: Recording) -> None:
        self.time = Time()
        self.mutated: Counter[str] = Counter()
        self.told: list[str] = []
        self._recording = recording
        self._begun = self.time.now
        self._server_date = datetime.now(UTC)
        self._dice = Random()
        self._rates: dict[str, float] = {}

    def begin_life(self, seed: str) -> None:
        self._begun = self.time.now
        self._dice = Random(seed)
        random.seed(seed)  # the jitter of the client's waits

    def begin_run(self) -> None:
        """Some endpoints give more damaged answers than others, so that check runs get far enough."""
        self.told.clear()
        self._rates = {endpoint: self._dice.choice((0.05, 0.3, 0.9)) for endpoint in self._recording}

    def wait_for_end_of_pauses(self) -> None:
        """A damaged answer may have asked for a pause, which the check keeps."""
        self.time.now += MOST_PAUSE_SECONDS

    def wall(self) -> float:
        return self._server_date.timestamp() + self.time.now - self._begun

    def __call__(self, request: requests.PreparedRequest) -> RecordedAnswer:
        self.time.now += ANSWER_SECONDS
        endpoint = endpoint_of(request)
        answer = self._answer(request)
        answer = RecordedAnswer(answer.status, answer.body, {**answer.headers, "Date": self._date()})
        if self._dice.random() >= self._rates.get(endpoint, 0.0):
            return answer
        answer, kind = mutate(answer, self._dice)
        self.mutated[endpoint] += 1
        self.told.append(f"{endpoint}: {kind}, {answer.status}, {dict(answer.headers)!s:.500}, {answer.body[:500]!r}")
        return answer

    def _answer(self, request: requests.PreparedRequest) -> RecordedAnswer:
        forgets_token = self._dice.random() < 0.03
        if request.method == "POST" and (forgets_token or "Prefect-Csrf-Token" not in request.headers):
            return self._recording.refusals[0]
        return self._recording.choose(request, self._dice)

    def _date(self) -> str:
        return format_datetime(datetime.fromtimestamp(self.wall(), UTC), usegmt=True)


@pytest.fixture
def replay(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> DamagingReplay:
    replay = DamagingReplay(recording)
    time = replay.time
    clock = partial(ServerClock, wall=replay.wall, monotonic=time.monotonic)
    made = partial(Client, clock=clock, sleep=time.sleep, monotonic=time.monotonic)
    monkeypatch.setattr(check_module, "Client", made)
    return replay


def test_ten_thousand_damaged_answers_end_in_no_error_but_ours_and_leave_no_damage(
    stage: Stage, replay: DamagingReplay, clean_agent: None
) -> None:
    for life in [int(ONLY_LIFE)] if ONLY_LIFE else count():
        forget_everything()
        agent = new_agent(stage)
        replay.begin_life(f"{SEED}/{life}")
        for run in range(RUNS_A_LIFE):
            assert_ends_well(agent, replay, f"FUZZ_SEED={SEED} FUZZ_LIFE={life}, check run {run}")
            if run == 1 and life % 2:
                agent.restart()
        if life % HEALTHY_EVERY == 0 or ONLY_LIFE:
            replay.wait_for_end_of_pauses()
            assert_nothing_is_left_of_it(stage, agent, f"FUZZ_SEED={SEED} FUZZ_LIFE={life}")
        if enough(replay.mutated):
            break
        assert life < MOST_LIVES, replay.mutated
    LOG.info("FUZZ_SEED=%d: %d answers in %d lives: %s", SEED, replay.mutated.total(), life + 1, replay.mutated)
    assert set(replay.mutated) <= ENDPOINTS


def enough(mutated: Counter[str]) -> bool:
    each = all(mutated[endpoint] >= MUTATED_ANSWERS_AN_ENDPOINT for endpoint in ENDPOINTS)
    return each and mutated.total() >= MUTATED_ANSWERS


def assert_ends_well(agent: Agent, replay: DamagingReplay, where: str) -> None:
    """Like all check runs: within its time, with figures, and if with an error then with one of ours."""
    replay.begin_run()
    begun = replay.time.now
    with answered_by(replay):
        result = agent.run()
    where = "\n".join([where, *replay.told])
    assert not result.error or result.error_type.startswith(OUR_ERRORS), f"{result.error_type}: {result.error} {where}"
    assert replay.time.now - begun <= LEAST_BUDGET_SECONDS + ANSWER_SECONDS, where
    assert {"prefect.server.health", "prefect.server.ready"} <= result.names(), where
    assert all(math.isfinite(series.value) for series in result.series), where
    assert all(len(text) < 10_000 for text in [result.error, *result.warnings]), where


def assert_nothing_is_left_of_it(stage: Stage, agent: Agent, where: str) -> None:
    """The same check, and the same after a restart, shows what one does that never saw damage, and counts once."""
    done = stage.run("PENDING", "RUNNING", "COMPLETED")
    stage.seen(done)
    # Ready for the next minute, so that nothing changes between the check runs that are compared.
    stage.api.poll_work_pool(stage.pool["name"], [stage.queue["name"]])
    after = [agent.run(), agent.run()]
    agent.restart()
    after.append(agent.run())
    forget_everything()
    undisturbed = new_agent(stage).run()
    for result in after:
        assert result.error == "", where
        assert gauges(result) == gauges(undisturbed), where
    assert [result.warnings for result in after[1:]] == [[], []], where
    # In damage this run had no part: it is counted at once, and together with what was recorded and not counted yet.
    deployment = {"deployment_id": stage.deployment["id"]}
    counted = [result.count("flow_runs.completed.count", **deployment) for result in after]
    assert counted[0] >= 1, where
    assert counted[1:] == [0, 0], where


def gauges(result: CheckRunResult) -> dict[str, float]:
    """The sum of each gauge over all tag sets, without those that grow by themselves."""
    sums: dict[str, float] = defaultdict(float)
    for series in result.series:
        if series.type == "gauge" and "age" not in series.name.rpartition(".")[2]:
            sums[series.name] += series.value
    return sums
