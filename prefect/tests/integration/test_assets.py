"""Dashboard and log pipeline on what a real server, workers and flow runs give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import lab
from datadog_checks.prefect.output.metrics import metadata_rows
from lab.agent import forget_everything
from lab.datadog.__main__ import DASHBOARD, empty_in, entries_of
from lab.datadog.dashboards import TAGS_OF, Dashboard, draw
from lab.datadog.film import film_demo
from lab.datadog.logs import Entry, Pipeline, get
from lab.datadog.monitors import State
from lab.datadog.page import page
from lab.datadog.series import Recording
from lab.prefect_api import PrefectApi
from lab.server import PrefectServer
from lab.waiting import wait_until

PIPELINE = Path(__file__).parents[2] / "assets" / "logs" / "prefect.yaml"
POOL = "printing-pool"
SECONDS = 90.0
JSON_FORMAT = ("PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER=json", "PREFECT_WORKER_QUERY_SECONDS=1")
FLOWS = Path(lab.__file__).with_name("flows.py")
# Lines that are no logs: what the programs greet with.
GREETINGS = ("\n ___ ___", "Worker '")


@pytest.fixture(scope="module")
def recording() -> Iterator[Recording]:
    """Check runs of the demo, with the logs of its server, worker and flow runs."""
    forget_everything()
    yield film_demo(0, lambda _: None, with_plant=False)
    forget_everything()


def names_in(entries: list[Entry], path: str) -> set[str]:
    return {str(name) for entry in entries if (name := get(entry.attributes, path))}


def test_every_widget_of_the_dashboard_has_data_of_the_demo(recording: Recording) -> None:
    dashboard = Dashboard.load(DASHBOARD)
    pictures = draw(dashboard, recording)
    assert empty_in(pictures) == []
    states = {"Prefect API is down": State.OK}
    html = page(dashboard, pictures, states, recording.events, entries_of(recording), "a test")
    assert all(f"<h3>{picture.widget.title}</h3>" in html for picture in pictures.values())
    assert "class=empty" not in html
    assert not [text for text in ('src="', "url(http", "@import") if text in html.partition("<script>")[0]]


def test_recorded_series_have_the_names_types_and_tags_of_the_metadata(recording: Recording) -> None:
    kinds = {row["metric_name"]: row["metric_type"] for row in metadata_rows()}
    assert recording.types == {name: kinds[name] for name in recording.types}
    assert recording.names() == kinds.keys()
    for name, tags in recording.points:
        assert {tag.partition(":")[0] for tag in tags} <= TAGS_OF[name] | {"team"}, name


@pytest.mark.needs("log lines of beginnings and ends")
def test_every_entry_of_the_default_format_is_parsed(recording: Recording) -> None:
    entries = entries_of(recording)
    unparsed = [entry.message for entry in entries if entry.rules[0] == "plain"]
    assert not [message for message in unparsed if not message.startswith(GREETINGS)]
    assert {rule for entry in entries for rule in entry.rules} >= {"flow_run", "task_run", "line", "traceback"}
    assert names_in(entries, "prefect.flow_name") >= {"etl", "stream", "broken", "flaky"}
    assert {name.rpartition("-")[0] for name in names_in(entries, "prefect.task_run_name")} >= {
        "extract",
        "load",
        "listen",
    }
    assert "ValueError" in names_in(entries, "error.kind")
    assert {"info", "error"} <= {entry.status for entry in entries}


@pytest.mark.needs("log lines of beginnings and ends")
def test_every_entry_of_the_json_format_is_parsed(server: PrefectServer, api: PrefectApi) -> None:
    api.create_work_pool(POOL)
    flow = api.create_flow("printing-flow")
    # a copy, so that nothing is left in the repository
    folder = Path(shutil.copy(FLOWS, server.folder)).parent
    steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]
    fields = {"entrypoint": "flows.py:broken", "pull_steps": steps, "enforce_parameter_schema": False}
    run = api.create_deployment_run(api.create_deployment("printing", flow["id"], POOL, "default", **fields)["id"])
    start = ("prefect", "worker", "start", "--pool", POOL, "--type", "process")
    worker = server.process("json-worker", ["/usr/bin/env", *JSON_FORMAT, *server.command(*start)])
    worker.start()
    try:
        api.wait_for_state(run["id"], timeout_seconds=SECONDS)
        wait_until(lambda: "Engine execution exited" in worker.log_path.read_text(), SECONDS, "The end of the log")
    finally:
        worker.stop()
    lines = [line for line in worker.log_path.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    pipeline = Pipeline.load(PIPELINE)
    entries = [pipeline.process(line) for line in lines]
    assert len(entries) >= 5
    assert all(entry.message and entry.date and get(entry.attributes, "logger.name") for entry in entries)
    assert names_in(entries, "prefect.flow_run_name") == {run["name"]}
    assert names_in(entries, "error.kind") == {"ValueError"}
    assert {json.loads(line)["levelname"].lower() for line in lines} == {entry.status for entry in entries}
