"""A stand-in for Prefect Cloud in front of a real server: what can be seen of it from outside, and nothing else."""

from __future__ import annotations

import json
import ssl
import threading
import time
from dataclasses import dataclass

from lab.proxy import Answer, Proxy, Request

ACCOUNT, WORKSPACE = "11111111-aaaa-4aaa-8aaa-000000000001", "22222222-bbbb-4bbb-8bbb-000000000002"
API_KEY = "pnu_0123456789abcdefghijklmnopqrstuvwxyz"
# Endpoints of a server of one's own that a workspace has not.
ABSENT = ("/health", "/ready", "/admin/version", "/csrf-token")
WINDOW_SECONDS = 1.0


@dataclass(frozen=True)
class Arrival:
    """When a request came, and whether it was one too many."""

    at: float
    limited: bool


class PrefectCloud(Proxy):
    """One workspace, with a key, and with `limit` requests in a second, beyond which it answers 429.

    `answered` lists the paths that were asked for, with the status that they got.
    """

    path = f"/api/accounts/{ACCOUNT}/workspaces/{WORKSPACE}"

    def __init__(self, target: str, tls: ssl.SSLContext, limit: int = 1000) -> None:
        super().__init__(target, prefix=self.path, tls=tls, beneath="/api")
        self.limit = limit
        self.answered: list[tuple[str, int]] = []
        self.arrivals: list[Arrival] = []
        self._arriving = threading.Lock()

    @property
    def api_url(self) -> str:
        return self.url + self.path

    @property
    def ui_url(self) -> str:
        return f"{self.url}/account/{ACCOUNT}/workspace/{WORKSPACE}"

    def _respond(self, request: Request) -> Answer | None:
        answer = self._answer_to(request)
        if answer is not None:
            self.answered.append((request.path.partition("?")[0], answer.status))
        return answer

    def _answer_to(self, request: Request) -> Answer | None:
        if self._is_one_too_many():
            return _refusal(429, "Too many requests", **{"Retry-After": f"{WINDOW_SECONDS:.0f}"})
        if request.headers.get("Authorization") != f"Bearer {API_KEY}":
            return _refusal(401, "Invalid authentication credentials")
        path = request.path.partition("?")[0]
        if not path.startswith(f"{self.path}/") or path.removeprefix(self.path) in ABSENT:
            return _refusal(404, "Not Found")
        return super()._respond(request)

    def _is_one_too_many(self) -> bool:
        with self._arriving:
            now = time.monotonic()
            recent = [arrival for arrival in self.arrivals if not arrival.limited and arrival.at > now - WINDOW_SECONDS]
            limited = len(recent) >= self.limit
            self.arrivals.append(Arrival(now, limited))
            return limited


def _refusal(status: int, detail: str, **headers: str) -> Answer:
    body = json.dumps({"detail": detail}).encode()
    return Answer(status, body, {"Content-Type": "application/json", **headers})
