"""The one shape of all collectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.api.models import ApiModel
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.config.settings import Settings
from datadog_checks.prefect.counting.event_activity import TASK_RUNS, EventActivity, Reach
from datadog_checks.prefect.mirror.deployments import KnownDeployments
from datadog_checks.prefect.mirror.flow_runs import ActiveFlowRuns
from datadog_checks.prefect.mirror.initial_load import InitialLoadTime
from datadog_checks.prefect.mirror.inventory import Inventory
from datadog_checks.prefect.mirror.planned_runs import PlannedRuns
from datadog_checks.prefect.mirror.stored_mirror import StoredMirror
from datadog_checks.prefect.mirror.task_runs import UnfinishedTaskRuns
from datadog_checks.prefect.output.submitter import Sheet
from datadog_checks.prefect.state_store import StateStore


@dataclass(frozen=True)
class Context:
    """What collectors share.

    `warn` adds a warning to the check's status. `log_unexpected` logs an unexpected error with its traceback, once.
    """

    api: PrefectApi
    settings: Settings
    inventory: Inventory
    active_flow_runs: ActiveFlowRuns
    unfinished_task_runs: UnfinishedTaskRuns
    deployments: KnownDeployments
    planned_runs: PlannedRuns
    stored_mirror: StoredMirror
    event_activity: EventActivity
    store: StateStore
    warn: Callable[[str], None]
    log_unexpected: Callable[[Exception], None]

    @classmethod
    def of(
        cls,
        api: PrefectApi,
        settings: Settings,
        store: StateStore,
        warn: Callable[[str], None],
        log_unexpected: Callable[[Exception], None],
        inventory: Inventory | None = None,
    ) -> Context:
        """Wire the parts together; tests may bring an `inventory`."""
        inventory = inventory or Inventory(api, settings.filters)
        event_activity = EventActivity(api, Reach(settings.event_lookback, settings.max_catch_up))
        load_time = InitialLoadTime(api, settings.initial_load_share * settings.interval.total_seconds())
        active_flow_runs = ActiveFlowRuns(api)
        deployments = KnownDeployments(api, inventory, event_activity, settings.interval, load_time)
        planned_runs = PlannedRuns(api, inventory, load_time)
        return cls(
            api,
            settings,
            inventory,
            active_flow_runs,
            UnfinishedTaskRuns(
                api, inventory, lambda: event_activity.is_turn_of(TASK_RUNS) or not active_flow_runs.is_idle()
            ),
            deployments,
            planned_runs,
            StoredMirror(store, inventory, deployments, planned_runs),
            event_activity,
            store,
            warn,
            log_unexpected,
        )

    @contextmanager
    def leaving_out(self, model: type[ApiModel], identity: str) -> Iterator[None]:
        """Leave out one object that cannot be evaluated, instead of all objects beside it.

        Errors of requests are not about the object, and are raised.
        """
        try:
            yield
        except ApiError:
            raise
        except Exception as error:  # the type depends on what is in the object
            self.log_unexpected(error)
            # The error's text is not shown: it may hold data of the object.
            self.api.oddities.leave_out(model, f"it cannot be evaluated ({type(error).__name__})", identity)

    def now(self) -> datetime:
        """The server's clock."""
        return self.api.now()


class Collector(ABC):
    """Collects one layer of a Prefect server.

    `name` is its name in the option `collectors`. `needs_deployments` says whether it needs current deployments, if
    only for their tags; the collector `deployments` keeps them current. `subject` says in a warning what is missing
    when the collector fails. `owned` lists the metrics that only this collector submits. In each check run, `check.py`
    calls `collect`, submits the sheet if nothing was raised, and then calls `commit`.
    """

    name: ClassVar[str]
    needs_deployments: ClassVar[bool] = False
    subject: ClassVar[str]
    owned: ClassVar[tuple[str, ...]]
    # The number of events left, if the collector can go on in the same check run.
    behind = 0

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def collect(self, sheet: Sheet) -> None:
        """Put samples on the sheet. If this raises, nothing on the sheet is submitted. Raises `ApiError`."""

    def go_on(self, sheet: Sheet) -> None:
        """Collect more if the collector is `behind`. Raises as `collect` does."""
        self.collect(sheet)

    def commit(self) -> None:  # noqa: B027 - most collectors have nothing to remember
        """Remember that the sheet was submitted, so that nothing on it is collected again."""
