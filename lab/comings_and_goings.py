"""A server on which nothing stays: pools, deployments, flows, runs and task runs come and go, minute by minute."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from .memory_server import Json, MemoryServer, Thing

# What happens repeats itself after so many minutes.
PERIOD = 240
# Otherwise nothing happens.
BUSY_EVERY = 4
POOL_EVERY, DEPLOYMENT_EVERY = 80, 20
LIFETIME = 60
# A run can be seen for so many minutes after its beginning.
RUN_LIFETIME = 30
EVENTS_KEPT = timedelta(hours=5)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HALF_A_MINUTE = timedelta(seconds=30)

Action: TypeAlias = Callable[[], None]


class ComingsAndGoings:
    """`pass_half_a_minute` lets so much time pass on the server. `truth` counts the ends of runs by their metrics."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.truth: Counter[str] = Counter()
        self._minute = self._halves = 0
        self._made = 0
        self._runs = 0
        self._agenda: dict[int, list[Action]] = {}
        self._pools: deque[tuple[Thing, Thing]] = deque()
        self._deployments: deque[Thing] = deque()
        self._new_pool()
        self._new_deployment()

    def pass_half_a_minute(self) -> None:
        self._halves += 1
        self.server.now += HALF_A_MINUTE
        self._keep_alive()
        if self._halves % 2 == 0:
            self._pass_minute()

    def _pass_minute(self) -> None:
        self._minute += 1
        if self._minute % BUSY_EVERY == 1:
            for minute in sorted(minute for minute in self._agenda if minute <= self._minute):
                for action in self._agenda.pop(minute):
                    action()
            self._come_and_go()
        if self._minute % PERIOD == 0:
            self.server.forget_events(self.server.now - EVENTS_KEPT)

    def _come_and_go(self) -> None:
        if self._minute % POOL_EVERY == 1:
            self._new_pool()
        if self._minute % DEPLOYMENT_EVERY == 5:
            self._new_deployment()
        deployment = self._deployments[self._minute % len(self._deployments)]
        if self._minute % 8 == 1:
            self._change_readiness(deployment)
        if self._minute % 8 == 5:
            deployment.change(name=f"{deployment.fields['name']}'"[-40:], updated=self.server.now)
        self._runs += 1
        _FlowRun(self, self._runs, None if self._runs % 10 == 9 else deployment).plan()

    def later(self, minutes: int, action: Action) -> None:
        """Do this so many minutes later, or in the first after these in which anything happens."""
        self._agenda.setdefault(self._minute + minutes, []).append(action)

    def new_id(self) -> str:
        self._made += 1
        return f"{self._made:08x}-0000-4000-8000-000000000000"

    # Pools and deployments

    def _new_pool(self) -> None:
        pool_id, tables = self.new_id(), self.server.tables
        name = f"pool-{pool_id[:8]}"
        pool = self.server.put("work_pools", id=pool_id, name=name, type="process", status="READY")
        queue = self.server.put(
            "work_queues",
            id=self.new_id(),
            name=f"queue-{pool_id[:8]}",
            priority=1,
            concurrency_limit=4,
            last_polled=self.server.now,
            status="READY",
            work_pool_id=pool_id,
            work_pool_name=name,
        )
        worker_id = self.new_id()
        self.server.put(
            "workers", id=worker_id, pool=name, name=worker_id, status="ONLINE", last_heartbeat_time=self.server.now
        )
        self._pools.append((pool, queue))

        def remove() -> None:
            self._pools.popleft()
            for table, identity in ("work_pools", pool_id), ("work_queues", queue.fields["id"]), ("workers", worker_id):
                del tables[table][identity]

        # The last deployment that was made on it is gone before.
        self.later(LIFETIME + POOL_EVERY, remove)

    def _new_deployment(self) -> None:
        pool, queue = self._pools[-1]
        flow, identity = self.new_flow(), self.new_id()
        deployment = self.server.put(
            "deployments",
            id=identity,
            name=f"deployment-{identity[:8]}",
            flow_id=flow.fields["id"],
            paused=False,
            status="READY",
            created=self.server.now,
            updated=self.server.now,
            work_pool_name=pool.fields["name"],
            work_pool_id=pool.fields["id"],
            work_queue_id=queue.fields["id"],
            work_queue_name=queue.fields["name"],
        )
        self._deployments.append(deployment)

        def remove() -> None:
            self._deployments.popleft()
            del self.server.tables["deployments"][identity]
            planned = [
                run for run in self.server.tables["flow_runs"].values() if run.fields["deployment_id"] == identity
            ]
            for run in planned:
                if run.fields["state_type"] == "SCHEDULED" and run.fields["run_count"] == 0:
                    del self.server.tables["flow_runs"][run.fields["id"]]
            if self._minute % (2 * DEPLOYMENT_EVERY) == 5:
                self.tell(f"prefect.deployment.{identity}", "prefect.deployment.deleted", self.server.now)

        self.later(LIFETIME, remove)

    def new_flow(self) -> Thing:
        identity = self.new_id()
        flow = self.server.put("flows", id=identity, name=f"flow-{identity[:8]}")

        def remove() -> None:
            del self.server.tables["flows"][identity]

        self.later(LIFETIME + RUN_LIFETIME, remove)
        return flow

    def _change_readiness(self, deployment: Thing) -> None:
        status = "NOT_READY" if deployment.fields["status"] == "READY" else "READY"
        deployment.change(status=status)
        name = f"prefect.deployment.{status.lower().replace('_', '-')}"
        self.tell(f"prefect.deployment.{deployment.fields['id']}", name, self.server.now - SECOND)

    def _keep_alive(self) -> None:
        for worker in self.server.tables["workers"].values():
            worker.change(last_heartbeat_time=self.server.now)
        for queue in self.server.tables["work_queues"].values():
            queue.change(last_polled=self.server.now)

    def tell(self, resource_id: str, name: str, at: datetime, late_by: int = 0, **more: Any) -> None:
        """An event, which becomes visible so many minutes late; `more` is what its resource and itself have besides."""
        resource = {"prefect.resource.id": resource_id, **more.pop("labels", {})}
        event = {"id": self.new_id(), "event": name, "occurred": at, "resource": resource, "related": [], **more}
        if late_by:
            self.later(late_by, lambda: self.server.happen(event))
        else:
            self.server.happen(event)


class _Run:
    """What flow runs and task runs have in common."""

    kind = ""
    table = ""

    def __init__(self, world: ComingsAndGoings, number: int, **fields: Any) -> None:
        self.world = world
        self.number = number
        self.thing = world.server.put(
            self.table,
            id=world.new_id(),
            run_count=0,
            total_run_time=0.0,
            start_time=None,
            end_time=None,
            **fields,
        )

    @property
    def id(self) -> str:
        return str(self.thing.fields["id"])

    def enter(self, kind: str, at: datetime, name: str | None = None, late_by: int = 0, is_told: bool = True) -> None:
        name = name or kind.capitalize()
        fields, before = self.thing.fields, self.thing.fields["state_type"]
        changes: Json = {"state_type": kind, "state_name": name, "state": {"timestamp": at}}
        changes["next_scheduled_start_time"] = at + MINUTE if kind == "SCHEDULED" else None
        changes["end_time"] = at if kind in ("COMPLETED", "FAILED") else None
        if kind == "RUNNING":
            changes |= {"run_count": fields["run_count"] + 1, "start_time": fields["start_time"] or at}
        if before == "RUNNING":
            spent = at - fields["state"]["timestamp"]
            changes["total_run_time"] = fields["total_run_time"] + spent.total_seconds()
        self.thing.change(**changes)
        history = self.world.server.histories.setdefault(self.id, [])
        history.append({"id": self.world.new_id(), "type": kind, "name": name, "timestamp": at})
        if changes["end_time"]:
            self.world.truth[f"{self.table}.{kind.lower()}.count"] += 1
        if is_told:
            payload = {
                "intended": {"from": before, "to": kind},
                "initial_state": {"type": before, "name": before.capitalize()},
                "validated_state": {"type": kind, "name": name},
                **self.payload(),
            }
            labels = {
                "prefect.resource.name": f"run {self.number}",
                "prefect.state-name": name,
                "prefect.state-type": kind,
                "prefect.run-count": str(self.thing.fields["run_count"]),
            }
            event = f"prefect.{self.kind}.{name}"
            resource_id = f"prefect.{self.kind}.{self.id}"
            self.world.tell(resource_id, event, at, late_by, labels=labels, payload=payload, related=self.related())

    def payload(self) -> Json:
        return {}

    def related(self) -> list[Json]:
        raise NotImplementedError

    def remove(self) -> None:
        self.world.server.tables[self.table].pop(self.id, None)
        self.world.server.histories.pop(self.id, None)


class _FlowRun(_Run):
    """Planned, then running with two task runs, then over; one of five each is plain, retried, untold, late or gone."""

    kind, table = "flow-run", "flow_runs"

    def __init__(self, world: ComingsAndGoings, number: int, deployment: Thing | None) -> None:
        of_it = deployment.fields if deployment else {"flow_id": world.new_flow().fields["id"]}
        names = ("work_pool_id", "work_pool_name", "work_queue_id", "work_queue_name", "flow_id")
        start = world.server.now + 3 * MINUTE - 30 * SECOND
        super().__init__(
            world,
            number,
            **{name: of_it.get(name) for name in names},
            deployment_id=of_it.get("id"),
            name=f"run {number}",
            state_type="SCHEDULED",
            state_name="Scheduled",
            state={"timestamp": world.server.now},
            expected_start_time=start,
            next_scheduled_start_time=start,
        )
        self._tasks: list[_TaskRun] = []

    def plan(self) -> None:
        self.world.later(3, self._start)
        self.world.later(RUN_LIFETIME, self.remove)

    def _start(self) -> None:
        if self.id not in self.world.server.tables["flow_runs"]:
            return
        now, late_by = self.world.server.now, 4 if self.number % 5 == 3 else 0
        self.enter("PENDING", now - 20 * SECOND, late_by=late_by)
        self.enter("RUNNING", now - 19 * SECOND, late_by=late_by)
        extract = _TaskRun(self.world, self, "extract", ())
        load = _TaskRun(self.world, self, "load", (extract,))
        self._tasks = [extract, load]
        extract.enter("RUNNING", now - 15 * SECOND)
        extract.enter("COMPLETED", now - 10 * SECOND, is_told=self.number % 5 != 0 or self._is_old)
        load.enter("RUNNING", now - 9 * SECOND, late_by=late_by)
        if self.number % 10 == 5:
            self._tasks.append(_TaskRun(self.world, self, "stuck", (load,)))
        self.world.later(2, self._end)

    def _end(self) -> None:
        now, what = self.world.server.now, self.number % 5
        if what == 4:
            self.remove()
            return
        self._tasks[1].enter("FAILED" if what == 1 else "COMPLETED", now - 12 * SECOND)
        if what == 1:
            self.enter("FAILED", now - 11 * SECOND)
            self.enter("SCHEDULED", now - 10 * SECOND, "AwaitingRetry")
            self.world.later(1, self._run_again)
        else:
            self.enter("COMPLETED", now - 11 * SECOND, late_by=4 if what == 3 else 0, is_told=what != 2)

    def _run_again(self) -> None:
        now = self.world.server.now
        self.enter("RUNNING", now - 20 * SECOND)
        self.enter("COMPLETED", now - 2 * SECOND)

    @property
    def _is_old(self) -> bool:
        return not self.world.server.ends_of_task_runs

    def related(self) -> list[Json]:
        fields = self.thing.fields
        roles = {
            "flow": fields["flow_id"],
            "deployment": fields["deployment_id"],
            "work-pool": fields["work_pool_id"],
            "work-queue": fields["work_queue_id"],
        }
        return [related(role, identity) for role, identity in roles.items() if identity]

    def remove(self) -> None:
        super().remove()
        for task in self._tasks:
            task.remove()


class _TaskRun(_Run):
    kind, table = "task-run", "task_runs"

    def __init__(self, world: ComingsAndGoings, flow_run: _FlowRun, task: str, upstream: tuple[_TaskRun, ...]) -> None:
        self._flow_run = flow_run
        now = world.server.now
        super().__init__(
            world,
            flow_run.number,
            flow_run_id=flow_run.id,
            task_key=f"{task}-0a1b2c3d",
            dynamic_key=world.new_id(),
            task_inputs={"data": [{"input_type": "task_run", "id": task_run.id} for task_run in upstream]},
            state_type="PENDING",
            state_name="Pending",
            state={"timestamp": now - 18 * SECOND},
            expected_start_time=now - 18 * SECOND,
        )

    def payload(self) -> Json:
        names = ("task_key", "dynamic_key", "task_inputs", "run_count", "expected_start_time", "total_run_time")
        return {"task_run": {name: self.thing.fields[name] for name in names}}

    def related(self) -> list[Json]:
        return [related("flow-run", self._flow_run.id), *self._flow_run.related()]


def related(role: str, identity: str) -> Json:
    return {"prefect.resource.id": f"prefect.{role}.{identity}", "prefect.resource.role": role}
