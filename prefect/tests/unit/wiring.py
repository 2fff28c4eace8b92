"""The parts of a check, wired together as in a check run, with a fake server."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from datadog_checks.prefect.api.models import FlowRun
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.collectors import Context
from datadog_checks.prefect.config.settings import Settings
from datadog_checks.prefect.config_models.instance import InstanceConfig
from datadog_checks.prefect.mirror.inventory import Inventory
from datadog_checks.prefect.state_store import StateStore
from datadog_checks.prefect.tags import RunTags, Tags

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

    def tags_of_scheduled_runs(self, deployment_id: str) -> Tags | None:
        return RunTags(deployment_id=deployment_id).tags()

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
    """The parts that collectors share, with the state that an earlier check has `stored`.

    They may warn, except of unexpected errors and of the stored state.
    """
    stored = {} if stored is None else stored
    store = StateStore(lambda name: stored.get(name, ""), stored.__setitem__, fail)
    return Context.of(api, settings, store, lambda _: None, fail, inventory)
