"""All collectors but `Server`, which runs before them, in their order: cheap ones first, slow ones last."""

from __future__ import annotations

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

__all__ = ["COLLECTORS", "Collector", "Context", "Events", "FeedCollector", "Server"]
