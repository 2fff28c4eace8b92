"""A small healthy Prefect on the loopback interface that answers some requests as no server should.

Its answers are invented, which is right for malformed input only. Each scene has a URL of its own, so that one server
is enough for many check runs side by side.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .loopback import LoopbackServer, QuietHandler

Json = dict[str, Any]
Objects = dict[str, list[Json]]

VERSION = "3.8.8"
WORKERS = "/work_pools/*/workers/filter"
EVERYWHERE = "*"
LIMITS = "/v2/concurrency_limits/filter"
POOL_ID, QUEUE_ID, WORKER_ID, FLOW_ID, DEPLOYMENT_ID, RUN_ID, TASK_ID, LIMIT_ID = (
    str(uuid.UUID(int=number + (0xA << 124))) for number in range(8)
)
BACKLOG = 128


@dataclass(frozen=True)
class Request:
    """`path` is without the scene and the query, and the same for all pools; `usual` is the healthy server's body."""

    path: str
    query: Mapping[str, list[str]]
    body: Json
    usual: bytes


# The whole answer from its status line on, piece by piece; at the end the connection is closed.
Answer = Callable[[Request], Iterable[bytes]]


class Prefect:
    """What the healthy server has, by the endpoint that lists it: one pool, and of a `busy` one something of all."""

    def __init__(self, busy: bool = False) -> None:
        self._now = datetime.now(UTC)
        self.objects = self._few() if not busy else {**self._few(), **self._many()}

    def answer(self, path: str, body: Json) -> Any:
        """The document that answers a request."""
        fixed = {"/health": True, "/ready": {"message": "OK"}, "/admin/version": VERSION}
        if path in fixed:
            return fixed[path]
        wanted = self._wanted(path.replace("/count", "/filter"), body)
        if path.endswith("/count"):
            return len(wanted)
        offset, limit = body.get("offset", 0), body.get("limit", 200)
        page = wanted[offset : offset + limit]
        return {"events": page, "total": len(wanted), "next_page": None} if path == "/events/filter" else page

    def _wanted(self, path: str, body: Json) -> list[Json]:
        found = self.objects.get(path, [])
        if path == "/flow_runs/filter" and "after_" in (body.get("flow_runs") or {}).get(
            "next_scheduled_start_time", {}
        ):
            return []  # nothing is planned for later
        if path == "/events/filter":
            found = [event for event in found if _matches(event, body["filter"])]
        return found

    def _at(self, seconds: float) -> str:
        return (self._now + timedelta(seconds=seconds)).isoformat()

    def _few(self) -> Objects:
        pool = {
            "id": POOL_ID,
            "name": "pool",
            "type": "process",
            "status": "READY",
            "is_paused": False,
            "default_queue_id": QUEUE_ID,
        }
        return {"/work_pools/filter": [pool]}

    def _many(self) -> Objects:
        queue = {
            "id": QUEUE_ID,
            "name": "queue",
            "priority": 1,
            "concurrency_limit": 5,
            "last_polled": self._at(-5),
            "status": "READY",
            "work_pool_id": POOL_ID,
            "work_pool_name": "pool",
        }
        worker = {"id": WORKER_ID, "name": "worker", "status": "ONLINE", "last_heartbeat_time": self._at(-5)}
        deployment = {
            "id": DEPLOYMENT_ID,
            "name": "deployment",
            "flow_id": FLOW_ID,
            "paused": False,
            "status": "READY",
            "work_pool_name": "pool",
            "work_queue_id": QUEUE_ID,
            "work_queue_name": "queue",
            "updated": self._at(-60),
        }
        limit = {"id": LIMIT_ID, "name": "limit", "limit": 5, "active_slots": 1, "active": True}
        return {
            WORKERS: [worker],
            LIMITS: [limit],
            "/work_queues/filter": [queue],
            "/deployments/filter": [deployment],
            "/flows/filter": [{"id": FLOW_ID, "name": "flow"}],
            "/flow_runs/filter": [self._run(RUN_ID, "RUNNING"), self._run(str(uuid.UUID(int=1)), "COMPLETED")],
            "/task_runs/filter": [self._task(TASK_ID, "RUNNING"), self._task(str(uuid.UUID(int=2)), "COMPLETED")],
            "/flow_run_states/": self._history(),
            "/task_run_states/": self._history(),
            "/events/filter": [
                self._event("flow-run", RUN_ID, "Running"),
                self._event("flow-run", str(uuid.UUID(int=1)), "Completed"),
                self._event("task-run", str(uuid.UUID(int=2)), "Completed"),
                self._readiness(),
            ],
        }

    def _run(self, identity: str, state_type: str) -> Json:
        return {
            "id": identity,
            "name": "run",
            "flow_id": FLOW_ID,
            "deployment_id": DEPLOYMENT_ID,
            "work_pool_id": POOL_ID,
            "work_pool_name": "pool",
            "work_queue_id": QUEUE_ID,
            "work_queue_name": "queue",
            **self._times(state_type),
            "next_scheduled_start_time": self._at(-10),
            "empirical_policy": {"retry_type": "reschedule"},
        }

    def _task(self, identity: str, state_type: str) -> Json:
        return {
            "id": identity,
            "flow_run_id": RUN_ID,
            "task_key": "extract",
            "dynamic_key": "0",
            "task_inputs": {"data": [{"input_type": "task_run", "id": TASK_ID}]},
            **self._times(state_type),
        }

    def _times(self, state_type: str) -> Json:
        """What runs of flows and of tasks have in common; they ran twice, so that their histories are read."""
        return {
            "state_type": state_type,
            "state_name": state_type.title(),
            "state": {"timestamp": self._at(-3), "state_details": {"scheduled_time": self._at(-10)}},
            "run_count": 2,
            "expected_start_time": self._at(-10),
            "start_time": self._at(-8),
            "end_time": self._at(-3) if state_type == "COMPLETED" else None,
            "total_run_time": 4.5,
        }

    def _history(self) -> list[Json]:
        moments = enumerate(("PENDING", "RUNNING", "FAILED", "RUNNING", "COMPLETED"))
        return [
            {
                "id": str(uuid.UUID(int=100 + number)),
                "type": state_type,
                "name": state_type.title(),
                "timestamp": self._at(number - 7),
                "state_details": {"scheduled_time": None},
            }
            for number, state_type in moments
        ]

    def _event(self, kind: str, identity: str, name: str) -> Json:
        task_run = {key: value for key, value in self._task(identity, name.upper()).items() if value is not None}
        state = {"type": name.upper(), "name": name}
        return {
            "id": str(uuid.uuid4()),
            "event": f"prefect.{kind}.{name}",
            "occurred": self._at(-3),
            "resource": {
                "prefect.resource.id": f"prefect.{kind}.{identity}",
                "prefect.resource.name": "run",
                "prefect.run-count": "2",
                "prefect.state-name": name,
                "prefect.state-type": name.upper(),
            },
            "related": [
                {"prefect.resource.id": f"prefect.{role}.{of}", "prefect.resource.role": role}
                for role, of in (("flow-run", RUN_ID), ("deployment", DEPLOYMENT_ID), ("flow", FLOW_ID))
            ],
            "payload": {
                "intended": {"from": "RUNNING", "to": name.upper()},
                "initial_state": {"type": "RUNNING", "name": "Running"},
                "validated_state": state,
                **({"task_run": task_run} if kind == "task-run" else {}),
            },
        }

    def _readiness(self) -> Json:
        return {
            "id": str(uuid.uuid4()),
            "event": "prefect.deployment.ready",
            "occurred": self._at(-3),
            "resource": {
                "prefect.resource.id": f"prefect.deployment.{DEPLOYMENT_ID}",
                "prefect.resource.name": "deployment",
            },
            "related": [{"prefect.resource.id": f"prefect.flow.{FLOW_ID}", "prefect.resource.role": "flow"}],
            "payload": {},
        }


def _matches(event: Json, criteria: Json) -> bool:
    """Whether the event is of the time and of the names that are asked for."""
    since, until = (datetime.fromisoformat(criteria["occurred"][end]) for end in ("since", "until"))
    names = criteria.get("event") or {}
    prefixes, exact = names.get("prefix") or [], names.get("name") or []
    is_named = event["event"] in exact or event["event"].startswith(tuple(prefixes)) or not (prefixes or exact)
    return is_named and since <= datetime.fromisoformat(event["occurred"]) <= until


@dataclass
class Scene:
    """A healthy server, but for the paths in `answers`, each for the first `times` requests or for all."""

    answers: Mapping[str, Answer]
    times: int | None = None
    busy: bool = False
    prefect: Prefect | None = None
    asked: int = 0
    is_healed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def usual(self, path: str, body: Json) -> bytes:
        """What the healthy server answers; its objects are as old as the first question."""
        with self.lock:
            self.prefect = self.prefect or Prefect(self.busy)
        return json.dumps(self.prefect.answer(path, body)).encode()

    def hostile_answer(self, path: str) -> Answer | None:
        """What to answer instead."""
        with self.lock:
            answer = self.answers.get(path) or self.answers.get(EVERYWHERE)
            if answer is None or self.is_healed or (self.times is not None and self.asked >= self.times):
                return None
            self.asked += 1
            return answer


class HostileServer(LoopbackServer):
    """Serves scenes, from entry to exit; a request for `heal` beneath a scene's URL ends its hostility."""

    def __init__(self) -> None:
        super().__init__(self._handler())
        self._server.socket.listen(BACKLOG)
        self._scenes: dict[str, Scene] = {}
        self._is_over = threading.Event()

    def url_of(self, scene: Scene) -> str:
        """Where the scene is played, for `prefect_url`."""
        name = uuid.uuid4().hex
        self._scenes[name] = scene
        return f"{self.url}/{name}/api"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        super().__exit__(kind, error, trace)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(QuietHandler):
            def respond(self) -> None:
                try:
                    self.close_connection = not server.respond(self)
                except OSError:
                    self.close_connection = True  # nobody waits for it any more

        return Handler

    def respond(self, handler: QuietHandler) -> bool:
        """Answer a request; returns whether the connection can be kept."""
        url = urlsplit(handler.path)
        _, name, path = url.path.replace("/api/", "/", 1).split("/", 2)
        scene, path = self._scenes[name], re.sub(r"^/work_pools/[^/]+/workers/", "/work_pools/*/workers/", f"/{path}")
        body = json.loads(handler.read_body() or b"{}")
        if path == "/heal":
            scene.is_healed = True
        usual = scene.usual(path, body)
        answer = scene.hostile_answer(path)
        if answer is None:
            handler.wfile.write(head(("Content-Length", str(len(usual)))) + usual)
            return True
        for piece in answer(Request(path, parse_qs(url.query), body, usual)):
            if self._is_over.is_set():
                break
            handler.wfile.write(piece)
        return False


def head(*headers: tuple[str, str], status: int = 200, date: bool = True) -> bytes:
    """A status line and headers."""
    dated = (("Date", formatdate(usegmt=True)),) if date else ()
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in (*dated, *headers)), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def damaged(document: Any, raw: str) -> str:
    """The JSON of a list, or of a page of events, with copies in each of which another field is the text `raw`.

    What the document held before is still in it, undamaged.
    """
    is_page = isinstance(document, dict)
    objects = document["events"] if is_page else document
    mark = "\x1f"
    copies = []
    for original in objects:
        for path in _paths(original):
            changed = copy.deepcopy(original)
            changed["id"] = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{original['id']} {path}"))
            _replace(changed, path, mark)
            copies.append(changed)
    every = [*objects, *copies]
    whole = {"events": every, "total": len(every), "next_page": None} if is_page else every
    return json.dumps(whole).replace(json.dumps(mark), raw)


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterable[tuple[str | int, ...]]:
    """Where each field is, those that hold others included."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def _replace(document: Any, path: tuple[str | int, ...], value: str) -> None:
    *way, last = path
    for part in way:
        document = document[part]
    document[last] = value
