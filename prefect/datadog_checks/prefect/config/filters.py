"""Which pools, queues, deployments and events the instance wants: include and exclude lists of regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class NameFilter:
    """Takes a name that some pattern of `include` finds itself in, unless one of `exclude` does too.

    Without `include` every name is taken that is not excluded. Patterns are searched for, case-sensitively.
    """

    include: tuple[re.Pattern[str], ...] | None = None
    exclude: tuple[re.Pattern[str], ...] = ()

    @classmethod
    def of(cls, include: Iterable[str] | None, exclude: Iterable[str] | None) -> NameFilter:
        """Compile the patterns; an empty list is as none. Raises `re.error` for one that does not compile."""
        return cls(
            tuple(re.compile(pattern) for pattern in include) if include else None,
            tuple(re.compile(pattern) for pattern in exclude or ()),
        )

    def takes(self, name: str | None) -> bool:
        """Whether the name passes; one that is not known passes only where nothing has to be included."""
        if name is None:
            return self.include is None
        if any(pattern.search(name) for pattern in self.exclude):
            return False
        return self.include is None or any(pattern.search(name) for pattern in self.include)

    def patterns(self) -> list[list[str] | None]:
        """The patterns as text, for a digest of the configuration."""
        include = None if self.include is None else sorted(pattern.pattern for pattern in self.include)
        return [include, sorted(pattern.pattern for pattern in self.exclude)]


@dataclass(frozen=True)
class Filters:
    work_pools: NameFilter
    work_queues: NameFilter
    deployments: NameFilter
    events: NameFilter

    @property
    def restrict_objects(self) -> bool:
        """Whether there may be pools, queues or deployments that the instance does not want."""
        anything = NameFilter()
        return any(names != anything for names in (self.work_pools, self.work_queues, self.deployments))
