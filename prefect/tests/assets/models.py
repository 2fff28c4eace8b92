"""Documents as the models of Datadog's own API client understand them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from datadog_api_client.configuration import Configuration
from datadog_api_client.model_utils import (
    ModelNormal,
    ModelSimple,
    UnparsedObject,
    validate_and_convert_types,
)


def complaints(document: Mapping[str, Any], model: type) -> list[str]:
    """What in a document the model does not know: fields, and values of enumerations. Raises for what it refuses."""
    configuration = Configuration()
    parsed = validate_and_convert_types(dict(document), (model,), ["document"], True, True, configuration=configuration)
    return list(_unknown(parsed, ""))


def _unknown(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, UnparsedObject):
        yield f"{path} is of no kind that is known: {str(value)[:200]}"
    elif isinstance(value, ModelSimple):
        if getattr(value, "_unparsed", False):
            yield f"{path} is {value.value!r}, which is not known"
    elif isinstance(value, ModelNormal):
        known = set(value.attribute_map)
        for name, item in value._data_store.items():
            if name not in known:
                yield f"{path}.{name} is not known"
            yield from _unknown(item, f"{path}.{name}")
    elif hasattr(value, "_composed_instances") or hasattr(value, "get_oneof_instance"):
        yield from _unknown(value.get_oneof_instance(), path)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unknown(item, f"{path}[{number}]")
