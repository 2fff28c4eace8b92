"""Whatever comes and goes on the server, what the check remembers of it has an end."""

from __future__ import annotations

import gc
import json
import sys
import uuid
from datetime import UTC, datetime, timedelta
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from datadog_checks.base import AgentCheck

from datadog_checks.prefect.collectors import task_runs
from datadog_checks.prefect.counting import event_feed
from datadog_checks.prefect.mirror import inventory
from datadog_checks.prefect.output import submitter
from datadog_checks.prefect.output.metrics import BY_NAME
from datadog_checks.prefect.output.submitter import VanishedTagSets
from lab.agent import datadog_agent
from lab.recording import RecordedAnswer, answered_by

from ..conftest import AgentFactory
from .fake_http import URL

Json = dict[str, Any]

EACH_RUN = 40
NOT_MEMORY = (type, ModuleType, FunctionType, BuiltinFunctionType, AgentCheck)


def uuid_of(name: str) -> str:
    """The id of a run of this name, which may be an id already."""
    return name if len(name) == 36 else str(uuid.uuid5(uuid.NAMESPACE_OID, name))


class RestlessServer:
    """A server whose workers, deployments and runs are others at each look, but for some runs that never end."""

    def __init__(self) -> None:
        self.look = 0
        self._events: dict[str, list[Json]] = {"flow-run": [], "task-run": []}

    def go_on(self) -> None:
        self.look += 1
        for kind, events in self._events.items():
            events[:0] = [self._end_of(kind, name) for name in self._new("r")]

    def __call__(self, request: requests.PreparedRequest) -> RecordedAnswer:
        path = urlsplit(request.url or "").path.removeprefix("/api")
        body = json.loads(request.body or b"{}")
        now = datetime.now(UTC)
        headers = {"Date": now.strftime("%a, %d %b %Y %H:%M:%S GMT")}
        return RecordedAnswer(200, json.dumps(self._answer(path, body, now.isoformat())).encode(), headers)

    def _answer(self, path: str, body: Json, now: str) -> Any:
        known = {"/health": True, "/ready": True, "/admin/version": "3.6.0", "/flow_runs/count": 0}
        if path in known:
            return known[path]
        if path == "/events/filter":
            [prefix, *_] = body["filter"]["event"].get("prefix", ["prefect.deployment."])
            first, last = body["filter"]["occurred"]["since"], body["filter"]["occurred"]["until"]
            happened = self._events.get(prefix.removeprefix("prefect.").rstrip("."), [])
            events = [event for event in happened if first <= event["occurred"].replace("+00:00", "Z") <= last]
            return {"events": events[: body["limit"]], "total": len(events), "next_page": None}
        if path == "/work_pools/filter":
            return [{"id": "p", "name": "pool", "type": "process", "status": "READY"}]
        if path.endswith("/workers/filter"):
            return [{"id": w, "name": w, "status": "ONLINE", "last_heartbeat_time": now} for w in self._new("w")]
        if path == "/work_queues/filter":
            # Those of earlier looks are gone, also to who asks for them by their ids.
            there = set(self._new("q")) & set(self._wanted(body, "q"))
            return [{"id": q, "name": q, "status": "READY", "last_polled": now} for q in sorted(there)]
        if path.endswith("/concurrency_limits/filter"):
            return [{"id": name, "name": name, "limit": 5, "active_slots": 1} for name in self._new("l")]
        if path == "/task_runs/filter":
            return [] if "end_time" in body["task_runs"] else [self._run(name) for name in self._active(body, "t")]
        if path == "/flow_runs/filter":
            return [] if "deployment_id" in body["flow_runs"] else [self._run(name) for name in self._active(body, "r")]
        if path.startswith("/deployments/"):
            return self._deployments(path, body)
        return [{"id": name, "name": name} for name in self._wanted(body, "f")]

    def _deployments(self, path: str, body: Json) -> Any:
        wanted = set(self._wanted(body, "d"))
        found = [{"id": name, "name": name, "status": "READY"} for name in self._new("d") if name in wanted]
        return len(found) if path.endswith("/count") else found[body.get("offset", 0) :][: body["limit"]]

    def _new(self, kind: str) -> list[str]:
        return [f"{kind}{self.look}-{number}" for number in range(EACH_RUN)]

    def _wanted(self, body: Json, kind: str) -> list[str]:
        """Those asked for by id, else the ones of this look."""
        [ids] = [value["id"]["any_"] for value in body.values() if isinstance(value, dict) and "id" in value] or [None]
        return self._new(kind) if ids is None else ids

    def _active(self, body: Json, kind: str) -> list[str]:
        stuck = [f"{kind}-stuck-{number}" for number in range(EACH_RUN)]
        return stuck + self._new(kind) if "state" in str(body) else self._wanted(body, kind)

    @staticmethod
    def _run(name: str) -> Json:
        of_its_own = {f"{kind}_id": f"{kind}-{name}" for kind in ("flow", "deployment", "work_pool", "work_queue")}
        task = {"flow_run_id": uuid_of(name.replace("t", "r", 1)), "task_key": f"key-{name}"}
        return {"id": uuid_of(name), "state_type": "RUNNING", **of_its_own, **task}

    def _end_of(self, kind: str, name: str) -> Json:
        # What happened in one minute is forgotten together.
        occurred = datetime.now(UTC) + timedelta(minutes=self.look)
        resource = {"prefect.resource.id": f"prefect.{kind}.{uuid_of(name)}", "prefect.state-type": "COMPLETED"}
        run = {"prefect.resource.id": f"prefect.flow-run.{uuid_of(name)}", "prefect.resource.role": "flow-run"}
        intended = {"from": "PENDING", "to": "COMPLETED"}
        return {
            "id": f"{kind} {name}",
            "event": f"prefect.{kind}.Completed",
            "occurred": occurred.isoformat(),
            "resource": {**resource, "prefect.run-count": "0"},
            "related": [run],
            "payload": {"intended": intended, "task_run": {"task_key": f"key-{name}", "dynamic_key": name}},
        }


def memory_of(check: Any) -> int:
    """The bytes of all that the check's own objects hold."""
    found: dict[int, int] = {}
    pending: list[Any] = [check._inventory, check._submitter, check._api, check._store, check._collectors]
    while pending:
        thing = pending.pop()
        if id(thing) not in found and not isinstance(thing, NOT_MEMORY):
            found[id(thing)] = sys.getsizeof(thing)
            pending += gc.get_referents(thing)
    return sum(found.values())


def stored_bytes() -> int:
    return sum(len(text) for text in datadog_agent._cache.values())


def test_a_server_on_which_everything_comes_and_goes_fills_neither_memory_nor_cache(
    agent: AgentFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small bounds are reached soon, the real ones after days.
    monkeypatch.setattr(inventory, "REMEMBERED", 200)
    monkeypatch.setattr(task_runs, "REMEMBERED", 200)
    monkeypatch.setattr(submitter, "MOST_TAG_SETS", 100)
    monkeypatch.setattr(event_feed, "MOST_REMEMBERED", 100)
    monkeypatch.setattr(event_feed, "MOST_EXPECTED", 100)
    server, watching, sizes = RestlessServer(), agent(prefect_url=URL), []
    with answered_by(server):
        for _ in range(30):
            server.go_on()
            result = watching.run()
            assert (result.error, result.warnings) == ("", [])
            assert result.gauge("flow_runs.running", deployment_id="deployment-r-stuck-0") == 1
            sizes.append((memory_of(watching.check), stored_bytes()))
    (memory, stored), (memory_later, stored_later) = sizes[14], sizes[-1]
    assert memory_later < memory * 1.1, sizes
    assert stored_later < stored * 1.1, sizes


def test_tag_sets_by_the_hundred_thousand_stay_within_their_bound() -> None:
    running = BY_NAME["flow_runs.running"]
    memory = VanishedTagSets()
    for look in range(10):
        seen = {running.name: {(f"flow_id:{look}-{number}",) for number in range(10_000)}}
        assert len(memory.zeros([running], seen, now=1000.0 + look)) <= submitter.MOST_TAG_SETS
    assert len(memory._last_seen["flow_runs gauges"]) == submitter.MOST_TAG_SETS
    assert len(memory.document()["flow_runs gauges"]) < 1_000_000


def test_tag_sets_of_a_metric_that_is_no_more_are_not_kept_for_ever() -> None:
    memory = VanishedTagSets()
    memory._last_seen["flow_runs.of_an_earlier_version"] = {("flow_id:a",): 1000.0}
    assert VanishedTagSets.restored(memory.document()).document() == VanishedTagSets().document()
