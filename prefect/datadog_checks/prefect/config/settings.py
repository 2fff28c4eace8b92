"""The instance's options, in the form that the check uses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from datadog_checks.prefect.config_models.instance import InstanceConfig
from datadog_checks.prefect.credentials import Credentials

from .filters import Filters, NameFilter

LEAST_BUDGET_SECONDS = 15.0
CLOUD_WORKSPACE = re.compile(r"(.*)/api/accounts/([^/]+)/workspaces/([^/]+)")


@dataclass(frozen=True)
class Settings:
    url: str
    filters: Filters
    # The option `tags`, and all tags that are added to everything the instance submits.
    own_tags: tuple[str, ...]
    tags: tuple[str, ...]
    server_name: str | None
    headers: Mapping[str, str] = field(repr=False)
    credentials: Credentials
    collect_events: bool
    # Names of collectors: the only ones to run (None: all), and those not to run.
    only_collectors: frozenset[str] | None
    no_collectors: frozenset[str]
    late_after: timedelta
    worker_stale_after: timedelta
    event_lookback: timedelta
    max_catch_up: timedelta
    interval: timedelta
    # The part of the interval that the initial load of a large server may take.
    initial_load_share: float

    @classmethod
    def of(cls, config: InstanceConfig) -> Settings:
        url = config.prefect_url.rstrip("/")
        own_tags = tuple(config.tags or ())
        return cls(
            url=url,
            filters=Filters(
                work_pools=_name_filter(config.work_pool_names),
                work_queues=_name_filter(config.work_queue_names),
                flows=_name_filter(config.flow_names),
                deployments=_name_filter(config.deployment_names),
                events=_name_filter(config.event_names),
                prefect_tags=_name_filter(config.prefect_tags),
            ),
            own_tags=own_tags,
            tags=(*own_tags, f"prefect_server:{config.server_name or _host_and_port(url)}"),
            server_name=config.server_name,
            headers=dict(config.custom_headers or {}),
            credentials=Credentials.of(config),
            collect_events=bool(config.collect_events),
            only_collectors=_names(config.collectors, "include") or None,
            no_collectors=_names(config.collectors, "exclude"),
            late_after=timedelta(seconds=config.late_start_grace_seconds or 0),
            worker_stale_after=timedelta(seconds=config.worker_stale_after_seconds or 0),
            event_lookback=timedelta(seconds=config.event_lookback_seconds or 0),
            max_catch_up=timedelta(seconds=config.max_catch_up_seconds or 0),
            interval=timedelta(seconds=max(0, config.min_collection_interval or 0) or LEAST_BUDGET_SECONDS),
            initial_load_share=config.initial_load_share or 0.0,
        )

    @property
    def budget_seconds(self) -> float:
        """The seconds that one check run may take: the collection interval, at least the Agent's default."""
        return max(LEAST_BUDGET_SECONDS, self.interval.total_seconds())

    @property
    def is_cloud(self) -> bool:
        """Whether the URL is a workspace of Prefect Cloud, which has no health, no readiness and no version."""
        return CLOUD_WORKSPACE.fullmatch(self.url) is not None

    @property
    def ui_url(self) -> str:
        """The URL of the user interface of Prefect's server or Prefect Cloud."""
        if workspace := CLOUD_WORKSPACE.fullmatch(self.url):
            site, account_id, workspace_id = workspace.groups()
            # Prefect's own client derives it in the same way.
            app = site.replace("https://api", "https://app", 1)
            return f"{app}/account/{account_id}/workspace/{workspace_id}"
        return self.url.removesuffix("/api")

    def digest(self) -> str:
        """Identifies what is counted, so that the state of another server or of other filters is not used.

        It depends on the filters and on `server_name`, or, if that is not set, on the URL and the instance's tags. It
        does not depend on credentials, so that new ones keep the state, or on options that only affect the submission
        of events.
        """
        if self.server_name is None:
            return self.digest_without_name()
        return _digest(["server_name", self.server_name, self._patterns()])

    def digest_without_name(self) -> str:
        """The digest without `server_name`. It also finds state that was saved before that option was set."""
        return _digest([_normalised(self.url), self._patterns(), sorted(self.own_tags)])

    def _patterns(self) -> list[object]:
        filters = self.filters
        patterns = [names.patterns() for names in (filters.work_pools, filters.work_queues, filters.deployments)]
        # Left out if not set, so that state that was saved before this option existed is found.
        return [*patterns, *([filters.flows.patterns()] if filters.flows.is_set else [])]


def _digest(counted: list[object]) -> str:
    return hashlib.sha256(json.dumps(counted).encode()).hexdigest()[:16]


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or {'http': 80, 'https': 443}[parts.scheme]}"


def _normalised(url: str) -> str:
    """One spelling for all URLs of the same place."""
    parts = urlsplit(url)
    port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def _names(lists: object, side: str) -> frozenset[str]:
    return frozenset(getattr(lists, side, None) or ())


def _name_filter(names: object) -> NameFilter:
    return NameFilter.of(getattr(names, "include", None), getattr(names, "exclude", None))
