"""Checks of the options that the generated models cannot make. Their `ValueError` becomes a configuration error."""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import urlsplit

PATTERN_OPTIONS = ("work_pool_names", "work_queue_names", "deployment_names", "event_names")


def instance_prefect_url(value: Any, field: Any) -> Any:
    if not isinstance(value, str):
        return value  # the model says what is wrong with it
    form = "it takes the address of Prefect's API, such as http://localhost:4200/api"
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"not a URL ({error}): {form}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with credentials in it is not taken: set `username` and `password` instead")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"not a URL with scheme http or https and a host: {form}")
    if parts.query or parts.fragment:
        raise ValueError(f"a URL with a query or a fragment is not taken: {form}")
    return value


def instance_late_start_grace_seconds(value: Any, field: Any) -> Any:
    return _finite(value)


def instance_worker_stale_after_seconds(value: Any, field: Any) -> Any:
    return _finite(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it takes a finite number of seconds")
    return value


def initialize_instance(values: dict[str, Any], **_: Any) -> dict[str, Any]:
    for option in PATTERN_OPTIONS:
        names = values.get(option)
        if isinstance(names, dict):
            _refuse_bad_patterns(option, names)
    return values


def _refuse_bad_patterns(option: str, names: dict[str, Any]) -> None:
    unknown = sorted(str(key) for key in names if key not in ("include", "exclude"))
    if unknown:
        raise ValueError(f"`{option}` takes lists of regular expressions `include` and `exclude`, not `{unknown[0]}`")
    for side, patterns in names.items():
        for pattern in patterns if isinstance(patterns, (list, tuple)) else ():
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ValueError(f"`{option}` -> `{side}`: {pattern!r} is not a regular expression ({error})") from None
