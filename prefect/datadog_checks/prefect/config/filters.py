"""Filters by name: include and exclude lists of regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class NameFilter:
    """Accepts names that match a pattern of `include` and none of `exclude`.

    Without `include`, it accepts all names that are not excluded. Patterns are case-sensitive and match anywhere in
    the name.
    """

    include: tuple[re.Pattern[str], ...] | None = None
    exclude: tuple[re.Pattern[str], ...] = ()

    @classmethod
    def of(cls, include: Iterable[str] | None, exclude: Iterable[str] | None) -> NameFilter:
        """Compile the patterns; an empty list counts as no list. Raises `re.error` if a pattern does not compile."""
        return cls(
            tuple(re.compile(pattern) for pattern in include) if include else None,
            tuple(re.compile(pattern) for pattern in exclude or ()),
        )

    @property
    def is_set(self) -> bool:
        """Whether there is any pattern."""
        return self != NameFilter()

    def takes(self, name: str | None) -> bool:
        """Whether the name is accepted. An unknown name (None) is accepted only without `include`."""
        if name is None:
            return self.include is None
        if any(pattern.search(name) for pattern in self.exclude):
            return False
        return self.include is None or any(pattern.search(name) for pattern in self.include)

    def patterns(self) -> list[list[str] | None]:
        """The patterns as strings, for a digest of the configuration."""
        include = None if self.include is None else sorted(pattern.pattern for pattern in self.include)
        return [include, sorted(pattern.pattern for pattern in self.exclude)]


@dataclass(frozen=True)
class Filters:
    work_pools: NameFilter
    work_queues: NameFilter
    flows: NameFilter
    deployments: NameFilter
    events: NameFilter
    # Which tags of deployments become tags `prefect_tag`.
    prefect_tags: NameFilter

    @property
    def restrict_objects(self) -> bool:
        """Whether any filter for pools, queues, flows or deployments is set."""
        return any(names.is_set for names in (self.work_pools, self.work_queues, self.flows, self.deployments))
