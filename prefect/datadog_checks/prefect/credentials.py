"""How an instance authenticates: with one value of the header `Authorization`, or with a client certificate."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from datadog_checks.base.utils.http import create_auth_token_handler

HEADER_OPTIONS = ("headers", "extra_headers", "custom_headers")
# Shorter secrets could occur by chance in any message that is sanitized.
SHORTEST_SECRET = 6
TOKEN_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Credentials:
    """The header `Authorization` that `auth_string` or `api_key` make, and the names of the `options` that are set.

    `auth_token` holds the settings of that option. The base class's HTTP wrapper handles all other options. `repr`
    shows no secrets.
    """

    authorization: str | None = field(default=None, repr=False)
    options: tuple[str, ...] = ()
    auth_token: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, config: Any) -> Credentials:
        """The credentials of a validated instance."""
        authorization = None
        if config.auth_string:
            authorization = basic(config.auth_string)
        elif config.api_key:
            authorization = f"Bearer {config.api_key}"
        options = authorizing_options(config)
        if not options:
            options = [option for option in HEADER_OPTIONS if getattr(config, option)]
        token = config.auth_token
        auth_token = {"reader": token.reader, "writer": token.writer} if token else None
        return cls(authorization, (*options, *(["tls_cert"] if config.tls_cert else [])), auth_token)


def is_latin(text: str) -> bool:
    """Whether the text can be sent in a header."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def authorizing_options(config: Any) -> list[str]:
    """The options that set a header `Authorization`. They are mutually exclusive."""
    options = [option for option in ("auth_string", "api_key") if getattr(config, option) is not None]
    if config.auth_type not in (None, "basic", "digest"):
        options.append("auth_type")
    elif config.username is not None or config.password is not None:
        options.append("username")
    writer = config.auth_token.writer if config.auth_token else None
    if writer and str(writer.get("name", "Authorization")).lower() == "authorization":
        options.append("auth_token")
    return [*options, *(option for option in HEADER_OPTIONS if _has_authorization(getattr(config, option)))]


def token_handler(settings: Mapping[str, Any]) -> Any:
    """The base class's object that reads and writes the token.

    Raises any exception, usually `datadog_checks.base.ConfigurationError`, if the settings are wrong.
    """
    plain = _plain(settings)
    reader = plain.get("reader")
    if isinstance(reader, dict) and reader.get("type") == "oauth":
        reader["options"] = {"timeout": TOKEN_TIMEOUT_SECONDS, **(reader.get("options") or {})}
        # At level DEBUG, it logs secrets and tokens.
        logging.getLogger("requests_oauthlib").setLevel(logging.INFO)
    return create_auth_token_handler(plain)


def token_source(settings: Mapping[str, Any]) -> str:
    """Where the token comes from, without secrets."""
    reader = settings["reader"]
    place = str(reader.get("url") or reader.get("login_url") or reader.get("path"))
    parts = urlsplit(place)
    shown = place if not parts.netloc else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    key = reader.get("private_key_path")
    return f"{shown}, with the key {key}" if key else shown


def _plain(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        return {key: _plain(value) for key, value in settings.items()}
    return [_plain(value) for value in settings] if isinstance(settings, (list, tuple)) else settings


def _has_authorization(headers: Mapping[str, Any] | None) -> bool:
    return any(str(name).lower() == "authorization" for name in headers or ())


def basic(user_and_password: str) -> str:
    """The value of the header for basic authentication. Prefect compares `user:password` as one string, in UTF-8."""
    return f"Basic {base64.b64encode(user_and_password.encode()).decode()}"


def secrets_of(instance: Mapping[str, Any], init_config: Mapping[str, Any]) -> Iterator[str]:
    """What no message may show: passwords, keys, header values, and the encodings in which they are sent."""
    for secret in _secrets_in(instance, init_config):
        if isinstance(secret, str) and len(secret) >= SHORTEST_SECRET:
            yield secret


def _secrets_in(instance: Mapping[str, Any], init_config: Mapping[str, Any]) -> Iterator[Any]:
    username, password, auth_string = (instance.get(name) for name in ("username", "password", "auth_string"))
    yield from (password, instance.get("api_key"), instance.get("tls_private_key_password"))
    yield base64.b64encode(f"{username}:{password}".encode()).decode()
    if isinstance(auth_string, str):
        yield from (auth_string, auth_string.partition(":")[2], basic(auth_string).removeprefix("Basic "))
    for option in HEADER_OPTIONS:
        headers = instance.get(option)
        if isinstance(headers, Mapping):
            for value in headers.values():
                # A message may show the credentials without their scheme.
                yield from (value, str(value).rpartition(" ")[2])
    auth_token = instance.get("auth_token")
    reader = auth_token.get("reader") if isinstance(auth_token, Mapping) else None
    if isinstance(reader, Mapping):
        yield from (reader.get(name) for name in ("client_secret", "private_key", "password"))
    for proxies in (instance.get("proxy"), init_config.get("proxy")):
        if isinstance(proxies, Mapping):
            for url in proxies.values():
                if isinstance(url, str) and "@" in url:
                    yield url.rpartition("@")[0].rpartition("/")[2].partition(":")[2]
