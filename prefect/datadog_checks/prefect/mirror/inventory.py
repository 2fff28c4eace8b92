"""Names and tags of the server's pools, queues, deployments and flows, and which of them the filters include."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from cachetools import FIFOCache

from datadog_checks.prefect.api.errors import ApiError
from datadog_checks.prefect.api.models import Deployment, FlowRun, WorkPool, WorkQueue
from datadog_checks.prefect.api.prefect import PrefectApi
from datadog_checks.prefect.config.filters import Filters
from datadog_checks.prefect.tags import RunTags, Tags, related_by_role, tag_set

# Far more than a server uses at one time. What is dropped is read again when needed.
REMEMBERED = 50_000
# Many runs are read in parts, each of which is kept if there is no time for the next.
READ_AT_ONCE = 200
# The most tags `prefect_tag` of a deployment.
MOST_PREFECT_TAGS = 20
IS_PAUSED = "is_paused:"


class Inventory:
    """The server's objects by id; unknown ones are read on demand.

    Methods that may send requests raise `ApiError`.
    """

    def __init__(self, api: PrefectApi, filters: Filters) -> None:
        self._api = api
        self._filters = filters
        self._known_queues: set[str] = set()
        self._queue_ids: dict[tuple[str | None, str | None], str] = {}
        self._deployments: FIFOCache[str, Deployment] = FIFOCache(REMEMBERED)
        self._gone_deployments: FIFOCache[str, None] = FIFOCache(REMEMBERED)
        self._deployment_tags: FIFOCache[str, tuple[Deployment, tuple[str | None, ...], Tags]] = FIFOCache(REMEMBERED)
        self._flow_names: FIFOCache[str, str] = FIFOCache(REMEMBERED)
        self._run_tags: FIFOCache[str, RunTags] = FIFOCache(REMEMBERED)
        self._prefect_tags: FIFOCache[str, tuple[str, ...]] = FIFOCache(REMEMBERED)
        # Deployments with more tags than are sent, by id: all, and those that no warning has named yet.
        self._with_many_tags: FIFOCache[str, None] = FIFOCache(REMEMBERED)
        self._to_report: list[Deployment] = []
        self._read_by_id: FIFOCache[str, Deployment] = FIFOCache(REMEMBERED)

    # Work pools and work queues

    def pools(self) -> list[WorkPool]:
        """The pools that the filters include."""
        return [pool for pool in self._api.run.once(self._read_pools).values() if self._wants_pool(pool)]

    def queues(self) -> list[WorkQueue]:
        """The queues that the filters include. Queues of excluded pools are excluded."""
        return [queue for queue in self._api.run.once(self._read_queues).values() if self._wants_queue(queue)]

    def queue_names(self) -> Mapping[str, str | None]:
        """The current names of all queues, by id; empty if they cannot be read."""
        try:
            return {identity: queue.name for identity, queue in self._api.run.once(self._read_queues).items()}
        except ApiError:
            return {}

    def tags_of_pool(self, seen: WorkPool) -> Tags | None:
        """The tags of a pool; None if it is excluded. If it is gone, they are taken from `seen`."""
        pool = self._api.run.once(self._read_pools).get(seen.id, seen)
        return pool_tags(pool) if self._wants_pool(pool) else None

    def tags_of_queue(self, seen: WorkQueue) -> Tags | None:
        """The same for a queue."""
        queue = self._api.run.once(self._read_queues).get(seen.id, seen)
        return queue_tags(queue) if self._wants_queue(queue) else None

    def _wants_pool(self, pool: WorkPool) -> bool:
        return self._filters.work_pools.takes(pool.name)

    def _wants_queue(self, queue: WorkQueue) -> bool:
        return self._wants(queue.work_pool_name, queue.name, in_pool=bool(queue.work_pool_id or queue.work_pool_name))

    def _read_pools(self) -> dict[str, WorkPool]:
        return {pool.id: pool for pool in self._api.work_pools()}

    def _read_pool_ids(self) -> dict[str | None, str]:
        return {pool.name: pool.id for pool in self._api.run.once(self._read_pools).values()}

    def _read_queues(self) -> dict[str, WorkQueue]:
        queues = {queue.id: queue for queue in self._api.work_queues()}
        # The server sorts by name, and queues of different pools share names: a page may skip one of them.
        passed_over = self._known_queues - queues.keys()
        # Reset before the request, or an id that the server refuses would be requested again in each check run.
        self._known_queues = set(queues)
        if passed_over:
            queues.update((queue.id, queue) for queue in self._api.work_queues_by_id(passed_over))
            self._known_queues = set(queues)
        self._queue_ids = {(queue.work_pool_name, queue.name): queue.id for queue in queues.values()}
        return queues

    # Deployments

    def put_deployments(self, deployments: Iterable[Deployment]) -> None:
        """Store deployments that were read elsewhere."""
        for deployment in deployments:
            self._deployments[deployment.id] = deployment
            self._prefect_tags[deployment.id] = self._tags_in_prefect(deployment)

    def _tags_in_prefect(self, deployment: Deployment) -> tuple[str, ...]:
        """The deployment's tags that become tags `prefect_tag`."""
        tags = sorted({tag for tag in deployment.tags if tag and self._filters.prefect_tags.takes(tag)})
        if len(tags) > MOST_PREFECT_TAGS and deployment.id not in self._with_many_tags:
            self._with_many_tags[deployment.id] = None
            self._to_report.append(deployment)
        return tuple(tags[:MOST_PREFECT_TAGS])

    def take_deployments_with_many_tags(self) -> list[Deployment]:
        """The deployments, found since the last call, that have more tags than are sent."""
        found, self._to_report = self._to_report, []
        return found

    def take_deployments_read_by_id(self) -> list[Deployment]:
        """The deployments that were read since the last call because something refers to them, such as a run."""
        found = list(self._read_by_id.values())
        self._read_by_id.clear()
        return found

    def wanted_deployments(self, deployments: Mapping[str, Deployment]) -> Mapping[str, Deployment]:
        """Those of the deployments, by id, that the filters include."""
        if not self._filters.restrict_objects:
            return deployments
        self._learn_flows_to_filter(deployments.values())
        return {identity: found for identity, found in deployments.items() if self._wants_deployment(found)}

    def tags_of_deployments(self, deployments: Collection[Deployment]) -> list[Tags]:
        """The tags of each deployment."""
        self._learn_flows(deployment.flow_id for deployment in deployments)
        return [self._tags_of(deployment) for deployment in deployments]

    def tags_of_deployment(self, seen: Deployment) -> Tags | None:
        """The tags of a deployment; None if it is excluded. If it is gone, they are taken from `seen`."""
        self._learn_deployments([seen.id])
        deployment = self._deployments.get(seen.id, seen)
        self._learn_flows_to_filter([deployment])
        if not self._wants_deployment(deployment):
            return None
        return self.tags_of_deployments([deployment])[0]

    def tags_of_scheduled_runs(self, deployment_id: str) -> Tags | None:
        """The tags of runs that the scheduler creates, in their deployment's pool and queue; None if it is unknown."""
        deployment = self._deployments.get(deployment_id)
        if deployment is None:
            return None
        return tuple(tag for tag in self._tags_of(deployment) if not tag.startswith(IS_PAUSED))

    def flow_name(self, flow_id: str | None) -> str | None:
        """The name of a flow, if it is known."""
        return self._flow_names.get(flow_id or "")

    def put_flow_name(self, flow_id: str, name: str) -> None:
        """Store the name of a flow. Names of flows never change."""
        self._flow_names[flow_id] = name

    def _tags_of(self, deployment: Deployment) -> Tags:
        flow_name = self._flow_names.get(deployment.flow_id or "")
        pool_name = deployment.work_pool_name
        pool_id = self._api.run.once(self._read_pool_ids).get(pool_name) if pool_name else None
        queue_id = deployment.work_queue_id or self._queue_id(deployment)
        known = self._deployment_tags.get(deployment.id)
        # Cached: there may be thousands of deployments, whose tags rarely change.
        if known is None or known[0] is not deployment or known[1] != (flow_name, pool_id, queue_id):
            run_tags = RunTags(
                deployment_id=deployment.id,
                deployment_name=deployment.name,
                flow_id=deployment.flow_id,
                flow_name=flow_name,
                work_pool_id=pool_id,
                work_pool_name=deployment.work_pool_name,
                work_queue_id=queue_id,
                work_queue_name=deployment.work_queue_name,
                prefect_tags=self._prefect_tags.get(deployment.id, ()),
            )
            known = (deployment, (flow_name, pool_id, queue_id), run_tags.tags(is_paused=deployment.paused))
            self._deployment_tags[deployment.id] = known
        return known[2]

    def _queue_id(self, deployment: Deployment) -> str | None:
        """The queue's id by name, for servers before 3.6.2, which return only the name."""
        names = deployment.work_pool_name, deployment.work_queue_name
        if None in names:
            return None
        try:
            self._api.run.once(self._read_queues)
        except ApiError:
            if names not in self._queue_ids:
                raise
        return self._queue_ids.get(names)

    def _wants_deployment(self, deployment: Deployment) -> bool:
        flow_name = self._flow_names.get(deployment.flow_id or "")
        return self._wants_flow(deployment.flow_id, flow_name) and self._wants_besides_flow(deployment)

    def _wants_besides_flow(self, deployment: Deployment) -> bool:
        return self._filters.deployments.takes(deployment.name) and self._wants(
            deployment.work_pool_name,
            deployment.work_queue_name,
            in_pool=deployment.work_pool_name is not None,
            in_queue=deployment.work_queue_name is not None,
        )

    def _learn_flows_to_filter(self, deployments: Iterable[Deployment]) -> None:
        if self._filters.flows.is_set:
            self._learn_flows(deployment.flow_id for deployment in deployments)

    # Flows and flow runs

    def tags_of_flow(self, flow_id: str, name: str | None) -> Tags | None:
        """The tags of a flow; None if it is excluded."""
        run_tags = self._wanted(RunTags(flow_id=flow_id, flow_name=name))
        return run_tags.tags() if run_tags else None

    def tags_of_runs(self, runs: Collection[FlowRun], remember: bool = True) -> dict[str, RunTags | None]:
        """The tags of each run by its id; None if the run is excluded."""
        self._learn_deployments(run.deployment_id for run in runs)
        self._learn_flows(run.flow_id for run in runs)
        tags_by_run = {run.id: self._tags_of_run(run) for run in runs}
        if remember:
            self._run_tags.update(tags_by_run)
        return {run_id: self._wanted(run_tags) for run_id, run_tags in tags_by_run.items()}

    def tags_by_run_id(self, run_ids: Collection[str]) -> dict[str, RunTags | None]:
        """The same by the runs' ids. A run that is gone and was never read has no entry."""
        known = {run_id: self._run_tags[run_id] for run_id in run_ids if run_id in self._run_tags}
        tags_by_run = {run_id: self._wanted(run_tags) for run_id, run_tags in known.items()}
        unknown = [run_id for run_id in run_ids if run_id not in known]
        for position in range(0, len(unknown), READ_AT_ONCE):
            tags_by_run |= self.tags_of_runs(
                list(self._api.flow_runs_by_id(unknown[position : position + READ_AT_ONCE]))
            )
        return tags_by_run

    def tags_told_by(self, related: list[Mapping[str, str | None]], run_id: str | None) -> RunTags | None:
        """The tags of a run from an event's related resources; None if the run is excluded.

        If the run is known, the event adds only missing names, of objects that may be gone by now.
        """
        roles = related_by_role(related)
        flow, deployment = roles.get("flow", (None, None)), roles.get("deployment", (None, None))
        pool, queue = roles.get("work-pool", (None, None)), roles.get("work-queue", (None, None))
        told = RunTags(*deployment, *flow, *pool, *queue)
        told = replace(told, prefect_tags=self._prefect_tags.get(told.deployment_id or "", ()))
        known = self._run_tags.get(run_id or "")
        return self._wanted(known.with_names_of(told) if known else told)

    def _tags_of_run(self, run: FlowRun) -> RunTags:
        deployment = self._deployments.get(run.deployment_id or "")
        return RunTags(
            deployment_id=run.deployment_id,
            deployment_name=deployment.name if deployment else None,
            flow_id=run.flow_id,
            flow_name=self._flow_names.get(run.flow_id or ""),
            work_pool_id=run.work_pool_id,
            work_pool_name=run.work_pool_name,
            work_queue_id=run.work_queue_id,
            work_queue_name=run.work_queue_name,
            prefect_tags=self._prefect_tags.get(run.deployment_id or "", ()),
        )

    def _wanted(self, run_tags: RunTags) -> RunTags | None:
        if not self._wants_flow(run_tags.flow_id, run_tags.flow_name):
            return None
        if run_tags.deployment_id:
            if not self._filters.deployments.takes(run_tags.deployment_name):
                return None
            deployment = self._deployments.get(run_tags.deployment_id)
            if deployment and not self._wants_besides_flow(deployment):
                return None
        in_pool, in_queue = bool(run_tags.work_pool_id), bool(run_tags.work_queue_id)
        return run_tags if self._wants(run_tags.work_pool_name, run_tags.work_queue_name, in_pool, in_queue) else None

    def _wants_flow(self, flow_id: str | None, flow_name: str | None) -> bool:
        return not flow_id or self._filters.flows.takes(flow_name)

    def _wants(self, pool_name: str | None, queue_name: str | None, in_pool: bool, in_queue: bool = True) -> bool:
        if in_pool and not self._filters.work_pools.takes(pool_name):
            return False
        return not in_queue or self._filters.work_queues.takes(queue_name)

    def _learn_deployments(self, ids: Iterable[str | None]) -> None:
        unknown = {identity for identity in ids if identity and identity not in self._deployments}
        # The run of a deleted deployment still has its id. Each check run would request the deployment again.
        unknown -= self._gone_deployments.keys()
        if unknown:
            # Each is stored at once, in case there is no time for the next page.
            for deployment in self._api.deployments_by_id(unknown):
                self.put_deployments([deployment])
                self._read_by_id[deployment.id] = deployment
            for identity in unknown - self._deployments.keys():
                self._gone_deployments[identity] = None

    def _learn_flows(self, ids: Iterable[str | None]) -> None:
        unknown = {identity for identity in ids if identity and identity not in self._flow_names}
        if unknown:
            for flow in self._api.flows_by_id(unknown):
                if flow.name is not None:
                    self._flow_names[flow.id] = flow.name


def pool_tags(pool: WorkPool) -> Tags:
    return tag_set(work_pool_id=pool.id, work_pool_name=pool.name, work_pool_type=pool.type)


def queue_tags(queue: WorkQueue, with_status: bool = False) -> Tags:
    return tag_set(
        work_queue_id=queue.id,
        work_queue_name=queue.name,
        work_queue_priority=queue.priority,
        work_pool_id=queue.work_pool_id,
        work_pool_name=queue.work_pool_name,
        work_queue_status=queue.status if with_status else None,
    )
