"""Which versions of Prefect's server the check supports, and what older ones lack."""

from __future__ import annotations

import re

OLDEST_MAJOR = 3
# Since then, a server lists the concurrency limits of tags among the global ones, named `tag:` and the tag.
TAG_LIMITS_AMONG_GLOBAL_ONES = (3, 4, 19)
# The version that introduced an optional feature, and what the check does without it. These texts are for the log and
# `agent diagnose`: the check learns what a server lacks from its responses, except for the limits of tags.
SINCE: tuple[tuple[tuple[int, int, int], str], ...] = (
    ((3, 1, 3), "every run in state AwaitingRetry is taken for an in-process retry"),
    ((3, 4, 0), "run counts of flow runs come from their histories, which are read for each run that ends"),
    (TAG_LIMITS_AMONG_GLOBAL_ONES, "concurrency limits of tags are read with a request of their own"),
    ((3, 6, 2), "the work queue of a deployment is looked up by its name"),
    ((3, 6, 22), "ends of task runs come from events alone"),
    ((3, 6, 23), "there are no events about created, updated or deleted deployments"),
)


def is_supported(version: str) -> bool:
    """Whether the check supports this version; True if the version is not recognized."""
    parts = _parts(version)
    return parts is None or parts[0] >= OLDEST_MAJOR


def lacking(version: str) -> list[str]:
    """What the check does without the features that this version lacks."""
    parts = _parts(version)
    return [text for since, text in SINCE if parts < since] if parts else []


def lists_tag_limits_as_global(version: str | None) -> bool:
    """Whether the server is known to list the concurrency limits of tags among the global ones."""
    parts = _parts(version or "")
    return parts is not None and parts >= TAG_LIMITS_AMONG_GLOBAL_ONES


def _parts(version: str) -> tuple[int, int, int] | None:
    """The numbers of a version such as 3.8.8 or 3.0.0rc1+5.g0a1b2c3."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None
