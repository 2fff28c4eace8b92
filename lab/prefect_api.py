"""Prefect's REST API as tests and the demo need it: make things happen, and wait until they can be seen.

Every method raises `LabError` when the server answers anything but 2xx; objects are returned as the server's JSON.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import parse_qs, quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from .errors import LabError
from .waiting import wait_until

Json: TypeAlias = dict[str, Any]

REQUEST_SECONDS = 120.0
BUSY_PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
EVENT_SECONDS = 120.0
TERMINAL_TYPES = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})


class PrefectApi:
    """A session with the server at `api_url`; `auth` is user and password, `csrf` fetches the token that POSTs need."""

    def __init__(self, api_url: str, auth: tuple[str, str] | None = None, csrf: bool = False) -> None:
        self.api_url = api_url
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor a .netrc
        self._session.auth = auth
        self._own_deployments: list[str] = []
        # The server may close a connection that lay idle just as it is used again.
        self._session.mount("http://", HTTPAdapter(max_retries=Retry(1, allowed_methods=None)))
        if csrf:
            client = str(uuid.uuid4())
            token = self.get(f"csrf-token?client={client}")["token"]
            self._session.headers.update({"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": client})

    # Requests

    def get(self, path: str) -> Any:
        return self._request("GET", path)

    def post(self, path: str, body: Any = None) -> Any:
        return self._request("POST", path, {} if body is None else body)

    def patch(self, path: str, body: Json) -> None:
        self._request("PATCH", path, body)

    def delete(self, path: str) -> None:
        self._request("DELETE", path)

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        url = f"{self.api_url}/{path}"
        for pause_seconds in (*BUSY_PAUSES_SECONDS, None):
            try:
                answer = self._session.request(method, url, json=body, timeout=REQUEST_SECONDS, allow_redirects=False)
            except requests.RequestException as error:
                raise LabError(f"{method} {url} got no answer: {error}") from error
            # A server whose SQLite is locked says 503 and has done nothing; Prefect's own client asks again, too.
            if answer.status_code != 503 or pause_seconds is None:
                break
            time.sleep(pause_seconds)
        if not 200 <= answer.status_code < 300:
            raise LabError(f"{method} {url} answered {answer.status_code}: {answer.text}")
        return answer.json() if answer.content else None

    # Flows, pools, queues, deployments, workers

    def create_flow(self, name: str) -> Json:
        """The flow of that name, made when there is none."""
        return _object(self.post("flows/", {"name": name}))

    def create_work_pool(self, name: str, **fields: Any) -> Json:
        """A pool of type `process` unless `fields` says otherwise."""
        return _object(self.post("work_pools/", {"name": name, "type": "process", **fields}))

    def work_pool(self, name: str) -> Json:
        return _object(self.get(f"work_pools/{quote(name, safe='')}"))

    def update_work_pool(self, name: str, **fields: Any) -> None:
        """Change e.g. `is_paused` or `concurrency_limit`."""
        self.patch(f"work_pools/{quote(name, safe='')}", fields)

    def delete_work_pool(self, name: str) -> None:
        self.delete(f"work_pools/{quote(name, safe='')}")

    def create_work_queue(
        self, pool: str, name: str, concurrency_limit: int | None = None, priority: int | None = None, **fields: Any
    ) -> Json:
        body = {"name": name, "concurrency_limit": concurrency_limit, "priority": priority, **fields}
        return _object(self.post(f"work_pools/{quote(pool, safe='')}/queues", body))

    def work_queue(self, pool: str, name: str) -> Json:
        return _object(self.get(_queue_path(pool, name)))

    def update_work_queue(self, pool: str, name: str, **fields: Any) -> None:
        """Change e.g. `is_paused`, `concurrency_limit`, `priority` or `last_polled`."""
        self.patch(_queue_path(pool, name), fields)

    def delete_work_queue(self, pool: str, name: str) -> None:
        self.delete(_queue_path(pool, name))

    def poll_work_pool(
        self, pool: str, queues: Sequence[str] = (), scheduled_before: datetime | None = None
    ) -> list[Json]:
        """Ask for scheduled runs as a worker does: the server marks pool and queues as polled. Starts nothing."""
        body: Json = {"work_queue_names": list(queues)} if queues else {}
        if scheduled_before is not None:
            body["scheduled_before"] = iso(scheduled_before)
        return _objects(self.post(f"work_pools/{quote(pool, safe='')}/get_scheduled_flow_runs", body))

    def create_deployment(
        self, name: str, flow_id: str, pool: str | None = None, queue: str | None = None, **fields: Any
    ) -> Json:
        """A deployment; `fields` may hold e.g. `entrypoint`, `schedules`, `paused` or `concurrency_limit`."""
        body: Json = {"name": name, "flow_id": flow_id, "work_pool_name": pool, "work_queue_name": queue}
        # Prefect 3.0 would refuse runs of a deployment that says nothing about its parameters.
        body |= {"enforce_parameter_schema": False, **fields}
        deployment = _object(self.post("deployments/", body))
        self._own_deployments.append(deployment["id"])
        return deployment

    def deployment(self, deployment_id: str) -> Json:
        return _object(self.get(f"deployments/{deployment_id}"))

    def pause_deployment(self, deployment_id: str) -> None:
        self.post(f"deployments/{deployment_id}/pause_deployment")

    def resume_deployment(self, deployment_id: str) -> None:
        self.post(f"deployments/{deployment_id}/resume_deployment")

    def delete_deployment(self, deployment_id: str) -> None:
        self.delete(f"deployments/{deployment_id}")

    def delete_own_deployments(self) -> None:
        """Delete those that were made with this object and still exist, with their scheduled runs."""
        own, self._own_deployments = self._own_deployments, []
        if own:
            for deployment in self.post("deployments/filter", {"deployments": {"id": {"any_": own}}}):
                self.delete_deployment(deployment["id"])

    def create_concurrency_limit(self, name: str, limit: int, **fields: Any) -> Json:
        """A global one; `fields` may hold e.g. `active`."""
        return _object(self.post("v2/concurrency_limits/", {"name": name, "limit": limit, **fields}))

    def create_tag_concurrency_limit(self, tag: str, limit: int) -> Json:
        return _object(self.post("concurrency_limits/", {"tag": tag, "concurrency_limit": limit}))

    def take_slots(self, name: str, number: int) -> None:
        """Take so many slots of a global concurrency limit."""
        self.post("v2/concurrency_limits/increment", {"names": [name], "slots": number})

    def heartbeat(self, pool: str, worker: str, interval_seconds: int | None = None) -> None:
        """Beat as a worker: it is ONLINE until three intervals (of 30 s when not given) have passed."""
        body: Json = {"name": worker}
        if interval_seconds is not None:
            body["heartbeat_interval_seconds"] = interval_seconds
        self.post(f"work_pools/{quote(pool, safe='')}/workers/heartbeat", body)

    def workers(self, pool: str) -> list[Json]:
        return _objects(self.post(f"work_pools/{quote(pool, safe='')}/workers/filter"))

    def delete_worker(self, pool: str, worker: str) -> None:
        self.delete(f"work_pools/{quote(pool, safe='')}/workers/{quote(worker, safe='')}")

    # Flow runs

    def create_flow_run(self, flow_id: str, state: Json | None = None, **fields: Any) -> Json:
        """A run without a deployment, PENDING unless `state` (see `state`) says otherwise.

        `fields` may hold e.g. `name`, `parent_task_run_id`, `work_pool_name` or `work_queue_name`.
        """
        return _object(self.post("flow_runs/", {"flow_id": flow_id, "state": state, **fields}))

    def create_deployment_run(self, deployment_id: str, state: Json | None = None, **fields: Any) -> Json:
        """A run of a deployment, SCHEDULED for now unless `state` says otherwise; `fields` as e.g. `parameters`."""
        state = state or run_state("SCHEDULED")
        return _object(self.post(f"deployments/{deployment_id}/create_flow_run", {"state": state, **fields}))

    def set_flow_run_state(
        self,
        flow_run_id: str,
        state_type: str,
        name: str | None = None,
        message: str | None = None,
        scheduled_time: datetime | None = None,
        force: bool = False,
        **details: Any,
    ) -> Json:
        """Move a run into a state and return that state. Raises `LabError` when the server does not accept it.

        `force` skips the server's rules; `details` are state details such as `pause_timeout`.
        """
        body = {"state": run_state(state_type, name, message, scheduled_time, **details), "force": force}
        answer = self.post(f"flow_runs/{flow_run_id}/set_state", body)
        if answer["status"] != "ACCEPT" or answer["state"]["type"] != state_type:
            raise LabError(f"The server did not let flow run {flow_run_id} become {state_type}: {answer}")
        return _object(answer["state"])

    def resume_flow_run(self, flow_run_id: str) -> None:
        self.post(f"flow_runs/{flow_run_id}/resume")

    def flow_run(self, flow_run_id: str) -> Json:
        return _object(self.get(f"flow_runs/{flow_run_id}"))

    def flow_runs(self, **filters: Json) -> list[Json]:
        """The first page of the runs that `filters` (e.g. `flow_runs={"id": {"any_": [...]}}`) let through."""
        return _objects(self.post("flow_runs/filter", filters))

    def flow_run_states(self, flow_run_id: str) -> list[Json]:
        """All states of a run, the oldest first."""
        states = _objects(self.get(f"flow_run_states/?flow_run_id={flow_run_id}"))
        return sorted(states, key=lambda state: str(state["timestamp"]))

    def delete_flow_run(self, flow_run_id: str) -> None:
        self.delete(f"flow_runs/{flow_run_id}")

    def wait_for_state(
        self, flow_run_id: str, types: Collection[str] = TERMINAL_TYPES, timeout_seconds: float = 120.0
    ) -> Json:
        """Wait until a run is in a state of one of these types, and return the run."""

        def arrived() -> Json | None:
            run = self.flow_run(flow_run_id)
            return run if run["state_type"] in types else None

        what = f"A state {' or '.join(sorted(types))} of flow run {flow_run_id}"
        return _object(wait_until(arrived, timeout_seconds, what))

    # Task runs; those of flow processes are written by `ClientTaskRun`, these requests write the stand-ins of subflows

    def create_task_run(self, flow_run_id: str | None, task_key: str, state: Json | None = None, **fields: Any) -> Json:
        """A task run that the server itself writes: no event tells of it."""
        body = {"flow_run_id": flow_run_id, "task_key": task_key, "dynamic_key": str(uuid.uuid4()), "state": state}
        return _object(self.post("task_runs/", body | fields))

    def set_task_run_state(self, task_run_id: str, state_type: str, force: bool = False) -> Json:
        body = {"state": run_state(state_type), "force": force}
        answer = self.post(f"task_runs/{task_run_id}/set_state", body)
        return _object(answer["state"])

    def task_run(self, task_run_id: str) -> Json:
        return _object(self.get(f"task_runs/{task_run_id}"))

    def task_runs(self, **filters: Json) -> list[Json]:
        """The first page of the task runs that `filters` let through, e.g. `flow_runs={"id": {"any_": [...]}}`."""
        return _objects(self.post("task_runs/filter", filters))

    def delete_task_run(self, task_run_id: str) -> None:
        self.delete(f"task_runs/{task_run_id}")

    # Events

    def post_events(self, events: Sequence[Json]) -> None:
        """Send events as flow processes do."""
        self.post("events", list(events))

    def events(self, **filters: Json) -> list[Json]:
        """All events that `filters` let through, e.g. `event={"prefix": ["prefect.flow-run."]}`, the oldest first."""
        now = datetime.now(UTC)
        # events of clocks that differ by up to a day are found, too
        occurred = {"since": iso(now - timedelta(days=7)), "until": iso(now + timedelta(days=1))}
        page = self.post("events/filter", {"filter": {"occurred": occurred, "order": "ASC", **filters}, "limit": 50})
        events: list[Json] = page["events"]
        while page["next_page"]:
            token = parse_qs(urlsplit(page["next_page"]).query)["page-token"][0]
            page = self.get(f"events/filter/next?page-token={quote(token)}")
            events += page["events"]
        return events

    def wait_for_events(
        self,
        ids: Collection[str] = (),
        count: int = 1,
        timeout_seconds: float = EVENT_SECONDS,
        **filters: Json,
    ) -> list[Json]:
        """Wait until all events of these ids, or without ids at least `count` events, are visible; return them."""
        if ids:
            filters["id"] = {"id": list(ids)}
            count = len(set(ids))

        def visible() -> list[Json] | None:
            events = self.events(**filters)
            return events if len(events) >= count else None

        return _objects(wait_until(visible, timeout_seconds, f"The sight of {count} events ({filters})"))

    def wait_for_run_events(self, flow_run_id: str, timeout_seconds: float = EVENT_SECONDS) -> list[Json]:
        """Wait until the events of all states that a flow run has had are visible (their ids are the states')."""
        return self.wait_for_events([state["id"] for state in self.flow_run_states(flow_run_id)], 1, timeout_seconds)

    def wait_for_task_run(
        self, task_run_id: str, condition: Callable[[Json], bool], timeout_seconds: float = EVENT_SECONDS
    ) -> Json:
        """Wait until the server has written a task run and `condition` holds for it; return it."""

        def written() -> Json | None:
            found = self.task_runs(task_runs={"id": {"any_": [task_run_id]}})
            return found[0] if found and condition(found[0]) else None

        return _object(wait_until(written, timeout_seconds, f"The expected state of task run {task_run_id}"))


def run_state(
    state_type: str,
    name: str | None = None,
    message: str | None = None,
    scheduled_time: datetime | None = None,
    **details: Any,
) -> Json:
    """A state as requests carry it; without a name Prefect takes the type's."""
    if scheduled_time is not None:
        details["scheduled_time"] = scheduled_time
    details = {key: iso(value) if isinstance(value, datetime) else value for key, value in details.items()}
    return {"type": state_type, "name": name, "message": message, "state_details": details}


def iso(moment: datetime) -> str:
    """A moment as Prefect writes it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _queue_path(pool: str, queue: str) -> str:
    return f"work_pools/{quote(pool, safe='')}/queues/{quote(queue, safe='')}"


def _object(answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise LabError(f"An object was expected of the server, not {answer!r}.")
    return answer


def _objects(answer: Any) -> list[Json]:
    if not isinstance(answer, list):
        raise LabError(f"A list was expected of the server, not {answer!r}.")
    return answer
