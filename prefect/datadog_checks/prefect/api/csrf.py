"""The tokens that a server with CSRF protection wants with each POST."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

# A token is renewed when a quarter of its life is left, or a minute.
MARGIN = timedelta(minutes=1)


@dataclass(frozen=True)
class CsrfToken:
    """A token's headers, and when to have a new one, by the server's clock; None where the server does not say."""

    headers: Mapping[str, str] = field(repr=False)
    renew_at: datetime | None


class CsrfTokens:
    """The token of this client, once the server has asked for one. May be used from several threads.

    `fetch` gets the body of the answer that has the token of a client of this id.
    """

    def __init__(self, fetch: Callable[[str], bytes], now: Callable[[], datetime]) -> None:
        self._fetch = fetch
        self._now = now
        # One for the life of the check: each client has one token, and a new one voids it.
        self._client = str(uuid.uuid4())
        self._token: CsrfToken | None = None
        self._lock = threading.Lock()

    @property
    def current(self) -> CsrfToken | None:
        """The token, good or not; None as long as the server has not asked for one."""
        return self._token

    def is_due(self) -> bool:
        """Whether it is time for a new one."""
        token = self._token
        return token is not None and token.renew_at is not None and self._now() >= token.renew_at

    def renew(self, instead_of: CsrfToken | None) -> CsrfToken:
        """The token that replaces one; of requests that run side by side, the first gets it for all.

        Raises what `fetch` does, or `ValueError`, `KeyError`, `TypeError` or `RecursionError` for what is no token.
        """
        with self._lock:
            if self._token is None or self._token is instead_of:
                document = json.loads(self._fetch(self._client))
                headers = {"Prefect-Csrf-Token": str(document["token"]), "Prefect-Csrf-Client": self._client}
                self._token = CsrfToken(headers, _renewal_time(document.get("expiration"), self._now()))
            return self._token

    def forget(self) -> None:
        """Send none until the server asks for one again."""
        self._token = None


def _renewal_time(expiration: Any, now: datetime) -> datetime | None:
    try:
        until = datetime.fromisoformat(str(expiration))
    except ValueError:
        return None
    if until.tzinfo is None:
        return None
    return until - min(MARGIN, (until - now) / 4)
