"""Checks of options that the generated models cannot do. A `ValueError` becomes a configuration error."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from datadog_checks.prefect.credentials import authorizing_options, is_latin, token_handler

# A century: more is a mistake, and overflows dates.
MOST_SECONDS = 100 * 365 * 86400.0
# The longest tag in Datadog has 200 characters, its key included.
MOST_NAME_CHARACTERS = 180
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
PATTERN_OPTIONS = (
    "work_pool_names", "work_queue_names", "flow_names", "deployment_names", "event_names", "prefect_tags"
)  # fmt: skip
AUTH_TYPES = ("basic", "digest", "ntlm", "kerberos", "aws")


def instance_prefect_url(value: Any, field: Any) -> Any:
    if not isinstance(value, str):
        return value  # the model reports it
    form = "enter the address of Prefect's API, such as http://localhost:4200/api"
    if "@" in value:
        raise ValueError("the URL must not contain credentials: set `username` and `password` instead")
    if re.search(r"[\s\x00-\x1f]", value):
        raise ValueError(f"the URL must not contain spaces: {form}")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"not a URL ({error}): {form}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"not a URL with http or https and a host: {form}")
    if parts.query or parts.fragment:
        raise ValueError(f"the URL must not contain a query or a fragment: {form}")
    return value


def instance_auth_string(value: Any, field: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("enter a string such as user:password, in quotes")
    user, _, password = value.partition(":")
    if not user or not password or not value.isprintable():
        raise ValueError("enter user:password on one line, as in the server's PREFECT_SERVER_API_AUTH_STRING")
    return value


def instance_auth_type(value: Any, field: Any) -> Any:
    if not isinstance(value, str):
        return value  # the model reports it
    if value.lower() not in AUTH_TYPES:
        raise ValueError(f"enter one of {', '.join(AUTH_TYPES)}; for an API key set `api_key`")
    return value.lower()


def instance_api_key(value: Any, field: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("enter a string, in quotes")
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("enter the key alone, on one line, without spaces and without `Bearer`")
    return value


def instance_server_name(value: Any, field: Any) -> Any:
    if not isinstance(value, str):
        return value  # the model reports it
    if not value or not value.isprintable() or value != value.strip() or len(value) > MOST_NAME_CHARACTERS:
        raise ValueError(f"enter a name on one line, of at most {MOST_NAME_CHARACTERS} characters, such as prod")
    return value


def check_instance(model: Any) -> Any:
    _check_credentials(model)
    _check_auth_token(model.auth_token)
    for option in ("late_start_grace_seconds", "worker_stale_after_seconds"):
        seconds = getattr(model, option)
        if seconds is not None and not seconds <= MOST_SECONDS:
            raise ValueError(f"`{option}` must be a number of seconds, at most {MOST_SECONDS:.0f}")
    for name, value in (model.custom_headers or {}).items():
        if not isinstance(value, str):
            raise ValueError(f"`custom_headers`: the value of {name!r} must be a string")
        if value != value.strip() or not value.isprintable() or not is_latin(value):
            raise ValueError(f"`custom_headers`: the value of {name!r} cannot be sent in a header")
    return _check_timeouts(model, ("timeout", "connect_timeout", "read_timeout"))


def check_shared(model: Any) -> Any:
    return _check_timeouts(model, ("timeout",))


def _check_credentials(model: Any) -> None:
    options = authorizing_options(model)
    if len(options) > 1:
        named = " and ".join(f"`{option}`" for option in options)
        raise ValueError(f"{named} exclude each other: each sets the header `Authorization`, which can be sent once")
    if "username" in options and (model.username is None or model.password is None):
        raise ValueError("`username` and `password` belong together: one of them is missing")
    if "username" in options and model.use_legacy_auth_encoding and not is_latin(model.username + model.password):
        raise ValueError("`username` or `password` has characters that require `use_legacy_auth_encoding: false`")


def _check_auth_token(auth_token: Any) -> None:
    if auth_token is None:
        return
    try:
        token_handler({"reader": auth_token.reader, "writer": auth_token.writer})
    except Exception as error:  # ConfigurationError, ValueError, or an error of a regular expression
        raise ValueError(f"`auth_token`: {error}") from None
    if not HEADER_NAME.fullmatch(auth_token.writer["name"]):
        raise ValueError("`auth_token`: the `name` setting of its writer is not a header's name")
    value = auth_token.writer.get("value", "")
    if not value.isprintable() or not is_latin(value):
        raise ValueError("`auth_token`: the `value` setting of its writer cannot be sent in a header")


def _check_timeouts(model: Any, options: Iterable[str]) -> Any:
    for option in options:
        seconds = getattr(model, option)
        if seconds is not None and not 0 < seconds <= MOST_SECONDS:
            raise ValueError(f"`{option}` must be a number of seconds greater than 0")
    return model


def initialize_instance(values: dict[str, Any], **_: Any) -> dict[str, Any]:
    for option in PATTERN_OPTIONS:
        names = values.get(option)
        if isinstance(names, dict):
            _refuse_other_lists(option, names, "regular expressions")
            _refuse_bad_patterns(option, names)
    if isinstance(collectors := values.get("collectors"), dict):
        _refuse_other_lists("collectors", collectors, "collectors' names")
    return values


def _refuse_other_lists(option: str, lists: dict[str, Any], of: str) -> None:
    unknown = sorted(str(key) for key in lists if key not in ("include", "exclude"))
    if unknown:
        raise ValueError(f"`{option}` has lists of {of} `include` and `exclude`, not `{unknown[0]}`")


def _refuse_bad_patterns(option: str, names: dict[str, Any]) -> None:
    for side, patterns in names.items():
        for pattern in patterns if isinstance(patterns, (list, tuple)) else ():
            try:
                re.compile(pattern)
            except (re.error, TypeError, OverflowError) as error:
                raise ValueError(f"`{option}` -> `{side}`: {pattern!r} is not a regular expression ({error})") from None
