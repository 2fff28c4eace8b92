"""The Agent check: the outline of a check run."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

from datadog_checks.base import AgentCheck, ConfigurationError
from datadog_checks.base.agent import datadog_agent
from datadog_checks.base.utils.http import RequestsWrapper

from .api.client import Client
from .api.errors import (
    ApiError,
    NotPrefect,
    OutOfTime,
    Rejected,
    ServerUnusable,
    Unreachable,
    UnsupportedVersion,
)
from .api.prefect import PrefectApi
from .api.transport import HttpInTime
from .api.versions import is_supported, lacking
from .collectors import (
    COLLECTORS,
    NAMES,
    Collector,
    Context,
    Deployments,
    FeedCollector,
    ScheduledFlowRuns,
    Server,
    chosen,
)
from .config.settings import Settings
from .config_models import ConfigMixin
from .credentials import secrets_of
from .diagnostics import STEPS, findings
from .mirror.inventory import MOST_PREFECT_TAGS
from .mirror.stored_mirror import DOCUMENT as DEPLOYMENTS
from .output.metrics import NAMESPACE
from .output.submitter import Sheet, Submitter, VanishedTagSets
from .state_store import Document, StateStore, remove_stale, take_over, why_unreadable
from .tags import one_line

VANISHED = "vanished_tag_sets"
DIAGNOSIS_CATEGORY = "prefect"
# The most that one collector may take of the time that is left, so that one that hangs does not starve the others.
SHARE_OF_A_COLLECTOR = 1 / 3
# Extra turns for collectors that are behind, as long as more than this share of the check run's time is left.
MOST_TURNS = 4
SHARE_LEFT_IDLE = 1 / 5
MOST_UNEXPECTED = 100
MOST_NAME_CHARACTERS = 100
# Options that the Agent's HTTP wrapper has, and why this check does not use them.
WITHOUT_EFFECT = {
    "allow_redirects": "redirects are never followed. Set `prefect_url` to the final address",
    "persist_connections": "connections are always kept open",
}
# The version is requested once in this many check runs, and after a failure.
RUNS_PER_VERSION_CHECK = 20


class PrefectCheck(AgentCheck, ConfigMixin):
    """Collects health, objects and runs of one Prefect server."""

    __NAMESPACE__ = NAMESPACE

    def __init__(self, name: str, init_config: dict[str, Any], instances: list[dict[str, Any]]) -> None:
        super().__init__(name, init_config, instances)
        for secret in secrets_of(self.instance or {}, self.init_config or {}):
            self.register_secret(secret)
        self._unexpected: set[str] = set()
        self.check_initializations.append(self._set_up)
        self.diagnosis.register(self._diagnose)
        self._runs_until_version_check = 0

    @property
    def http(self) -> RequestsWrapper:
        """The base class's wrapper, limited to the time of a check run."""
        if not hasattr(self, "_http"):
            self._http = HttpInTime(self.instance or {}, self.init_config, self.HTTP_CONFIG_REMAPPER, self.log)
        return self._http

    def persistent_cache_id(self) -> str:
        return Settings.of(self.config).digest()

    def check(self, _: Any) -> None:
        self._api.start_run(self._settings.budget_seconds)
        failure = self._run(self._server, self._server.collect)
        if failure is not None:
            self.warning("Missing: %s. %s", self._server.subject, self._words(failure))
        failures = self._run_collectors()
        self._go_on([collector for collector in self._collectors if collector not in failures])
        self._submitter.submit_zeros(self._api.now())
        self._save_vanished()
        self._stored_mirror.save_if_due(self._api.now())
        self._report()
        if failures and len(failures) == len(self._collectors):
            raise next(iter(failures.values()))

    def _run_collectors(self) -> dict[Collector, Exception]:
        """Run all collectors but `Server`, each in its share of the time. Returns those that failed, and why.

        After the first failure, check whether any request can still succeed. Raises `ServerUnusable` if none can and
        nothing was collected.
        """
        has_asked = self._runs_until_version_check <= 0 or not self._api.run.has_answered
        if has_asked:
            self._runs_until_version_check = 0
            self._require_prefect()
            self._runs_until_version_check = RUNS_PER_VERSION_CHECK if self._api.known_version else 0
        elif self._api.known_version:
            self._submit_version(self._api.known_version)
        failures: dict[Collector, Exception] = {}
        for number, collector in enumerate(self._collectors):
            with self._api.run.time.share(max(SHARE_OF_A_COLLECTOR, 1 / (len(self._collectors) - number))):
                failure = self._run(collector, collector.collect)
            if failure is None:
                continue
            failures[collector] = failure
            self._runs_until_version_check = 0
            self.warning("Missing: %s. %s", collector.subject, self._words(failure))
            if not has_asked and isinstance(failure, ApiError) and not isinstance(failure, OutOfTime):
                has_asked = True
                try:
                    self._require_prefect()
                except ServerUnusable as error:
                    if len(failures) == number + 1:
                        raise
                    # The server answered a moment ago: keep what was collected until then.
                    rest = self._collectors[number + 1 :]
                    self.warning("Missing: %s. %s", ", ".join(other.subject for other in rest), error)
                    return failures | dict.fromkeys(rest, error)
        self._runs_until_version_check -= 1
        return failures

    def _go_on(self, collectors: Sequence[Collector]) -> None:
        """Give the time that is left to collectors that found more than they could process in their share."""
        for _ in range(MOST_TURNS):
            collectors = [collector for collector in collectors if collector.behind]
            for collector in collectors:
                if self._api.seconds_left() < SHARE_LEFT_IDLE * self._settings.budget_seconds:
                    break
                with self._api.run.time.share(1 / 2):
                    self._run(collector, collector.go_on)
        for collector in collectors:
            if collector.behind:
                self.warning("%s: %s events are left for the next check runs", collector.subject, collector.behind)

    def _run(self, collector: Collector, collect: Callable[[Sheet], None]) -> Exception | None:
        """Collect, submit and commit. Returns the failure, if any: then the collector does not advance."""
        sheet = Sheet()
        try:
            collect(sheet)
            if collector not in self._unwanted:
                self._submitter.submit(sheet, collector.owned)
            collector.commit()
        except Exception as error:  # of any type: one collector must not stop the others
            if not isinstance(error, ApiError):
                self._log_unexpected(error)
            return error
        return None

    def _log_unexpected(self, error: Exception) -> None:
        """Log an unexpected error with its traceback, once per code location rather than in each check run."""
        if place := self._new_place(error):
            self.log.error("Unexpected %s", place, exc_info=error)

    def _log_place(self, error: Exception) -> None:
        """Log it without its message, which may contain data from the server."""
        if place := self._new_place(error):
            frames = "".join(traceback.format_tb(error.__traceback__))
            self.log.error("Unexpected %s\n%s", place, frames)

    def _new_place(self, error: Exception) -> str:
        """The type and the code location of an error; empty if it was logged before."""
        frames = traceback.extract_tb(error.__traceback__)
        place = (
            f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}" if frames else type(error).__name__
        )
        if place in self._unexpected or len(self._unexpected) >= MOST_UNEXPECTED:
            return ""
        self._unexpected.add(place)
        return place

    @staticmethod
    def _words(failure: Exception) -> str:
        if isinstance(failure, ApiError):
            return str(failure)
        return f"The check itself failed ({type(failure).__name__}). Report it with the traceback in the Agent's log."

    def _report(self) -> None:
        if found := self._inventory.take_deployments_with_many_tags():
            self.warning(
                "Tags `prefect_tag` are incomplete for %d deployments, such as %s: only the first %d of a deployment,"
                " in alphabetical order, are sent. Select tags with `prefect_tags`",
                len(found),
                one_line(found[0].name or found[0].id)[:MOST_NAME_CHARACTERS],
                MOST_PREFECT_TAGS,
            )
        oddities = self._api.oddities
        if oddities:
            self.warning("Unexpected or missing fields in Prefect's responses: %s", oddities)
        if oddities.left_out:
            self.warning("Left out, because they cannot be read or evaluated: %s", oddities.left_out)
        self._store.report_unwritten()

    def _set_up(self) -> None:
        self._settings = settings = Settings.of(self.config)
        self._check_options()
        self._api = PrefectApi(Client(self.http, settings.url, settings.headers, settings.credentials))
        self._store = self._open_store()
        self._submitter = Submitter(self, settings.tags, self._restore_vanished())
        context = Context.of(self._api, settings, self._store, self.warning, self._log_place)
        self._inventory = context.inventory
        self._saved_vanished: Document = {}
        if settings.is_cloud:
            self.log.info("Prefect Cloud has no readiness and no version; `health` is 1 when its API answers")
        self._server = Server(context)
        wanted = chosen(settings)
        needed = [Deployments] if any(collector.needs_deployments for collector in wanted) else []
        kinds = [kind for kind in COLLECTORS if kind in (*wanted, *needed)]
        self._collectors: list[Collector] = [kind(context) for kind in kinds]
        self._stored_mirror = context.stored_mirror
        self._restore_mirror(with_planned_runs=ScheduledFlowRuns in kinds)
        # These run because others need them, and submit nothing.
        self._unwanted = {collector for collector in self._collectors if type(collector) not in wanted}

    def _check_options(self) -> None:
        """Raise `ConfigurationError` for names of collectors that do not exist, and log options without effect."""
        named = (self._settings.only_collectors or frozenset()) | self._settings.no_collectors
        if unknown := sorted(named - NAMES):
            raise ConfigurationError(
                f"`collectors`: there is no collector {unknown[0]!r}. Enter some of {', '.join(sorted(NAMES))}"
            )
        for option, reason in WITHOUT_EFFECT.items():
            if option in (self.instance or {}) or option in (self.init_config or {}):
                self.log.warning("The option `%s` has no effect: %s", option, reason)

    def _open_store(self) -> StateStore:
        settings = self._settings
        if settings.server_name is not None:
            # State saved before `server_name` was set is moved once. File names begin as in the base class: the
            # check's id includes the instance's `name` or `namespace`.
            old = f"{self.check_id.rpartition(':')[0]}:{settings.digest_without_name()}_"
            counted = [collector for collector in COLLECTORS if issubclass(collector, FeedCollector)]
            take_over(
                [VANISHED, DEPLOYMENTS, *(collector.document_of(settings) for collector in counted)],
                lambda key: str(datadog_agent.read_persistent_cache(old + key)),
                lambda key, text: datadog_agent.write_persistent_cache(old + key, text),
                self.read_persistent_cache,
                self.write_persistent_cache,
            )
        if run_path := datadog_agent.get_config("run_path"):
            remove_stale(str(run_path), settings.digest())
        return StateStore(self.read_persistent_cache, self.write_persistent_cache, self.warning)

    def _restore_vanished(self) -> VanishedTagSets:
        try:
            document = self._store.load(VANISHED)
            return VanishedTagSets.restored(document) if document else VanishedTagSets()
        except Exception as error:  # the file may contain anything
            self.warning(
                "Series that disappeared before this start are not reset to 0: their state cannot be read. %s",
                why_unreadable(error),
            )
            return VanishedTagSets()

    def _restore_mirror(self, with_planned_runs: bool) -> None:
        try:
            self._stored_mirror.restore(with_planned_runs)
        except Exception as error:  # the file may contain anything
            self.warning(
                "Initial load of deployments starts anew: their stored state cannot be read. %s", why_unreadable(error)
            )

    def _save_vanished(self) -> None:
        """Save only what changed: a large server has a megabyte of it."""
        document = self._submitter.vanished.document()
        if document != self._saved_vanished:
            self._store.save(VANISHED, document)
            self._saved_vanished = document

    def _require_prefect(self) -> None:
        """End the check run, by raising `ServerUnusable`, if no request in it can succeed."""
        if self._settings.is_cloud:
            self._require_workspace()
            return
        known = self._api.known_version
        try:
            with self._api.run.time.share(SHARE_OF_A_COLLECTOR):
                version = self._api.version()
        except ApiError as error:
            if isinstance(error, OutOfTime) and not self._api.run.has_answered:
                budget = self._settings.budget_seconds
                raise Unreachable(self._settings.url, f"no answer within the {budget:g} s of a check run") from None
            if isinstance(error, Unreachable):
                if not self._api.run.has_answered:
                    raise
            elif isinstance(error, ServerUnusable) and not self._can_read_pools():
                # A gateway may block only this endpoint. If so, the pools, which all collectors need, can be read.
                raise
            self.warning("Missing: the server's version. %s", error)
            return
        if not is_supported(version):
            raise UnsupportedVersion(self._settings.url, version)
        if version != known and (notes := lacking(version)):
            self.log.info("Prefect %s lacks features of later versions. Consequences: %s", version, "; ".join(notes))
        self._submit_version(version)

    def _require_workspace(self) -> None:
        """The same for Prefect Cloud. Other failures are left to the collectors to report."""
        try:
            self._inventory.pools()
        except ServerUnusable:
            raise
        except ApiError as error:
            if isinstance(error, Rejected) and error.status == 404:
                raise NotPrefect(self._settings.url, "the workspace does not exist") from None

    def _can_read_pools(self) -> bool:
        try:
            with self._api.run.time.share(SHARE_OF_A_COLLECTOR):
                self._inventory.pools()
        except ApiError:
            return False
        return True

    def _diagnose(self) -> None:
        """Report to `agent diagnose`, also for an instance that has not run yet."""
        try:
            AgentCheck.run_check_initializations(self)
        except ConfigurationError as error:
            cause, remedy = self.sanitize(str(error)), "Correct the options that the error names."
            self.diagnosis.fail("configuration", cause, DIAGNOSIS_CATEGORY, "whether the options are valid", remedy)
            return
        settings = self._settings
        http = HttpInTime(self.instance or {}, self.init_config, logger=self.log)
        client = Client(http, settings.url, settings.headers, settings.credentials)
        for finding in findings(settings, client, verifies_tls=self.config.tls_verify is not False):
            record = getattr(self.diagnosis, finding.verdict.value)
            cause = self.sanitize(finding.cause)
            record(finding.step, cause, DIAGNOSIS_CATEGORY, STEPS[finding.step], finding.remedy or None)

    @AgentCheck.metadata_entrypoint
    def _submit_version(self, version: str) -> None:
        self.set_metadata("version", version)
