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
from datadog_checks.prefect.counting.event_activity import EventActivity
from datadog_checks.prefect.mirror.deployments import KnownDeployments
from datadog_checks.prefect.mirror.flow_runs import ActiveFlowRuns
from datadog_checks.prefect.mirror.inventory import Inventory
from datadog_checks.prefect.mirror.task_runs import UnfinishedTaskRuns
from datadog_checks.prefect.output.submitter import Sheet
from datadog_checks.prefect.state_store import StateStore


@dataclass(frozen=True)
class Context:
    """What collectors share.

    `warn` puts a line into the check's status; `log_unforeseen` logs where an error of no known kind came from, once.
    """

    api: PrefectApi
    settings: Settings
    inventory: Inventory
    active_flow_runs: ActiveFlowRuns
    unfinished_task_runs: UnfinishedTaskRuns
    deployments: KnownDeployments
    event_activity: EventActivity
    store: StateStore
    warn: Callable[[str], None]
    log_unforeseen: Callable[[Exception], None]

    @contextmanager
    def leaving_out(self, model: type[ApiModel], identity: str) -> Iterator[None]:
        """Leave an object out for good that cannot be evaluated, instead of all that is beside it.

        Errors of requests are not the object's, and are passed on.
        """
        try:
            yield
        except ApiError:
            raise
        except Exception as error:  # of a type that depends on what is in the object
            self.log_unforeseen(error)
            # What it says may be what is in the object.
            self.api.oddities.leave_out(model, f"it cannot be evaluated ({type(error).__name__})", identity)

    def now(self) -> datetime:
        """The server's clock."""
        return self.api.now()


class Collector(ABC):
    """Collects one layer of a Prefect server.

    `subject` says what is missing when it fails; `owned` names the metrics that it alone submits. The framework calls
    `collect` in each check run, submits the sheet if it did not raise, and then calls `commit`.
    """

    subject: ClassVar[str]
    owned: ClassVar[tuple[str, ...]]
    # What was found and not taken, of a collector that can go on with it in the same check run.
    behind = 0

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def collect(self, sheet: Sheet) -> None:
        """Put what is to be submitted on the sheet. Raises `ApiError`; then nothing of the sheet is submitted."""

    def go_on(self, sheet: Sheet) -> None:
        """Collect more of what the collector is `behind` with. Raises as `collect` does."""
        self.collect(sheet)

    def commit(self) -> None:  # noqa: B027 - most collectors have nothing to remember
        """Remember what was submitted, so that it is not collected again."""
