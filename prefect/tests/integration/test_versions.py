"""What holds on every version of the server: CI runs this on the oldest."""

from __future__ import annotations

import logging

import pytest

from datadog_checks.prefect.api.versions import is_supported, lacking
from lab.prefect_api import PrefectApi
from lab.server import PrefectServer
from lab.task_run import ClientTaskRun
from lab.version import server_version

from ..conftest import AgentFactory
from .stage import Stage


def test_a_server_is_read_from_prefect_3_on_and_before_that_told_to_be_too_old_in_one_error(
    server: PrefectServer, agent: AgentFactory
) -> None:
    result = agent(collect_events=True).run()
    assert (result.gauge("health"), result.gauge("ready"), result.warnings) == (1, 1, [])
    if is_supported(server_version()):
        assert result.error == ""
        assert result.metadata["version.raw"] == server_version()
    else:
        assert server.api_url in result.error
        assert server_version() in result.error
        assert "Upgrade the server." in result.error
        assert len(result.series) == 2
        assert result.metadata == {}


def test_what_a_server_lacks_is_told_once_in_one_line_of_the_log(
    agent: AgentFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    a = agent()
    results = [a.run() for _ in range(3)]
    assert [(result.error, result.warnings) for result in results] == [("", [])] * 3
    told = [record.getMessage() for record in caplog.records if " lacks " in record.getMessage()]
    notes = lacking(server_version())
    assert len(told) == bool(notes)
    for note in notes:
        assert note in told[0]


def test_runs_task_runs_events_and_the_objects_that_they_belong_to_are_told(
    api: PrefectApi, agent: AgentFactory
) -> None:
    stage = Stage(api)
    watching = agent(collect_events=True, **stage.only_this)
    api.heartbeat(stage.pool["name"], "w1")
    run = stage.run("PENDING", "RUNNING")
    task = ClientTaskRun(api, "load", run["id"])
    assert watching.run().error == ""
    task_events = [task.enter(state_type) for state_type in ("PENDING", "RUNNING", "COMPLETED")]
    stage.enter(run, "FAILED")
    stage.seen(run)
    api.wait_for_events(task_events)
    late = stage.run()
    result = watching.run()
    assert (result.error, result.warnings) == ("", [])
    assert result.gauge("work_pool.workers.online", work_pool_id=stage.pool["id"]) == 1
    assert result.gauge("work_queue.backlog.size", work_queue_id=stage.queue["id"]) == 1
    assert result.one("deployment.is_ready").tags == stage.run_tags | {"is_paused:false"}
    failed = [series for series in result.matching("flow_runs.failed.count") if series.value]
    assert [(series.value, series.tags) for series in failed] == [(1, stage.run_tags)]
    assert result.count("task_runs.completed.count", task_name="load", deployment_id=stage.deployment["id"]) == 1
    keys = {event["aggregation_key"] for event in result.events}
    assert {f"prefect.flow-run.{run['id']}", f"prefect.task-run.{task.id}"} <= keys
    assert result.gauge("flow_runs.scheduled", deployment_id=late["deployment_id"]) == 1
    again = watching.run()
    assert (again.error, again.warnings) == ("", [])
    assert again.count("flow_runs.failed.count") + again.count("task_runs.completed.count") == 0
