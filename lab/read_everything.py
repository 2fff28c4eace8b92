"""What published integrations do in each interval: read all that there is. The baseline of `make bench`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import requests

from .prefect_api import iso

PAGE_SIZE = 200
INTERVAL = timedelta(seconds=15)
ACTIVE_TYPES = ("PENDING", "RUNNING", "PAUSED", "CANCELLING")


class ReadEverything:
    """One `run` reads every object page by page, and the runs and events of the last interval."""

    def __init__(self, api_url: str) -> None:
        self._api_url = api_url
        self._session = requests.Session()
        self._session.trust_env = False

    def run(self) -> int:
        """Returns the number of objects that were read."""
        since = iso(datetime.now(UTC) - INTERVAL)
        for path in ("health", "ready", "admin/version"):
            self._session.get(f"{self._api_url}/{path}").raise_for_status()
        pools = list(self._all("work_pools/filter", {}))
        number = len(pools) + sum(1 for _ in self._all("work_queues/filter", {}))
        for pool in pools:
            number += sum(1 for _ in self._all(f"work_pools/{pool['name']}/workers/filter", {}))
        number += sum(1 for _ in self._all("deployments/filter", {"sort": "NAME_ASC"}))
        for types in (("SCHEDULED",), ACTIVE_TYPES):
            number += sum(1 for _ in self._all("flow_runs/filter", {"flow_runs": _in_state(types), **BY_START}))
        ended = {"end_time": {"after_": since}}
        number += sum(1 for _ in self._all("flow_runs/filter", {"flow_runs": ended, **BY_START}))
        for criteria in (_in_state(ACTIVE_TYPES), ended):
            number += sum(1 for _ in self._all("task_runs/filter", {"task_runs": criteria, **BY_START}))
        return number + self._events(since)

    def _all(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            page = self._post(path, {**body, "limit": PAGE_SIZE, "offset": offset})
            yield from page
            if len(page) < PAGE_SIZE:
                return
            offset += PAGE_SIZE

    def _events(self, since: str) -> int:
        page = self._post("events/filter", {"filter": {"occurred": {"since": since}}, "limit": 50})
        number = len(page["events"])
        while page["next_page"]:
            answer = self._session.get(page["next_page"])
            answer.raise_for_status()
            page = answer.json()
            number += len(page["events"])
        return number

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._session.post(f"{self._api_url}/{path}", json=body)
        answer.raise_for_status()
        return answer.json()


BY_START = {"sort": "EXPECTED_START_TIME_ASC"}


def _in_state(types: tuple[str, ...]) -> dict[str, Any]:
    return {"state": {"type": {"any_": list(types)}}}
