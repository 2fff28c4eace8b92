"""The tokens that a server with CSRF protection requires with each POST."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

# A token is renewed when a quarter of its life is left, at most a minute before it expires.
MARGIN = timedelta(minutes=1)


@dataclass(frozen=True)
class CsrfToken:
    """A token's headers, and when to renew it, by the server's clock; None if the server does not say."""

    headers: Mapping[str, str] = field(repr=False)
    renew_at: datetime | None


class CsrfTokens:
    """The token of this client, once the server has asked for one. Thread-safe.

    `fetch` takes a client id and returns the body of the response with its token.
    """

    def __init__(self, fetch: Callable[[str], bytes], now: Callable[[], datetime]) -> None:
        self._fetch = fetch
        self._now = now
        # One id for the life of the check. The server keeps one token per client: a new one voids the old.
        self._client = str(uuid.uuid4())
        self._token: CsrfToken | None = None
        self._lock = threading.Lock()

    @property
    def current(self) -> CsrfToken | None:
        """The token, valid or not; None as long as the server has not asked for one."""
        return self._token

    def is_due(self) -> bool:
        """Whether it is time to renew the token."""
        token = self._token
        return token is not None and token.renew_at is not None and self._now() >= token.renew_at

    def renew(self, instead_of: CsrfToken | None) -> CsrfToken:
        """The token that replaces `instead_of`; the first of several concurrent requests gets it for all.

        Raises the errors of `fetch`, and `ValueError`, `KeyError`, `TypeError` or `RecursionError` if the response is
        not a token.
        """
        with self._lock:
            if self._token is None or self._token is instead_of:
                document = json.loads(self._fetch(self._client))
                headers = {"Prefect-Csrf-Token": str(document["token"]), "Prefect-Csrf-Client": self._client}
                self._token = CsrfToken(headers, _renewal_time(document.get("expiration"), self._now()))
            return self._token

    def forget(self) -> None:
        """Send no token until the server asks for one again."""
        self._token = None


def _renewal_time(expiration: Any, now: datetime) -> datetime | None:
    try:
        until = datetime.fromisoformat(str(expiration))
    except ValueError:
        return None
    if until.tzinfo is None:
        return None
    return until - min(MARGIN, (until - now) / 4)
