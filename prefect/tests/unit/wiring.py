"""The parts of a check, wired together as `PrefectCheck` does it, on what stands in for a server."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from datadog_checks.prefect.api.models import FlowRun
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.collectors import Context
from datadog_checks.prefect.config.settings import Settings
from datadog_checks.prefect.config_models.instance import InstanceConfig
from datadog_checks.prefect.counting.event_activity import EventActivity
from datadog_checks.prefect.counting.event_feed import Reach
from datadog_checks.prefect.mirror.deployments import KnownDeployments
from datadog_checks.prefect.mirror.flow_runs import ActiveFlowRuns
from datadog_checks.prefect.mirror.inventory import Inventory
from datadog_checks.prefect.mirror.task_runs import UnfinishedTaskRuns
from datadog_checks.prefect.state_store import StateStore
from datadog_checks.prefect.tags import RunTags

from .fake_http import URL


def settings_of(**instance: Any) -> Settings:
    """The options of an instance that sets these."""
    instance = {"prefect_url": URL, **instance}
    context = {"configured_fields": frozenset(instance)}
    return Settings.of(InstanceConfig.model_validate(instance, context=context))


DEFAULTS = settings_of()


class TagsByIds(Inventory):
    """Wants every run, and tags it with what is known without a request."""

    def __init__(self) -> None:
        pass

    def tags_of_runs(self, runs: Collection[FlowRun], remember: bool = True) -> dict[str, RunTags | None]:
        return {run.id: RunTags(deployment_id=run.deployment_id) for run in runs}

    def tags_by_run_id(self, run_ids: Collection[str]) -> dict[str, RunTags | None]:
        return {run_id: RunTags(flow_id=run_id) for run_id in run_ids}


def fail(message: str | Exception) -> None:
    raise AssertionError(message)


def parts_of(
    api: PrefectApi,
    settings: Settings = DEFAULTS,
    inventory: Inventory | None = None,
    stored: dict[str, str] | None = None,
) -> Context:
    """All parts of a check that collectors share, new, with what an earlier life of it has `stored`.

    It may warn, but of neither unforeseen errors nor its stored state.
    """
    stored = {} if stored is None else stored
    inventory = inventory or Inventory(api, settings.filters)
    reach = Reach(settings.event_lookback, settings.max_catch_up)
    event_activity = EventActivity(api, reach)
    return Context(
        api,
        settings,
        inventory,
        ActiveFlowRuns(api),
        UnfinishedTaskRuns(api, inventory),
        KnownDeployments(api, inventory, event_activity, reach, settings.interval),
        event_activity,
        StateStore(lambda name: stored.get(name, ""), stored.__setitem__, fail),
        warn=lambda message: None,
        log_unforeseen=fail,
    )
