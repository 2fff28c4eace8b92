"""Which versions of Prefect's server the check works with, and what the older of them lack."""

from __future__ import annotations

import re

OLDEST_MAJOR = 3
# Since which version there is what the check can do without, and what becomes of it where there is not.
SINCE: tuple[tuple[tuple[int, int, int], str], ...] = (
    ((3, 1, 3), "where a retry waits is told by its state's name, AwaitingRetry"),
    ((3, 4, 0), "how often a flow run has run is told by its history, which is read for each run that ends"),
    ((3, 4, 19), "concurrency limits of tags are asked for apart from the global ones"),
    ((3, 6, 2), "the work queue of a deployment is looked up by its name"),
    ((3, 6, 22), "ends of task runs are told by events alone"),
    ((3, 6, 23), "no events tell that deployments are created, updated or deleted"),
)


def is_supported(version: str) -> bool:
    """Whether a server says that it is of a version that the check works with, or says something unheard of."""
    parts = _parts(version)
    return parts is None or parts[0] >= OLDEST_MAJOR


def lacking(version: str) -> list[str]:
    """What becomes of what a server of this version lacks."""
    parts = _parts(version)
    return [text for since, text in SINCE if parts < since] if parts else []


def lists_tag_limits_as_global(version: str) -> bool:
    """Whether a server lists concurrency limits of tags among the global ones, named `tag:` and the tag."""
    parts = _parts(version)
    return parts is not None and parts >= (3, 4, 19)


def _parts(version: str) -> tuple[int, int, int] | None:
    """The numbers of a version such as 3.8.8 or 3.0.0rc1+5.g0a1b2c3."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None
