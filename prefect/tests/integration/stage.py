"""What a test needs on the server, made under names of its own."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cached_property

from lab.prefect_api import Json, PrefectApi


@dataclass
class Stage:
    """A flow, a pool with one queue, and a deployment on it, all with unique names."""

    api: PrefectApi

    def __post_init__(self) -> None:
        self.name = f"stage-{uuid.uuid4().hex[:10]}"

    @cached_property
    def flow(self) -> Json:
        return self.api.create_flow(f"{self.name}-flow")

    @cached_property
    def pool(self) -> Json:
        return self.api.create_work_pool(f"{self.name}-pool")

    @cached_property
    def queue(self) -> Json:
        return self.api.create_work_queue(self.pool["name"], f"{self.name}-queue", concurrency_limit=4, priority=7)

    @cached_property
    def deployment(self) -> Json:
        return self.api.create_deployment(
            f"{self.name}-deployment", self.flow["id"], self.pool["name"], self.queue["name"]
        )

    @property
    def only_this(self) -> dict[str, dict[str, list[str]]]:
        """Instance options that leave out what other tests have on the server."""
        names = {"include": [f"^{self.name}"]}
        return {"work_pool_names": names, "deployment_names": names}

    @property
    def pool_tags(self) -> frozenset[str]:
        return frozenset({f"work_pool_id:{self.pool['id']}", f"work_pool_name:{self.pool['name']}"})

    @property
    def queue_tags(self) -> frozenset[str]:
        own = {
            f"work_queue_id:{self.queue['id']}",
            f"work_queue_name:{self.queue['name']}",
            f"work_queue_priority:{self.queue['priority']}",
        }
        return self.pool_tags | own

    @property
    def flow_tags(self) -> frozenset[str]:
        return frozenset({f"flow_id:{self.flow['id']}", f"flow_name:{self.flow['name']}"})

    @property
    def run_tags(self) -> frozenset[str]:
        """The tags of the deployment's flow runs."""
        own = {
            f"deployment_id:{self.deployment['id']}",
            f"deployment_name:{self.deployment['name']}",
            f"work_queue_id:{self.queue['id']}",
            f"work_queue_name:{self.queue['name']}",
        }
        return self.pool_tags | self.flow_tags | own

    def run(self, *states: str) -> Json:
        """A run of the deployment that went through these states (types, or `TYPE:Name`), the first being SCHEDULED."""
        run = self.api.create_deployment_run(self.deployment["id"])
        for state in states:
            self.enter(run, state)
        return run

    def runs_in_progress(self) -> list[Json]:
        """A run in each state that has a gauge, and a task run of the third, which runs."""
        runs = [
            self.run(),
            self.run("PENDING"),
            self.run("PENDING", "RUNNING"),
            self.run("PENDING", "RUNNING", "PAUSED"),
        ]
        self.api.create_task_run(runs[2]["id"], "load-0a1b2c3d", {"type": "RUNNING"})
        return runs

    def enter(self, run: Json, state: str) -> Json:
        """Force a run into a state, given as `TYPE` or `TYPE:Name`."""
        state_type, _, name = state.partition(":")
        return self.api.set_flow_run_state(run["id"], state_type, name or None, force=True)

    def seen(self, *runs: Json) -> None:
        """Wait until the events of these runs are visible."""
        for run in runs:
            self.api.wait_for_run_events(run["id"])
