"""What `agent diagnose` reports: step by step, whether the server can be reached and read, and what to do if not."""

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
# Hosts that use NTP may differ by this much.
CLOCK_TOLERANCE = timedelta(seconds=2)
RECENT = timedelta(hours=1)
# Usually, an event becomes visible a few seconds after it occurred.
EVENT_GRACE = timedelta(minutes=2)

STEPS = {
    "url": "whether `prefect_url` looks like the URL of an API",
    "reachability": "whether something answers at `prefect_url`",
    "tls": "whether the connection uses TLS, and the server's certificate is accepted",
    "api": "whether Prefect's API answers at `prefect_url`",
    "credentials": "whether the server accepts this instance's credentials",
    "csrf": "whether the server accepts requests that it protects with CSRF tokens",
    "version": "whether this check supports the server's version",
    "events": "whether the server shows events of recent flow runs",
    "clock": "whether the clocks of this host and the server agree",
}


class Verdict(Enum):
    SUCCESS = "success"
    WARNING = "warning"
    FAIL = "fail"


class Finding(NamedTuple):
    """The outcome of a step; `remedy` is empty if there is nothing to do."""

    step: str
    verdict: Verdict
    cause: str
    remedy: str = ""


def findings(settings: Settings, client: Client, verifies_tls: bool) -> Iterator[Finding]:
    """The findings of all steps, in order, up to the first that fails: those after it would tell nothing.

    `client` must not be the one of the check runs, which may be in use at the same time.
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
    return Finding(step, Verdict.FAIL, str(error), "See the logs of the server and of any proxy in front of it.")


def _url(settings: Settings, *_: object) -> Iterator[Finding]:
    if urlsplit(settings.url).path:
        yield _success("url", f"{settings.url} has a path, as the URL of an API should.")
    else:
        cause = f"{settings.url} has no path. Usually, the user interface is there, and the API is below it."
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
    how = f"with status {status}" if status else "and is busy"
    yield _success("reachability", f"{settings.url} answers GET /health {how}.")
    if urlsplit(settings.url).scheme != "https":
        yield _success("tls", "TLS is not used: `prefect_url` begins with http://.")
    elif verifies_tls:
        yield _success("tls", "The server's certificate is trusted, valid now, and for the name in `prefect_url`.")
    else:
        cause = "The server's certificate is not verified: an impostor could receive the credentials."
        yield Finding("tls", Verdict.WARNING, cause, "Set `tls_ca_cert`, and remove `tls_verify`.")


def _credentials(settings: Settings, client: Client, _: bool) -> Iterator[Finding]:
    """Any POST shows whether there is an API, and whether it accepts the credentials."""
    try:
        client.post("/work_pools/filter", _read_list, {"limit": 1})
    except AccessDenied as error:
        yield _failure("credentials", error)
    except CsrfTokenRefused as error:
        yield _failure("csrf", error)
    except Rejected as error:
        if error.status in (404, 405):
            cause = f"{settings.url} is not Prefect's API: {error}"
            yield Finding("api", Verdict.FAIL, cause, "Set `prefect_url` to the URL of the API, including its path.")
        else:
            yield _failure("api", error)
    except ApiError as error:
        yield _failure("api", error)
    else:
        yield _success("api", f"{settings.url} is Prefect's API.")
        options = settings.credentials.options
        named = " and ".join(f"`{option}`" for option in options)
        cause = f"The server accepts {named}." if options else "The server requires no credentials."
        yield _success("credentials", cause)


def _csrf(_: Settings, client: Client, __: bool) -> Iterator[Finding]:
    state = "is on, and the server accepts its own tokens" if client.has_csrf_token else "is off"
    yield _success("csrf", f"CSRF protection {state}.")


def _version(settings: Settings, client: Client, _: bool) -> Iterator[Finding]:
    try:
        version = PrefectApi(client).version()
    except ApiError:
        yield _success("version", "The server does not report a version. Prefect Cloud never does.")
        return
    if not is_supported(version):
        cause = f"The server runs Prefect {version}; this check needs Prefect 3 or newer."
        yield Finding("version", Verdict.FAIL, cause, "Upgrade the server.")
    elif notes := lacking(version):
        cause = f"Prefect {version} lacks features of later versions. Consequences: {'; '.join(notes)}."
        yield _success("version", cause)
    else:
        yield _success("version", f"The server runs Prefect {version}.")


def _events(_: Settings, client: Client, __: bool) -> Iterator[Finding]:
    """Each flow run that ended must have left an event."""
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
        yield _success("events", "No flow run ended within the last hour, so no events are expected.")
    else:
        yield Finding(
            "events",
            Verdict.FAIL,
            f"Flow run {runs[0]['id']} ended within the last hour, but the server shows no event of it.",
            "Check that the server's background services run (`prefect server services start` if the API runs with "
            "`--no-services`), that both use the same PREFECT_MESSAGING_BROKER, and how far the server lags behind.",
        )


def _clock(_: Settings, client: Client, __: bool) -> Iterator[Finding]:
    difference = client.run.clock.ahead_of_host()
    if abs(difference) <= CLOCK_TOLERANCE:
        yield _success("clock", "The clocks of this host and the server agree within a few seconds.")
        return
    seconds, which = abs(difference.total_seconds()), "ahead of" if difference > timedelta() else "behind"
    cause = f"The server's clock is {seconds:.0f} s {which} this host's. Metrics use the server's and stay correct."
    remedy = "Synchronize both by NTP. Until then, times in Datadog differ from those in Prefect."
    yield Finding("clock", Verdict.WARNING, cause, remedy)


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
