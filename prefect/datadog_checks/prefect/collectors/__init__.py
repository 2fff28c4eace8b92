"""All collectors but `Server`, which runs before them, in their order: cheap ones first, slow ones last."""

from __future__ import annotations

from datadog_checks.prefect.config.settings import Settings

from .base import Collector, Context
from .concurrency_limits import ConcurrencyLimits
from .counted import FeedCollector
from .deployments import Deployments
from .events import Events
from .flow_runs import FlowRunStates, FlowRunTransitions, ScheduledFlowRuns
from .server import Server
from .task_runs import TaskRunStates, TaskRunTransitions
from .work_pools import Workers, WorkPools
from .work_queues import Backlogs, Concurrency, WorkQueues

COLLECTORS: tuple[type[Collector], ...] = (
    WorkPools,
    Workers,
    WorkQueues,
    ConcurrencyLimits,
    FlowRunTransitions,
    TaskRunTransitions,
    Events,
    FlowRunStates,
    Backlogs,
    Concurrency,
    TaskRunStates,
    Deployments,
    ScheduledFlowRuns,
)

NAMES = frozenset(collector.name for collector in COLLECTORS)


def chosen(settings: Settings) -> list[type[Collector]]:
    """The collectors whose metrics and events the instance submits, in their order."""
    only = settings.only_collectors
    return [
        collector
        for collector in COLLECTORS
        if (only is None or collector.name in only) and collector.name not in settings.no_collectors
        if collector is not Events or settings.collect_events
    ]


__all__ = [
    "COLLECTORS",
    "NAMES",
    "Collector",
    "Context",
    "Deployments",
    "Events",
    "FeedCollector",
    "ScheduledFlowRuns",
    "Server",
    "chosen",
]
