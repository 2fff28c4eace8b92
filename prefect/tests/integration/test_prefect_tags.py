"""The tags of a deployment in Prefect become tags in Datadog, on everything that has the deployment's tags."""

from __future__ import annotations

from collections.abc import Iterable

from lab.agent import CheckRunResult
from lab.prefect_api import Json, PrefectApi
from lab.task_run import ClientTaskRun

from ..conftest import AgentFactory
from .stage import Stage

MOST_TAGS = 20


def tagged(stage: Stage, name: str, tags: list[str]) -> Json:
    return stage.api.create_deployment(
        f"{stage.name}-{name}", stage.flow["id"], stage.pool["name"], stage.queue["name"], tags=tags
    )


def prefect_tags(tags: Iterable[str]) -> list[str]:
    return sorted(tag.removeprefix("prefect_tag:") for tag in tags if tag.startswith("prefect_tag:"))


def tags_by_metric(result: CheckRunResult, deployment: Json) -> dict[str, list[str]]:
    """The tags from Prefect, by the name of each metric of the deployment."""
    about = f"deployment_id:{deployment['id']}"
    return {series.name: prefect_tags(series.tags) for series in result.series if about in series.tags}


def test_they_are_on_the_metrics_and_events_of_the_deployment_of_its_runs_and_of_their_task_runs(
    api: PrefectApi, agent: AgentFactory
) -> None:
    stage = Stage(api)
    deployment = tagged(stage, "tagged", ["team-b", "team-a", "nightly", "team-a"])
    watching = agent(collect_events=True, **stage.only_this)
    watching.run()
    run = api.create_deployment_run(deployment["id"], {"type": "PENDING"})
    stage.enter(run, "RUNNING")
    task = ClientTaskRun(api, "load", run["id"])
    events = [task.enter(state) for state in ("PENDING", "RUNNING", "COMPLETED")]
    stage.enter(run, "COMPLETED")
    stage.seen(run)
    api.wait_for_events(events)
    result = watching.run()
    found = tags_by_metric(result, deployment)
    wanted = ["nightly", "team-a", "team-b"]
    assert found == dict.fromkeys(found, wanted)
    families = {name.removeprefix("prefect.server.").partition(".")[0] for name in found}
    assert families == {"deployment", "flow_runs", "task_runs"}
    about = f"deployment_id:{deployment['id']}"
    kinds = {event["event_type"].split(".")[1] for event in result.events if about in event["tags"]}
    assert kinds >= {"flow-run", "task-run"}
    assert all(prefect_tags(event["tags"]) == wanted for event in result.events if about in event["tags"])


def test_the_option_says_which_become_tags(api: PrefectApi, agent: AgentFactory) -> None:
    stage = Stage(api)
    deployment = tagged(stage, "tagged", ["team-a", "team-b", "tmp"])
    some = agent(**stage.only_this, prefect_tags={"include": ["^team"], "exclude": ["b$"]}).run()
    none = agent(**stage.only_this, prefect_tags={"exclude": [".*"]}).run()
    assert tags_by_metric(some, deployment)["prefect.server.deployment.is_ready"] == ["team-a"]
    assert tags_by_metric(none, deployment)["prefect.server.deployment.is_ready"] == []


def test_a_change_of_the_deployment_changes_the_tags(api: PrefectApi, agent: AgentFactory) -> None:
    stage = Stage(api)
    deployment = tagged(stage, "tagged", ["before"])
    watching = agent(**stage.only_this)
    run = api.create_deployment_run(deployment["id"], {"type": "RUNNING"})
    watching.run()
    api.patch(f"deployments/{deployment['id']}", {"tags": ["after"]})
    watching.run()
    result = watching.run()
    about = {"deployment_id": deployment["id"]}
    assert prefect_tags(result.one("deployment.is_ready", **about).tags) == ["after"]
    running = {
        tuple(prefect_tags(series.tags)): series.value for series in result.matching("flow_runs.running", **about)
    }
    assert running == {("after",): 1, ("before",): 0}
    stage.enter(run, "COMPLETED")


def test_of_very_many_the_first_are_sent_and_one_warning_tells_of_the_others(
    api: PrefectApi, agent: AgentFactory
) -> None:
    stage = Stage(api)
    deployments = [tagged(stage, name, [f"tag-{number:02}" for number in range(30)]) for name in ("one", "two")]
    watching = agent(**stage.only_this)
    first, second = watching.run(), watching.run()
    for deployment in deployments:
        found = tags_by_metric(first, deployment)["prefect.server.deployment.is_ready"]
        assert found == [f"tag-{number:02}" for number in range(MOST_TAGS)]
    [warning] = first.warnings
    assert "`prefect_tags`" in warning
    assert "2 deployments" in warning
    assert second.warnings == []
