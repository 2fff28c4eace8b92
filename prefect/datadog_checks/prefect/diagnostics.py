"""What `agent diagnose` tells: step by step, whether the server can be reached and read, and what to do if not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .api.client import Client
from .api.errors import AccessDenied, ApiError, CsrfTokenRefused, Rejected, ServerUnusable, TlsFailed, Unreachable
from .api.models import utc_text
from .api.prefect import PrefectApi
from .api.versions import is_supported, lacking
from .config.settings import Settings

BUDGET_SECONDS = 30.0
# As far as hosts differ that set their clocks by NTP; nobody sees it in times of whole seconds.
CLOCK_TOLERANCE = timedelta(seconds=2)
RECENT = timedelta(hours=1)
# An event is visible a few seconds after what it tells of, as a rule.
EVENT_GRACE = timedelta(minutes=2)

STEPS = {
    "url": "whether `prefect_url` looks like the address of an API",
    "reachability": "whether something answers at `prefect_url`",
    "tls": "whether the connection is protected, and the server's certificate is accepted",
    "api": "whether what answers is Prefect's API",
    "credentials": "whether the server takes this instance's credentials",
    "csrf": "whether the server takes requests that it protects with CSRF tokens",
    "version": "whether the server's version is one that this check works with",
    "events": "whether the server shows the events of what has happened",
    "clock": "whether this host's clock and the server's agree",
}


class Verdict(Enum):
    SUCCESS = "success"
    WARNING = "warning"
    FAIL = "fail"


class Finding(NamedTuple):
    """The outcome of a step; `remedy` is empty where there is nothing to do."""

    step: str
    verdict: Verdict
    cause: str
    remedy: str = ""


def findings(settings: Settings, client: Client, verifies_tls: bool) -> Iterator[Finding]:
    """The steps in their order. The first that fails is the last, as those after it would tell nothing.

    `client` is to be one of its own: the one that makes check runs may be at work meanwhile.
    """
    client.start_run(BUDGET_SECONDS)
    for step in (_url, _connection, _credentials, _csrf, _version, _events, _clock):
        for finding in step(settings, client, verifies_tls):
            yield finding
            if finding.verdict is Verdict.FAIL:
                return


def _success(step: str, cause: str) -> Finding:
    return Finding(step, Verdict.SUCCESS, cause)


def _failure(step: str, error: ApiError) -> Finding:
    if isinstance(error, ServerUnusable):
        return Finding(step, Verdict.FAIL, error.cause, error.remedy)
    return Finding(step, Verdict.FAIL, str(error), "See the server's log, and that of a proxy in front of it.")


def _url(settings: Settings, *_: object) -> Iterator[Finding]:
    if urlsplit(settings.url).path:
        yield _success("url", f"{settings.url} has a path, as the address of an API has.")
    else:
        cause = f"{settings.url} has no path; there the server has its user interface, as a rule."
        yield Finding("url", Verdict.WARNING, cause, f"Set `prefect_url` to {settings.url}/api.")


def _connection(settings: Settings, client: Client, verifies_tls: bool) -> Iterator[Finding]:
    try:
        status = client.status_of("/health").status
    except TlsFailed as error:
        yield _success("reachability", f"Something listens at {settings.url}.")
        yield _failure("tls", error)
        return
    except ApiError as error:
        if isinstance(error, Unreachable) or not client.run.has_answered:
            yield _failure("reachability", error)
            return
        status = None
    told = f"with status {status}" if status else "that it is busy"
    yield _success("reachability", f"{settings.url} answers {told} to GET /health.")
    if urlsplit(settings.url).scheme != "https":
        yield _success("tls", "TLS is not used, as `prefect_url` begins with http.")
    elif verifies_tls:
        yield _success("tls", "The server's certificate is trusted, in date, and for the name in `prefect_url`.")
    else:
        cause = "The server's certificate is not verified: an impostor could receive the credentials."
        yield Finding("tls", Verdict.WARNING, cause, "Set `tls_ca_cert`, and leave out `tls_verify`.")


def _credentials(settings: Settings, client: Client, _: bool) -> Iterator[Finding]:
    """Any POST shows whether there is an API, and whether it lets this instance in."""
    try:
        client.post("/work_pools/filter", _read_list, {"limit": 1})
    except AccessDenied as error:
        yield _failure("credentials", error)
    except CsrfTokenRefused as error:
        yield _failure("csrf", error)
    except Rejected as error:
        if error.status in (404, 405):
            cause = f"What answers at {settings.url} is not Prefect's API: {error}"
            yield Finding("api", Verdict.FAIL, cause, "Set `prefect_url` to the address of the API, with its path.")
        else:
            yield _failure("api", error)
    except ApiError as error:
        yield _failure("api", error)
    else:
        yield _success("api", f"{settings.url} is Prefect's API.")
        options = settings.credentials.options
        named = " and ".join(f"`{option}`" for option in options)
        yield _success("credentials", f"The server takes {named}." if options else "The server wants no credentials.")


def _csrf(_: Settings, client: Client, __: bool) -> Iterator[Finding]:
    how = "is on, and the server takes the tokens that it gives" if client.has_csrf_token else "is off"
    yield _success("csrf", f"CSRF protection {how}.")


def _version(settings: Settings, client: Client, _: bool) -> Iterator[Finding]:
    try:
        version = PrefectApi(client).version()
    except ApiError:
        yield _success("version", "The server does not tell its version, as Prefect Cloud does not.")
        return
    if not is_supported(version):
        cause = f"The server is of version {version}, and this check works with version 3 and newer."
        yield Finding("version", Verdict.FAIL, cause, "Upgrade the server.")
    elif notes := lacking(version):
        yield _success("version", f"Prefect {version} lacks what later versions have: {'; '.join(notes)}.")
    else:
        yield _success("version", f"The server is of version {version}.")


def _events(_: Settings, client: Client, __: bool) -> Iterator[Finding]:
    """A run that has ended leaves an event, whatever else happened."""
    now = client.run.clock.now()
    ended = {"after_": utc_text(now - RECENT), "before_": utc_text(now - EVENT_GRACE)}
    try:
        runs = client.post("/flow_runs/filter", _read_list, {"flow_runs": {"end_time": ended}, "limit": 1})
        events = {"since": utc_text(now - RECENT), "until": utc_text(now + RECENT)}
        wanted: dict[str, Any] = {"occurred": events, "event": {"prefix": ["prefect."]}}
        if runs:
            wanted["resource"] = {"id": [f"prefect.flow-run.{runs[0]['id']}"]}
        total = client.post("/events/filter", _read_total, {"filter": wanted, "limit": 0})
    except ApiError as error:
        yield _failure("events", error)
        return
    if total and runs:
        yield _success("events", "The server shows the events of a flow run that ended within the last hour.")
    elif total:
        yield _success("events", f"The server shows {total} events of the last hour.")
    elif not runs:
        yield _success("events", "No flow run has ended within the last hour, so no events are missed.")
    else:
        yield Finding(
            "events",
            Verdict.FAIL,
            f"Flow run {runs[0]['id']} ended within the last hour, and the server shows no event of it.",
            "See that the server's background services run (`prefect server services start` where the API runs with "
            "`--no-services`), that both use the same PREFECT_MESSAGING_BROKER, and how far the server is behind.",
        )


def _clock(_: Settings, client: Client, __: bool) -> Iterator[Finding]:
    difference = client.run.clock.ahead_of_host()
    if abs(difference) <= CLOCK_TOLERANCE:
        yield _success("clock", "This host's clock and the server's agree to a few seconds.")
        return
    seconds, which = abs(difference.total_seconds()), "ahead of" if difference > timedelta() else "behind"
    cause = f"The server's clock is {seconds:.0f} s {which} this host's. Metrics go by the server's, and stay exact."
    yield Finding("clock", Verdict.WARNING, cause, "Set both by NTP, or times in Datadog differ from those in Prefect.")


def _read_list(body: bytes) -> list[Any]:
    found = json.loads(body)
    if not isinstance(found, list) or not all(isinstance(item, dict) and "id" in item for item in found):
        raise ValueError("not a list of objects")
    return found


def _read_total(body: bytes) -> int:
    page = json.loads(body)
    if not isinstance(page, dict) or not isinstance(page.get("total"), int):
        raise ValueError("not a page of events")
    return int(page["total"])
