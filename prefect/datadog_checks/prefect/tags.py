"""Sets of tags. Which tags a run has, and whether filters exclude it, decides `mirror/inventory.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from .api.models import MOST_CHARACTERS

Tags = tuple[str, ...]
# Control characters, some of which truncate the text in the Agent, and surrogates, which the Agent rejects.
NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
CODE_HASH = re.compile(r"-(?:[0-9a-f]{8}|unknown)$")


def tag_set(**values: str | int | bool | None) -> Tags:
    """Tags of all values that are neither None nor empty, sorted, so that equal sets are equal tuples."""
    return tuple(sorted(f"{key}:{_text(value)}" for key, value in values.items() if value is not None and value != ""))


def _text(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return one_line(str(value)[:MOST_CHARACTERS])


def one_line(text: str) -> str:
    """The text with control characters and surrogates replaced by underscores, as Datadog does in tags."""
    # Other characters that Python calls unprintable, such as the ideographic space, stay.
    return text if text.isprintable() else NOT_TEXT.sub("_", text)


@dataclass(frozen=True)
class RunTags:
    """The tags of a flow run, in parts. What the run does not have, or is not known, is None."""

    deployment_id: str | None = None
    deployment_name: str | None = None
    flow_id: str | None = None
    flow_name: str | None = None
    work_pool_id: str | None = None
    work_pool_name: str | None = None
    work_queue_id: str | None = None
    work_queue_name: str | None = None
    # Tags that the deployment has in Prefect.
    prefect_tags: tuple[str, ...] = ()

    def with_names_of(self, other: RunTags) -> RunTags:
        """These tags, with missing names taken from `other` where the ids are equal."""
        names: dict[str, Any] = {}
        for kind in ("deployment", "flow", "work_pool", "work_queue"):
            identity, name = getattr(self, f"{kind}_id"), getattr(self, f"{kind}_name")
            if identity is not None and name is None and getattr(other, f"{kind}_id") == identity:
                names[f"{kind}_name"] = getattr(other, f"{kind}_name")
        return replace(self, **names) if names else self

    def tags(self, **more: str | int | bool | None) -> Tags:
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "prefect_tags"}
        tags = tag_set(**named, **more)
        if not self.prefect_tags:
            return tags
        return tuple(sorted((*tags, *(f"prefect_tag:{one_line(tag)}" for tag in self.prefect_tags))))


@lru_cache(maxsize=1024)
def task_run_tags(run_tags: RunTags, task_key: str | None) -> Tags:
    """The tags of a task run: its flow run's, and the task's key and name."""
    return run_tags.tags(task_key=task_key, task_name=CODE_HASH.sub("", task_key) if task_key else None)


def resource_kind_and_id(resource_id: str | None) -> tuple[str, str] | None:
    """Split `prefect.flow-run.<id>` into `flow-run` and `<id>`; None if it is not a Prefect resource."""
    namespace, _, rest = (resource_id or "").partition(".")
    kind, _, identity = rest.partition(".")
    return (kind, identity) if namespace == "prefect" and kind and identity else None


def related_by_role(related: list[Mapping[str, str | None]]) -> dict[str, tuple[str, str | None]]:
    """The id and name of the first related resource in each role."""
    found: dict[str, tuple[str, str | None]] = {}
    for resource in related:
        kind_and_id = resource_kind_and_id(resource.get("prefect.resource.id"))
        role = resource.get("prefect.resource.role")
        if kind_and_id and role:
            found.setdefault(role, (kind_and_id[1], resource.get("prefect.resource.name")))
    return found
