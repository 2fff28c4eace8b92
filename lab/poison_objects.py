"""Bad objects, as anybody may make them by Prefect's API.

Each of `UNREADABLE_OBJECTS` makes the server answer 500 to every request for a page that it is on, until it is taken
back; they were found on Prefect 3.8.8. `POISON_OBJECTS` stand in nobody's way on the server.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, urlsplit

from .errors import LabError
from .poison import (
    BIDI,
    BUSY_SECONDS,
    CONTROLS,
    EMOJI,
    MARKER,
    MEGABYTE,
    POST_SECONDS,
    Posted,
    Refused,
    inputs,
    nested,
    send,
)
from .prefect_api import Json, PrefectApi, run_state
from .waiting import wait_until

LARGEST = 2**63 - 1
# One more than what the server's JSON of flow runs may hold.
TOO_LARGE = 2**64
# Deeper than the server's JSON of flow runs may be, and than that of all else.
TOO_DEEP, FAR_TOO_DEEP = 252, 300
SURROGATE = "\ud800"
FIRST_YEAR, LAST_YEAR = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"
# What the names of pools, queues and flows cannot hold (/ % & > <) is in none of these.
ODD_NAMES = {
    "NUL and control characters": "odd\0{}name".format(CONTROLS.replace("\n", "")),
    "quotes, colons and commas": """odd: "name", 'odd', #[{`?;|\\*""",
    "marks and emoji": f"odd{BIDI}{EMOJI}",
    "5,000 characters": "odd" * 1667,
    "dots": "..odd..",
}


class Maker:
    """Makes poisonous objects with `api`, and takes them back. What cannot be made raises `Refused`."""

    def __init__(self, api: PrefectApi) -> None:
        self.api = api
        self._ids: list[str] = []
        self._event_ids: list[str] = []
        # What takes everything away: with a flow go its runs and its deployments, with a pool its queues and workers.
        self._paths: list[str] = []

    def posted(self) -> Posted:
        return Posted(self._ids, self._event_ids, take_back=self._take_back)

    def _take_back(self) -> None:
        for path in self._paths:
            wait_until(partial(_delete, self.api, path), BUSY_SECONDS, f"Another answer than 503 to DELETE {path}")

    def flow(self, name: str = "poison") -> str:
        """A flow's id."""
        flow = self.api.create_flow(_unique(name))
        self._paths.append(f"flows/{flow['id']}")
        self._ids.append(flow["id"])
        return str(flow["id"])

    def pool(self, name: str | None = None, **fields: Any) -> str:
        """A pool's name."""
        pool = self.api.create_work_pool(name or _unique("poison"), **fields)
        self._paths.append(f"work_pools/{quote(pool['name'], safe='')}")
        self._ids.append(pool["id"])
        return str(pool["name"])

    def deployment(self, name: str | None = None, flow: str | None = None, **fields: Any) -> str:
        """A deployment's id."""
        name = _unique("poison") if name is None else name
        deployment = self.api.create_deployment(name, flow or self.flow(), **fields)
        self._ids.append(deployment["id"])
        return str(deployment["id"])

    def run(self, state: Json | None = None, **fields: Any) -> str:
        """The id of a run without a deployment, PENDING unless `state` says otherwise."""
        run = self.api.create_flow_run(self.flow(), state or run_state("PENDING"), **fields)
        self._ids.append(run["id"])
        return str(run["id"])

    def deployment_run(self, deployment: str, *states: str, **fields: Any) -> str:
        run = self.api.create_deployment_run(deployment, **fields)
        self._ids.append(run["id"])
        for state in states:
            self.api.set_flow_run_state(run["id"], state, force=True)
        return str(run["id"])

    def end(self, run: str, name: str | None = None, message: str | None = None) -> None:
        """Let a run end; each of its last states has that name and that message."""
        for state in ("RUNNING", "COMPLETED"):
            self.api.set_flow_run_state(run, state, name, message, force=True)
        # An event of more than 1.5 MB is shown to nobody.
        if len(message or "") < MEGABYTE:
            self._event_ids += [state["id"] for state in self.api.flow_run_states(run)]

    def task_run(self, run: str, **fields: Any) -> None:
        """A task run that is RUNNING."""
        task_key = fields.pop("task_key", "poison-0a1b2c3d")
        task_run = self.api.create_task_run(run, task_key, {"type": "RUNNING"}, **fields)
        self._ids.append(task_run["id"])

    def limit(self, path: str, **fields: Any) -> None:
        made = self.api.post(path, fields)
        self._ids.append(made["id"])
        self._paths.append(f"{path}{made['id']}")

    def send(self, path: str, body: Json) -> None:
        """Make what the server cannot show: it does so, and answers 500."""
        status = send(self.api, path, body)
        if status not in (201, 500):
            raise Refused(f"the server answers {status}")
        # No answer tells whose fault it is that a page cannot be shown.
        self._ids.clear()

    def named(self, path: str) -> None:
        """Take back what is at this path, too."""
        self._paths.append(path)


def _delete(api: PrefectApi, path: str) -> bool:
    """Delete what is at a path, as the path is: the usual client resolves dots. Whether the server was not too busy."""
    url = urlsplit(f"{api.api_url}/{path}")
    with closing(HTTPConnection(url.hostname or "", url.port, timeout=POST_SECONDS)) as connection:
        connection.request("DELETE", url.path)
        return connection.getresponse().status != 503


Make = Callable[[Maker], object]


def make(api: PrefectApi, make: Make) -> Posted:
    """Make a poisonous object. Raises `Refused` where the server takes it for what it is."""
    maker = Maker(api)
    try:
        make(maker)
    except LabError as error:
        maker.posted().take_back()
        raise Refused(str(error)) from error
    return maker.posted()


def _unique(name: str) -> str:
    return f"{name} {uuid.uuid4().hex[:8]}"


def _everything_named(odd: str, maker: Maker) -> None:
    """A flow, a pool, a worker, a queue and a deployment of that name, with a run that is over and one that is not."""
    api, name = maker.api, _unique(odd)
    flow, pool = maker.flow(odd), maker.pool(name, type=name)
    queue = "default"
    # A path that holds a line break leads nowhere.
    if "\n" not in name:
        queue = name
        api.heartbeat(pool, name, interval_seconds=3600)
        api.create_work_queue(pool, queue)
    deployment = maker.deployment(name, flow, pool=pool, queue=queue, tags=[name])
    tags = [name, "a,b", "c:d", ""]
    maker.end(maker.deployment_run(deployment, name=name, tags=tags))
    running = maker.deployment_run(deployment, "PENDING", "RUNNING", name=name, tags=tags)
    maker.task_run(running, task_key=f"{name}-0a1b2c3d", tags=[name])


def _queue(maker: Maker, changed: Json | None = None, **fields: Any) -> None:
    """A queue with a run that waits in it."""
    pool = maker.pool()
    maker.api.create_work_queue(pool, "poison", **fields)
    if changed:
        maker.api.update_work_queue(pool, "poison", **changed)
    due = run_state("SCHEDULED", scheduled_time=datetime.now(UTC))
    maker.run(due, work_pool_name=pool, work_queue_name="poison")


def _worker(maker: Maker, interval_seconds: int) -> None:
    maker.api.heartbeat(maker.pool(), "poison", interval_seconds)


def _schedule(maker: Maker, anchor: str) -> None:
    schedule = {"interval": 3600, "anchor_date": anchor}
    maker.deployment(schedules=[{"schedule": schedule, "active": True}])


def _limits(maker: Maker, limit: int) -> None:
    name = _unique(f"\0{CONTROLS}")
    maker.limit("v2/concurrency_limits/", name=name, limit=limit, active_slots=min(limit, 10))
    maker.limit("concurrency_limits/", tag=name, concurrency_limit=limit)


def _ended_run(maker: Maker, message: str | None = None, state_name: str | None = None, **fields: Any) -> None:
    maker.end(maker.run(**fields), state_name, message)


def _planned_run(maker: Maker, moment: str, state_type: str = "SCHEDULED") -> None:
    maker.run(run_state(state_type) | {"state_details": {"scheduled_time": moment}})


def _task_run(maker: Maker, **fields: Any) -> None:
    maker.task_run(maker.run(), **fields)


def _each(*makes: Make) -> Make:
    """One thing after the other."""

    def make_all(maker: Maker) -> None:
        for make in makes:
            make(maker)

    return make_all


def _of_pool(maker: Maker, **fields: Any) -> None:
    maker.pool(**fields)


def _of_deployment(maker: Maker, **fields: Any) -> None:
    maker.deployment(**fields)


def _of_run(maker: Maker, **fields: Any) -> None:
    maker.run(**fields)


POISON_OBJECTS: dict[str, Make] = {
    **{f"names with {what}": partial(_everything_named, name) for what, name in ODD_NAMES.items()},
    "a pool whose name is a query": partial(_of_pool, name="a?b=c#d"),
    "a pool and a queue with huge limits": _each(
        partial(_of_pool, concurrency_limit=LARGEST), partial(_queue, concurrency_limit=LARGEST, priority=LARGEST)
    ),
    "a queue with a limit of 0": partial(_queue, concurrency_limit=0),
    "queues polled in the years 1 and 9999": _each(
        *(partial(_queue, changed={"last_polled": year}) for year in (FIRST_YEAR, LAST_YEAR))
    ),
    "workers that beat before they have beaten, or never again": _each(
        *(partial(_worker, interval_seconds=seconds) for seconds in (-5, LARGEST))
    ),
    "a deployment and a run without a name": _each(partial(_of_deployment, name=""), partial(_ended_run, name="")),
    "a deployment with parameters of 400 kB": partial(_of_deployment, parameters={"text": MARKER * 28_000}),
    "a deployment with a number of 4,000 digits": partial(_of_deployment, parameters={MARKER: int("9" * 4000)}),
    "schedules from the years 1 and 9999 on": _each(
        *(partial(_schedule, anchor=year) for year in (FIRST_YEAR, LAST_YEAR))
    ),
    "a run with parameters of 400 kB": partial(_ended_run, parameters={"text": MARKER * 28_000}),
    "a run with parameters that are 251 deep": partial(_ended_run, parameters={"deep": nested(251)}),
    "a run with a name of a megabyte": partial(_of_run, name="n" * MEGABYTE),
    "a run with 80 odd tags": partial(_ended_run, tags=[f"{CONTROLS},:{number}" for number in range(80)]),
    "a run that was to start in the year 1": partial(_planned_run, moment=FIRST_YEAR),
    "a run that is to start in the year 9999": partial(_planned_run, moment=LAST_YEAR),
    "a pending run that was to start in the year 1": partial(_planned_run, moment=FIRST_YEAR, state_type="PENDING"),
    "a state's message of 2 MB": partial(_ended_run, message=MARKER * 142_000),
    "a state's message with NUL and control characters": partial(_ended_run, message=f"\0{CONTROLS}{BIDI}"),
    "a state's name of 900 characters": partial(_ended_run, state_name="n" * 900),
    "a state's name with dots and marks": partial(_ended_run, state_name=f"The.End...{BIDI}{EMOJI}"),
    "a state's name with control characters": partial(_ended_run, state_name=f"odd{CONTROLS}"),
    "limits of 0 and huge ones": _each(*(partial(_limits, limit=limit) for limit in (0, LARGEST))),
    "a task run with NUL and control characters": partial(
        _task_run, task_key=f"odd\0{CONTROLS}", tags=[f"odd{CONTROLS}"]
    ),
    "a task run of 20,000 inputs": partial(
        _task_run, task_inputs=inputs([str(uuid.uuid4()) for number in range(20_000)])
    ),
    "a pool that is called ..": partial(_of_pool, name=".."),
    "a pool that is called .": partial(_of_pool, name="."),
    # Such a pool cannot be taken back: its path leads nowhere.
    "names with a line break": partial(_everything_named, "odd\nname"),
}


def _run_with(maker: Maker, **fields: Any) -> None:
    maker.send("flow_runs/", {"flow_id": maker.flow(), **fields})


def _deployment_with(maker: Maker, **fields: Any) -> None:
    maker.send("deployments/", {"flow_id": maker.flow(), "name": "poison", **fields})


def _pool_with(maker: Maker, template: Json) -> None:
    name = uuid.uuid4().hex
    template = {"variables": {"properties": {}}, "job_configuration": template}
    maker.named(f"work_pools/{name}")
    maker.send("work_pools/", {"name": name, "type": "process", "base_job_template": template})


def _task_run_with(maker: Maker, **fields: Any) -> None:
    maker.send("task_runs/", {"flow_run_id": maker.run(), "task_key": "poison", "dynamic_key": "1", **fields})


UNREADABLE_OBJECTS: dict[str, Make] = {
    "a run with a parameter of 2^64": partial(_run_with, parameters={MARKER: TOO_LARGE}),
    "a run with a parameter that is no text": partial(_run_with, parameters={MARKER: SURROGATE}),
    "a run with parameters that are 252 deep": partial(_run_with, parameters={MARKER: nested(TOO_DEEP)}),
    "a run with a label that is no number": partial(_run_with, labels={MARKER: math.nan}),
    "a deployment with a parameter that is no text": partial(_deployment_with, parameters={MARKER: SURROGATE}),
    "a deployment with parameters that are 300 deep": partial(
        _deployment_with, parameters={MARKER: nested(FAR_TOO_DEEP)}
    ),
    "a pool with a template that is no text": partial(_pool_with, template={MARKER: SURROGATE}),
    "a task run with a label that is no number": partial(
        _task_run_with, labels={MARKER: math.nan}, state={"type": "RUNNING"}
    ),
}
