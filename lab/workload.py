"""A busy server's flow runs and task runs, made by a seed: varied histories, spread over many check runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from .poison import OF_NO_CONSEQUENCE, POISON_EVENTS, id_in
from .prefect_api import Json, PrefectApi, run_state
from .task_run import ClientTaskRun

POOL = "soak-pool"
QUEUES = ("soak-first", "soak-second")
DEPLOYMENTS = 3
POLLS = 4
SUBFLOWS = 4
# The last check runs are left for stories to end in.
LAST_RUNS = 3
MOST_REQUESTS_BETWEEN = 12
MOST_TASKS = 3
# Beside one step in so many, somebody posts bad events.
STEPS_A_POISON = 20

Moment = tuple[int, int]

# States as `TYPE` or `TYPE:Name`; the first is the one that the run is created in.
FLOW_STORIES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (8, ("SCHEDULED", "PENDING", "RUNNING", "COMPLETED")),
    (2, ("PENDING", "RUNNING", "COMPLETED:Cached")),
    (3, ("SCHEDULED", "PENDING", "RUNNING", "FAILED")),
    (1, ("PENDING", "RUNNING", "FAILED:TimedOut")),
    (2, ("SCHEDULED", "PENDING", "RUNNING", "CRASHED")),
    (1, ("SCHEDULED", "PENDING", "CRASHED")),
    # fails and is rerun, by the user interface or by force
    (2, ("SCHEDULED", "PENDING", "RUNNING", "FAILED", "SCHEDULED:AwaitingRetry", "PENDING", "RUNNING", "COMPLETED")),
    (1, ("PENDING", "RUNNING", "FAILED", "RUNNING", "FAILED", "RUNNING", "COMPLETED")),
    (1, ("PENDING", "RUNNING", "CRASHED", "PENDING", "RUNNING", "SCHEDULED:AwaitingRetry", "RUNNING", "FAILED")),
    # rerun, and cancelled before it runs again
    (1, ("PENDING", "RUNNING", "FAILED", "SCHEDULED:AwaitingRetry", "CANCELLED")),
    # retries by itself
    (3, ("SCHEDULED", "PENDING", "RUNNING", "SCHEDULED:AwaitingRetry", "RUNNING:Retrying", "COMPLETED")),
    (1, ("PENDING", "RUNNING", *("SCHEDULED:AwaitingRetry", "RUNNING:Retrying") * 2, "FAILED")),
    # pauses
    (2, ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "RUNNING", "COMPLETED")),
    (1, ("PENDING", "RUNNING", "PAUSED:Suspended", "SCHEDULED:Resuming", "PENDING", "RUNNING", "COMPLETED")),
    (1, ("PENDING", "RUNNING", "PAUSED", "RUNNING", "PAUSED", "FAILED", "FAILED")),
    # cancelled
    (2, ("SCHEDULED", "CANCELLED")),
    (1, ("SCHEDULED", "PENDING", "CANCELLED")),
    (2, ("PENDING", "RUNNING", "CANCELLING", "CANCELLED")),
    # from one terminal state into another
    (1, ("PENDING", "RUNNING", "COMPLETED", "FAILED")),
    (1, ("PENDING", "RUNNING", "CRASHED", "FAILED", "COMPLETED")),
    # late, also where nobody noticed
    (2, ("SCHEDULED-60", "SCHEDULED:Late", "PENDING", "RUNNING", "COMPLETED")),
    (1, ("SCHEDULED-20", "PENDING", "RUNNING", "COMPLETED")),
    # not over when all is over
    (1, ("SCHEDULED", "PENDING")),
    (1, ("SCHEDULED", "PENDING", "RUNNING")),
)

# The same for task runs; `+SECONDS` is time that passes on the clock of the flow's process.
TASK_STORIES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (8, ("PENDING", "RUNNING", "+2", "COMPLETED")),
    (2, ("PENDING", "RUNNING", "+1", "FAILED")),
    (1, ("PENDING", "RUNNING", "CRASHED")),
    (1, ("PENDING", "RUNNING", "CANCELLED")),
    (2, ("PENDING", "RUNNING", "COMPLETED:Cached")),
    # ended without having started: such a task run has no end time
    (1, ("PENDING", "COMPLETED:Cached")),
    (1, ("PENDING", "CRASHED")),
    (2, ("PENDING", "RUNNING", "+1", "COMPLETED", "COMPLETED:RolledBack")),
    (2, ("PENDING", "RUNNING", "SCHEDULED:AwaitingRetry", "+3", "RUNNING:Retrying", "+1", "COMPLETED")),
    (1, ("PENDING", "RUNNING", "RUNNING:Retrying", "RUNNING:Retrying", "+1", "FAILED")),
    (1, ("PENDING", "RUNNING", "+1", "PAUSED", "+2", "RUNNING", "COMPLETED")),
    (1, ("PENDING", "+16", "RUNNING", "COMPLETED")),
    (1, ("PENDING:NotReady",)),
    (1, ("PENDING", "RUNNING")),
)
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class RememberingApi(PrefectApi):
    """Asks only once for objects that do not change here."""

    def __init__(self, api_url: str) -> None:
        super().__init__(api_url)
        self._known: dict[str, Any] = {}

    def get(self, path: str) -> Any:
        if not path.startswith(("flows/", "deployments/", "work_queues/", "work_pools/")):
            return super().get(path)
        if path not in self._known:
            self._known[path] = super().get(path)
        return self._known[path]


@dataclass
class Clock:
    """The clock of a flow's process, which is ahead of the server's."""

    ahead: timedelta
    last: datetime

    def tick(self, seconds: float = 0.0) -> datetime:
        """The current moment, later than the last one by at least a millisecond and by `seconds`."""
        self.last = max(datetime.now(UTC) + self.ahead, self.last + timedelta(seconds=seconds, milliseconds=1))
        return self.last


class Workload:
    """What happens on the server while `check_runs` check runs are made.

    `set_up` makes what runs need. `advance` lets everything happen that is due at a check run's n-th request;
    `sent_event_ids` are the ids of the events that were sent for task runs, and of the bad ones. `poison_ids` are what
    warnings may call the latter.
    """

    def __init__(self, api_url: str, seed: int, check_runs: int, flow_runs: int) -> None:
        self._api = RememberingApi(api_url)
        self._dice = Random(f"workload {seed}")
        # Dice of its own, so that a seed tells the same story with poison in it.
        self._poison_dice = Random(f"poison {seed}")
        self._last_run = check_runs - LAST_RUNS
        self._plan: list[tuple[Moment, Callable[[], None]]] = []
        self._outbox: list[Json] = []
        self._labels: dict[str, str] = {}
        self._deployments: list[str] = []
        self.sent_event_ids: list[str] = []
        self.poison_ids: set[str] = set()
        for number in range(flow_runs):
            self._plan_flow_run(f"run-{number}")
        for number in range(SUBFLOWS):
            self._plan_subflow(f"parent-{number}")
        for _ in range(POLLS):
            self._at(self._some_moment(), partial(self._api.poll_work_pool, POOL, QUEUES))
        self._plan.sort(key=lambda item: item[0])

    def set_up(self) -> None:
        """Make the pool, its queues and the deployments."""
        self._api.create_work_pool(POOL)
        for queue in QUEUES:
            self._api.create_work_queue(POOL, queue)
        for number in range(DEPLOYMENTS):
            flow = self._api.create_flow(f"soak-flow-{number}")
            deployment = self._api.create_deployment(
                f"soak-{number}", flow["id"], POOL, QUEUES[number % len(QUEUES)], enforce_parameter_schema=False
            )
            self._deployments.append(deployment["id"])

    def advance(self, check_run: int, request: int) -> None:
        """Let everything happen that is due at this moment or was due before it."""
        while self._plan and self._plan[0][0] <= (check_run, request):
            _, act = self._plan.pop(0)
            act()
        if self._outbox:
            self._api.post_events(self._outbox)
            self._outbox = []

    def finish(self) -> None:
        """Let everything happen that has not happened yet."""
        while self._plan:
            self.advance(*self._plan[-1][0])

    def key_of(self, event: Json) -> str:
        """A name of an event that is the same in each replay of the seed."""
        resource = event["resource"]
        _, _, identity = resource["prefect.resource.id"].rpartition(".")
        label = self._labels.get(identity) or resource.get("prefect.resource.name", "")
        return f"{label} {event['event']} {resource.get('prefect.run-count')}"

    # Flow runs

    def _plan_flow_run(self, label: str) -> None:
        first, *states = self._story(FLOW_STORIES)
        moment = self._some_moment()
        created: list[str] = []
        in_deployment = self._dice.randrange(3) == 0
        queue = self._dice.choice((None, *QUEUES))
        deployment = self._dice.randrange(DEPLOYMENTS)
        create = self._create_deployment_run if in_deployment else self._create_lone_run
        self._at(moment, partial(create, created, label, first, deployment, queue))
        begun = moment
        for number, state in enumerate(states):
            moment = self._later(moment)
            self._at(moment, partial(self._enter, created, state))
            begun = moment if number < 2 else begun
        self._plan_tasks(label, created, begun)

    def _create_deployment_run(
        self, created: list[str], label: str, first: str, deployment: int, _: str | None
    ) -> None:
        run = self._api.create_deployment_run(self._deployments[deployment], _first_state(first), name=label)
        self._register(created, label, run)

    def _create_lone_run(self, created: list[str], label: str, first: str, _: int, queue: str | None) -> None:
        # a flow of its own, so that the tags of what is lost say which run it was
        flow = self._api.create_flow(f"flow-of-{label}")
        fields = {"work_pool_name": POOL, "work_queue_name": queue} if queue else {}
        self._register(created, label, self._api.create_flow_run(flow["id"], _first_state(first), name=label, **fields))

    def _register(self, created: list[str], label: str, run: Json) -> None:
        created.append(run["id"])
        self._labels[run["id"]] = label

    def _enter(self, created: list[str], state: str) -> None:
        state_type, _, name = state.partition(":")
        self._api.set_flow_run_state(created[0], state_type, name or None, force=True)

    # Task runs

    def _plan_tasks(self, label: str, flow_run: list[str], moment: Moment) -> None:
        clock = Clock(timedelta(seconds=self._dice.choice((0, 0, 0.5, 40))), datetime.now(UTC))
        ended: list[str] = []
        made: dict[str, ClientTaskRun] = {}
        for number in range(self._dice.randint(0, MOST_TASKS)):
            task = f"{label}-task-{number}"
            upstream = self._dice.sample(ended, self._dice.randint(0, len(ended)))
            story = self._story(TASK_STORIES)
            self._at(moment, partial(self._create_task_run, made, task, flow_run, upstream))
            for state in story:
                self._at(moment, partial(self._enter_task, made, task, state, clock))
                moment = self._later(moment)
            if any(state.startswith(ENDS) for state in story):
                ended.append(task)

    def _create_task_run(
        self, made: dict[str, ClientTaskRun], task: str, flow_run: list[str], upstream: list[str]
    ) -> None:
        run = ClientTaskRun(self._api, task, flow_run[0], [made[name].id for name in upstream])
        made[task] = run
        self._labels[run.id] = task

    def _enter_task(self, made: dict[str, ClientTaskRun], task: str, state: str, clock: Clock) -> None:
        if state.startswith("+"):
            clock.tick(float(state))
            return
        state_type, _, name = state.partition(":")
        event = made[task].prepare(state_type, name or None, at=clock.tick())
        self.sent_event_ids.append(event["id"])
        self._outbox.append(event)

    # A flow run with a subflow, and a task run that waits for it

    def _plan_subflow(self, label: str) -> None:
        parent: list[str] = []
        stand_in: list[str] = []
        child: list[str] = []
        moment = self._some_moment()
        self._at(moment, partial(self._create_lone_run, parent, label, "PENDING", 0, QUEUES[0]))
        self._at(moment, partial(self._enter, parent, "RUNNING"))
        self._at(moment, partial(self._create_subflow, parent, stand_in, child, label))
        for state in ("RUNNING", self._dice.choice(ENDS)):
            moment = self._later(moment)
            self._at(moment, partial(self._enter, child, state))
        self._at(moment, partial(self._follow, parent, stand_in, label))
        self._at(self._later(moment), partial(self._enter, parent, "COMPLETED"))

    def _create_subflow(self, parent: list[str], stand_in: list[str], child: list[str], label: str) -> None:
        stand_in.append(self._api.create_task_run(parent[0], f"{label}-subflow", {"type": "RUNNING"})["id"])
        flow = self._api.create_flow(f"subflow-of-{label}")
        run = self._api.create_flow_run(flow["id"], name=f"{label}-child", parent_task_run_id=stand_in[0])
        self._register(child, f"{label}-child", run)

    def _follow(self, parent: list[str], stand_in: list[str], label: str) -> None:
        made: dict[str, ClientTaskRun] = {}
        task = f"{label}-follower"
        made[task] = ClientTaskRun(self._api, task, parent[0], stand_in)
        self._labels[made[task].id] = task
        clock = Clock(timedelta(seconds=2), datetime.now(UTC))
        for state in ("PENDING", "RUNNING", "COMPLETED"):
            self._enter_task(made, task, state, clock)

    def _poison(self, name: str, label: str) -> None:
        for event in POISON_EVENTS[name]():
            event["resource"]["prefect.resource.name"] = label
            self.poison_ids |= {event["id"], id_in(event["resource"]["prefect.resource.id"])}
            self.sent_event_ids.append(event["id"])
            self._outbox.append(event)

    # Chance

    def _at(self, moment: Moment, act: Callable[[], object]) -> None:
        self._plan.append((moment, lambda: (act(), None)[1]))
        if self._poison_dice.randrange(STEPS_A_POISON) == 0:
            name = self._poison_dice.choice(OF_NO_CONSEQUENCE)
            self._plan.append((moment, partial(self._poison, name, f"poison-{len(self._plan)}")))

    def _story(self, stories: tuple[tuple[int, tuple[str, ...]], ...]) -> tuple[str, ...]:
        weights, choices = zip(*stories, strict=True)
        story: tuple[str, ...] = self._dice.choices(choices, weights)[0]
        return story

    def _some_moment(self) -> Moment:
        return self._dice.randint(1, self._last_run), self._dice.choice((0, self._dice.randint(1, 20)))

    def _later(self, moment: Moment) -> Moment:
        """The same moment, one a few requests later in the same check run, or one in a later check run."""
        check_run, request = moment
        match self._dice.randrange(10):
            case 0 | 1 | 2 | 3:
                return moment
            case 4 | 5:
                return check_run, request + self._dice.randint(1, MOST_REQUESTS_BETWEEN)
            case _:
                return check_run + self._dice.randint(1, 2), self._dice.choice((0, self._dice.randint(1, 20)))


def _first_state(state: str) -> Json:
    """The state that a run is created in; `SCHEDULED-60` is one that should have started 60 seconds ago."""
    state_type, _, ago = state.partition("-")
    return run_state(state_type, scheduled_time=datetime.now(UTC) - timedelta(seconds=float(ago)) if ago else None)
