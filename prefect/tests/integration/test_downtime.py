"""After the Agent or the server was away, what happened meanwhile is counted, as far back as the options say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lab.agent import Agent
from lab.prefect_api import PrefectApi
from lab.proxy import Proxy, with_clock_ahead
from lab.server import FAST_EVENTS, PrefectServer
from lab.task_run import ClientTaskRun

from ..conftest import AgentFactory
from .stage import Stage
from .test_task_runs import Story

AWAY = timedelta(hours=3)
MINUTE = timedelta(minutes=1)


def complete_a_task(stage: Stage, flow_run_id: str, name: str, at: datetime) -> None:
    story = Story(stage.api, begun=at)
    story.tell(ClientTaskRun(stage.api, name, flow_run_id), "PENDING", "RUNNING", "COMPLETED")
    story.seen()


def completed(agent: Agent, name: str) -> float:
    """How many completed task runs of that name the next check run counts; it must leave no warning."""
    result = agent.run()
    assert (result.error, result.warnings) == ("", [])
    return result.count("task_runs.completed.count", task_name=name)


def test_what_happened_while_the_agent_was_away_is_counted_and_what_is_longer_ago_is_named_in_warnings(
    proxy: Proxy, api: PrefectApi, agent: AgentFactory
) -> None:
    stage = Stage(api)
    run = stage.run("PENDING", "RUNNING")
    stage.seen(run)
    everything = agent(prefect_url=f"{proxy.url}/api", max_catch_up_seconds=14400, **stage.only_this)
    last_hour = agent(prefect_url=f"{proxy.url}/api", tags=["another:agent"], **stage.only_this)
    for watching in (everything, last_hour):
        assert watching.run().warnings == []
        watching.restart()
    left = datetime.now(UTC)
    complete_a_task(stage, run["id"], "early", at=left + 20 * MINUTE)
    complete_a_task(stage, run["id"], "recent", at=left + AWAY - 20 * MINUTE)
    proxy.spoil("", with_clock_ahead(AWAY))
    result = everything.run()
    assert result.warnings == []
    assert [result.count("task_runs.completed.count", task_name=name) for name in ("early", "recent")] == [1, 1]
    result = last_hour.run()
    assert [result.count("task_runs.completed.count", task_name=name) for name in ("early", "recent")] == [0, 1]
    lost = [warning for warning in result.warnings if "are not counted: they are older" in warning]
    assert len(lost) == len(result.warnings) == 2  # flow runs and task runs
    words = lost[1].split()
    since, until = (datetime.fromisoformat(words[words.index(word) + 1]) for word in ("from", "to"))
    assert abs(since - left) < MINUTE
    assert abs(until - (left + AWAY - timedelta(hours=1))) < MINUTE
    for watching in (everything, last_hour):
        watching.restart()
        assert [completed(watching, name) for name in ("early", "recent")] == [0, 0]


def test_what_happened_until_the_server_went_away_is_counted_once_when_it_is_back(agent: AgentFactory) -> None:
    with PrefectServer(env=FAST_EVENTS) as server:
        api = PrefectApi(server.api_url)
        run = api.create_flow_run(api.create_flow("f")["id"], {"type": "RUNNING"})
        watching = agent(prefect_url=server.api_url)
        assert watching.run().error == ""
        api.set_flow_run_state(run["id"], "COMPLETED")
        api.wait_for_run_events(run["id"])
        server.stop()
        assert "cannot be reached" in watching.run().error
        watching.restart()
        server.start()
        counts = [watching.run().count("flow_runs.completed.count") for _ in range(2)]
    assert counts == [1, 0]
