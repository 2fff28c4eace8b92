"""The Agent check: what happens in a check run, from above."""

from __future__ import annotations

from typing import Any

from datadog_checks.base import AgentCheck, ConfigurationError
from datadog_checks.base.utils.http import RequestsWrapper

from .api.client import Client
from .api.errors import (
    AccessDenied,
    ApiError,
    NotPrefect,
    OutOfTime,
    Rejected,
    ServerUnusable,
    Unreachable,
    UnsupportedVersion,
)
from .api.prefect import PrefectApi
from .clock import ServerClock
from .collectors import COLLECTORS, Collector, Context, Events, Server
from .config_models import ConfigMixin
from .credentials import secrets_of
from .deployment_watch import DeploymentWatch
from .diagnostics import STEPS, findings
from .event_feed import Reach
from .event_gate import EventGate
from .inventory import Inventory
from .metrics import NAMESPACE
from .run_board import RunBoard
from .settings import Settings
from .state_store import Document, StateStore
from .submitter import Sheet, Submitter, VanishedTagSets
from .task_board import TaskBoard
from .versions import is_supported, lacking

VANISHED = "vanished_tag_sets"
DIAGNOSIS_CATEGORY = "prefect"
# The version is asked for once in so many check runs, and when something failed.
RUNS_A_VERSION = 20


class PrefectCheck(AgentCheck, ConfigMixin):
    """Collects the health, the objects and the runs of one Prefect server."""

    __NAMESPACE__ = NAMESPACE

    def __init__(self, name: str, init_config: dict[str, Any], instances: list[dict[str, Any]]) -> None:
        super().__init__(name, init_config, instances)
        for secret in secrets_of(self.instance or {}, self.init_config or {}):
            self.register_secret(secret)
        self.check_initializations.append(self._set_up)
        self.diagnosis.register(self._diagnose)
        self._runs_until_asked = 0

    def persistent_cache_id(self) -> str:
        return Settings.of(self.config).digest()

    def check(self, _: Any) -> None:
        oddities = self._api.begin_run(self._settings.budget_seconds)
        for look in self._looks:
            look.begin_run()
        self._run(self._server)
        failures = self._run_collectors()
        self._save_vanished()
        if oddities:
            self.warning("missing from Prefect's answers, or not as they should be: %s", oddities)
        if len(failures) == len(self._collectors):
            raise failures[0]

    def _run_collectors(self) -> list[ApiError]:
        """Run all but the server's; where something fails, it is asked first whether anything can succeed."""
        has_asked = self._runs_until_asked <= 0 or not self._api.has_answered
        if has_asked:
            self._runs_until_asked = 0
            self._require_prefect()
            self._runs_until_asked = RUNS_A_VERSION if self._version else 0
        elif self._version:
            self._submit_version(self._version)
        failures = []
        for collector in self._collectors:
            failure = self._run(collector)
            if failure is None:
                continue
            self._runs_until_asked = 0
            if not has_asked and not isinstance(failure, OutOfTime):
                has_asked = True
                self._require_prefect()
            self.warning("Missing: %s. %s", collector.subject, failure)
            failures.append(failure)
        self._runs_until_asked -= 1
        return failures

    def _set_up(self) -> None:
        self._settings = settings = Settings.of(self.config)
        self._api = PrefectApi(Client(self.http, settings.url, ServerClock(), settings.headers, settings.credentials))
        self._inventory = Inventory(self._api, settings.filters)
        self._board = RunBoard(self._api)
        self._store = StateStore(self.read_persistent_cache, self.write_persistent_cache, self.warning)
        self._submitter = Submitter(self, settings.tags, self._restore_vanished())
        self._task_board = TaskBoard(self._api, self._inventory)
        reach = Reach(settings.event_lookback, settings.max_catch_up)
        self._gate = EventGate(self._api, reach)
        context = Context(
            self._api,
            settings,
            self._inventory,
            self._board,
            self._task_board,
            DeploymentWatch(self._api, self._inventory, self._gate, reach, settings.interval),
            self._gate,
            self._store,
            self.warning,
        )
        self._looks = (self._inventory, self._board, self._task_board, self._gate)
        self._version: str | None = None
        self._saved_vanished: Document = {}
        if settings.is_cloud:
            self.log.info("Prefect Cloud has no readiness and no version, and its health is that it answers")
        self._server = Server(context)
        self._collectors: list[Collector] = [
            collector(context) for collector in COLLECTORS if collector is not Events or settings.collect_events
        ]

    def _restore_vanished(self) -> VanishedTagSets:
        try:
            document = self._store.load(VANISHED)
            return VanishedTagSets.restored(document) if document else VanishedTagSets()
        except ValueError:
            self.warning("the stored list of tag sets cannot be read: those that vanished get no zeros")
            return VanishedTagSets()

    def _save_vanished(self) -> None:
        """A large server has a megabyte of it, which is not written in vain."""
        document = self._submitter.vanished.document()
        if document != self._saved_vanished:
            self._store.save(VANISHED, document)
            self._saved_vanished = document

    def _run(self, collector: Collector) -> ApiError | None:
        """Collect, submit and remember; a failure leaves the collector where it stood, and its neighbours alone."""
        sheet = Sheet()
        try:
            collector.collect(sheet)
        except ApiError as error:
            return error
        self._submitter.submit(sheet, collector.owned, self._api.now())
        collector.commit()
        return None

    def _require_prefect(self) -> None:
        """End the check run where nothing in it could succeed."""
        if self._settings.is_cloud:
            self._require_workspace()
            return
        try:
            version = self._api.version()
        except (AccessDenied, NotPrefect) as error:
            # A gateway may close just this door: what all else needs shows whether it is so.
            if not self._can_read_pools():
                raise
            self.warning("Missing: the server's version. %s", error)
            return
        except ServerUnusable:
            raise
        except ApiError as error:
            if isinstance(error, OutOfTime) and not self._api.has_answered:
                budget = self._settings.budget_seconds
                raise Unreachable(self._settings.url, f"no answer within the {budget:g} s of a check run") from None
            self.warning("Missing: the server's version. %s", error)
            return
        if not is_supported(version):
            raise UnsupportedVersion(self._settings.url, version)
        if version != self._version and (notes := lacking(version)):
            self.log.info("Prefect %s lacks what later versions have: %s", version, "; ".join(notes))
        self._version = version
        self._submit_version(version)

    def _require_workspace(self) -> None:
        """The same of Prefect Cloud; what else goes wrong there, the collectors tell."""
        try:
            self._inventory.pools()
        except ServerUnusable:
            raise
        except ApiError as error:
            if isinstance(error, Rejected) and error.status == 404:
                raise NotPrefect(self._settings.url, "it has no such workspace") from None

    def _can_read_pools(self) -> bool:
        try:
            self._inventory.pools()
        except ApiError:
            return False
        return True

    def _diagnose(self) -> None:
        """Tell `agent diagnose` what stands in the way, of an instance that may not have run yet."""
        try:
            AgentCheck.run_check_initializations(self)
        except ConfigurationError as error:
            cause, remedy = self.sanitize(str(error)), "Correct the options that are named."
            self.diagnosis.fail("configuration", cause, DIAGNOSIS_CATEGORY, "whether the options are valid", remedy)
            return
        settings = self._settings
        http = RequestsWrapper(self.instance, self.init_config, logger=self.log)
        client = Client(http, settings.url, ServerClock(), settings.headers, settings.credentials)
        for finding in findings(settings, client, verifies_tls=self.config.tls_verify is not False):
            record = getattr(self.diagnosis, finding.verdict.value)
            cause = self.sanitize(finding.cause)
            record(finding.step, cause, DIAGNOSIS_CATEGORY, STEPS[finding.step], finding.remedy or None)

    @AgentCheck.metadata_entrypoint
    def _submit_version(self, version: str) -> None:
        self.set_metadata("version", version)
