"""Concurrency limits: global ones, and those of task runs with a tag."""

from __future__ import annotations

from collections.abc import Iterator

from datadog_checks.prefect.api.models import ConcurrencyLimit
from datadog_checks.prefect.counting.event_activity import CONCURRENCY_LIMITS
from datadog_checks.prefect.output.submitter import Sheet
from datadog_checks.prefect.tags import tag_set

from .base import Collector, Context

TAG_PREFIX = "tag:"
DEPLOYMENT_PREFIX = "deployment:"


class ConcurrencyLimits(Collector):
    """The size of each limit, and how many of its slots are taken, as the server reports it."""

    name = "concurrency_limits"
    subject = "concurrency limits"
    owned = (
        "concurrency_limit.limit",
        "concurrency_limit.active_slots",
        "concurrency_limit.in_use",
        "concurrency_limit.is_active",
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._found_some = True

    def collect(self, sheet: Sheet) -> None:
        if not self._found_some and not self.context.event_activity.is_turn_of(CONCURRENCY_LIMITS):
            return
        limits = list(self._limits())
        self._found_some = bool(limits)
        for limit_type, limit in limits:
            tags = tag_set(
                concurrency_limit_id=limit.id,
                concurrency_limit_name=limit.name,
                concurrency_limit_type=limit_type,
            )
            if limit.limit is not None:
                sheet.add("concurrency_limit.limit", limit.limit, tags)
            if limit.active_slots is not None:
                sheet.add("concurrency_limit.active_slots", limit.active_slots, tags)
            if limit.active_slots is not None and limit.limit is not None and limit.limit > 0:
                sheet.add("concurrency_limit.in_use", 100.0 * limit.active_slots / limit.limit, tags)
            if limit.active is not None and limit_type == "global":
                sheet.add("concurrency_limit.is_active", limit.active, tags)

    def _limits(self) -> Iterator[tuple[str, ConcurrencyLimit]]:
        """Each limit once, with its type. Those of deployments are not among them."""
        api = self.context.api
        tags = set()
        for limit in api.concurrency_limits():
            name = limit.name or ""
            if name.startswith(TAG_PREFIX):
                tag = name.removeprefix(TAG_PREFIX)
                tags.add(tag)
                yield "tag", limit.model_copy(update={"name": tag})
            elif name and not name.startswith(DEPLOYMENT_PREFIX):
                yield "global", limit
        for tag_limit in api.tag_concurrency_limits():
            if tag_limit.tag and tag_limit.tag not in tags:
                yield (
                    "tag",
                    ConcurrencyLimit(
                        id=tag_limit.id,
                        name=tag_limit.tag,
                        limit=tag_limit.concurrency_limit,
                        active_slots=len(tag_limit.active_slots),
                    ),
                )
