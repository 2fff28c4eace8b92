"""`make check`: what the check submits for a real Prefect server, printed as `agent check prefect` prints it.

By default the server is the demo's own, with flows that show every metric. `PREFECT_URL` or `CONF` name an existing
server instead, `JSON=1` prints JSON, `PREFECT_PORT` demands a port for the demo's server.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .agent import Agent, CheckRunResult
from .command import INTERRUPTED, INTERRUPTED_CODE, begin_command
from .errors import LabError
from .ports import HOST, free_port
from .report import Report
from .scenario import Scenario
from .server import FAST_EVENTS, PrefectServer

DEFAULT_INTERVAL_SECONDS = 15.0

# Polls every second instead of every ten: nobody likes to wait.
DEMO_SETTINGS = {**FAST_EVENTS, "PREFECT_WORKER_QUERY_SECONDS": "1"}


def main() -> int:
    """Run the demo and return the exit code: 0, 1 after one sentence on stderr, 130 after Ctrl-C."""
    begin_command()
    try:
        reports = _make_reports(os.environ)
        _print(reports, as_json=os.environ.get("JSON", "") not in ("", "0"))
    except LabError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _progress(INTERRUPTED)
        return INTERRUPTED_CODE
    except BrokenPipeError:
        # the reader has seen enough; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return _verdict(reports)


def _make_reports(environment: Mapping[str, str]) -> list[Report]:
    if path := environment.get("CONF"):
        init_config, instances = read_configuration(Path(path))
        return check_existing([Agent(instance, init_config) for instance in instances], instances)
    if url := environment.get("PREFECT_URL"):
        instance = {"prefect_url": url, "collect_events": True}
        return check_existing([Agent(instance)], [instance])
    return [check_own_server(_port(environment.get("PREFECT_PORT", "")))]


def check_own_server(port: int | None) -> Report:
    """Start a server, let the demo's flows run on it, stop it, and report what the check saw."""
    from datadog_checks.prefect.output.metrics import METRICS, series_names

    port = port or free_port()
    _progress(f"Starting a Prefect server on {HOST}:{port} ...")
    with PrefectServer(DEMO_SETTINGS, port) as server:
        instance = {
            "prefect_url": server.api_url,
            "collect_events": True,
            "tags": ["team:data"],
            # the loopback interface is not behind a proxy, whatever the environment says
            "skip_proxy": True,
        }
        results = Scenario(server, Agent(instance), _progress).play()
        _progress("Stopping everything ...")
    return Report(server.api_url, results, [name for metric in METRICS for name in series_names(metric)])


def check_existing(agents: Sequence[Agent], instances: Sequence[Mapping[str, Any]]) -> list[Report]:
    """Two check runs of each instance, a collection interval apart; only one when all instances end in an error."""
    # what the stubs refuse in checks' own tags, e.g. `env`, people may well have in theirs
    os.environ["DDEV_SKIP_GENERIC_TAGS_CHECK"] = "true"
    results: list[list[CheckRunResult]] = [[agent.run()] for agent in agents]
    if any(not runs[0].error for runs in results):
        interval = max(_interval_seconds(instance) for instance in instances)
        _progress(f"Waiting {interval:g} s, one collection interval, for the second check run ...")
        time.sleep(interval)
        for agent, runs in zip(agents, results, strict=True):
            runs.append(agent.run())
    urls = [str(instance.get("prefect_url")) for instance in instances]
    return [Report(url, runs) for url, runs in zip(urls, results, strict=True)]


def read_configuration(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`init_config` and `instances` of a file like prefect.d/conf.yaml. Raises `LabError` when it is none."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LabError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list) or not instances or not all(isinstance(item, dict) for item in instances):
        raise LabError(f"{path} has no list of instances, as prefect.d/conf.yaml has.")
    return document.get("init_config") or {}, instances


def _interval_seconds(instance: Mapping[str, Any]) -> float:
    interval = instance.get("min_collection_interval", DEFAULT_INTERVAL_SECONDS)
    return float(interval) if isinstance(interval, int | float) else DEFAULT_INTERVAL_SECONDS


def _port(text: str) -> int | None:
    if not text:
        return None
    if text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise LabError(f"PREFECT_PORT is {text!r}, but a port is a number from 1 to 65535.")


def _print(reports: Sequence[Report], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"instances": [report.as_json() for report in reports]}, indent=2))
    else:
        for report in reports:
            print(f"{report.prefect_url}\n\n{report.as_text()}\n")
    sys.stdout.flush()


def _verdict(reports: Sequence[Report]) -> int:
    for report in reports:
        if report.errors:
            return _fail(report.errors[-1])
        if report.missing_names:
            return _fail(f"The demo did not see {', '.join(report.missing_names)}.")
    return 0


def _fail(message: str) -> int:
    _progress(" ".join(message.split()))
    return 1


def _progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
