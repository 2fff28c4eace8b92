"""The candidates of config discovery, without the defaults that the generated ones spell out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def candidates(service: Any, default: Callable[[Any], Iterable[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """One instance a port, of its URL alone.

    All defaults in writing are not what no options are: the HTTP wrapper takes any `kerberos_auth`, that of the
    default `disabled` too, for a wish to use Kerberos.
    """
    for candidate in default(service):
        [instance] = candidate["instances"]
        yield {"init_config": {}, "instances": [{"prefect_url": instance["prefect_url"]}]}
