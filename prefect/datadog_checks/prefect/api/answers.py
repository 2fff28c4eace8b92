"""Parses the bodies of responses into models, leniently, and in bounded memory whatever they contain.

The fast path parses a whole page in Rust, whose trees and lists of errors may be a hundred times as large as the text.
If that fails or might take too much memory, the slow path parses one object at a time: reduced to the fields of its
model and to a bounded number of values, and without fields that do not parse.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from .models import ApiModel, Event, EventPage, EventPageModel, Oddities

# The most that the fast and the slow path may take, by the estimates below.
MOST_QUICK_BYTES = 24 * 1024 * 1024
MOST_BYTES = 48 * 1024 * 1024
# A page has 200.
MOST_OBJECTS = 1000
# Values read from one object: a task run may have five thousand inputs of three values each.
MOST_VALUES = 20_000
# No field of the models is nested deeper.
MOST_LEVELS = 8
# No valid number has more digits.
MOST_DIGITS = 30
# Attempts to parse an object, each without the fields that failed before.
MOST_ROUNDS = 10
# Levels of a field's name in warnings: deeper ones are chosen by users, and there may be any number of them.
MOST_NAMES = 3

Model = TypeVar("Model", bound=ApiModel)
Location = tuple[int | str, ...]


def read_objects(model: type[Model], body: bytes, oddities: Oddities) -> tuple[list[Model], int]:
    """Parse a JSON array. Returns the objects, and how many the array held, including those left out.

    Raises `ValueError` if the body is not an array, `OverflowError` if it holds too many values, and `RecursionError`
    if it is nested too deeply.
    """
    objects: list[Model] | None = _read_quickly(_list_of(model).validate_json, body)
    if objects is not None:
        size = len(objects)
    else:
        raw = _loaded(body)
        if not isinstance(raw, list):
            raise ValueError("not a list")
        size = len(raw)
        objects = salvage(model, raw, oddities)
    for field in model.essential:
        for item in objects:
            if getattr(item, field) is None:
                oddities.note(model, field, str(getattr(item, "id", "")))
    return objects, size


@cache
def _list_of(model: type[ApiModel]) -> TypeAdapter[Any]:
    return TypeAdapter(list[model])  # type: ignore[valid-type]


def read_event_page(body: bytes, oddities: Oddities) -> EventPage:
    """Parse a page of events. Raises the same errors as `read_objects`."""
    page = _read_quickly(EventPageModel.model_validate_json, body)
    if page is not None:
        return EventPage(page.events, page.total, page.next_page)
    raw = _loaded(body)
    if not isinstance(raw, dict) or not isinstance(raw.get("events"), list) or not isinstance(raw.get("total"), int):
        raise ValueError("not a page of events")
    events, total, next_page = raw.pop("events"), raw["total"], raw.get("next_page")
    return EventPage(salvage(Event, events, oddities), total, next_page if isinstance(next_page, str) else None)


def salvage(model: type[Model], raw: list[Any], oddities: Oddities) -> list[Model]:
    """Parse objects one by one. Drops fields that do not parse, and objects without an identity.

    Clears `raw` as it goes. Raises `OverflowError` for more objects than a page can have.
    """
    if len(raw) > MOST_OBJECTS:
        raise OverflowError(f"{len(raw)} objects")
    found = []
    for number, item in enumerate(raw):
        raw[number] = None
        small = (
            _Reduction().of({name: item[name] for name in item.keys() & model.model_fields.keys()})
            if isinstance(item, dict)
            else None
        )
        # Free it, so that only one object is in memory at a time.
        del item
        if (parsed := _salvage_one(model, small, oddities)) is not None:
            found.append(parsed)
    return found


def _read_quickly(validate: Callable[[bytes], Any], body: bytes) -> Any:
    """The parsed body; None if it does not parse or might take too much memory."""
    containers = body.count(b"{") + body.count(b"[")
    if 480 * containers + 340 * body.count(b",") > MOST_QUICK_BYTES:
        return None
    try:
        return validate(body)
    except ValidationError:
        return None


def _loaded(body: bytes) -> Any:
    """The decoded JSON. Raises `OverflowError` if the values, estimated by their number, would take too much memory."""
    text_bytes = len(body) * (2 if body.isascii() else 5)
    dicts, lists, empty = body.count(b"{"), body.count(b"["), body.count(b"{}")
    others = max(0, body.count(b",") - dicts - lists)
    if text_bytes + 190 * (dicts - empty) + 72 * (empty + lists) + 64 * others > MOST_BYTES:
        raise OverflowError("too many values")
    return json.loads(body.decode("utf-8", "replace"), parse_int=_whole_number)


def _whole_number(digits: str) -> int | str:
    """Python refuses to parse more than 4,300 digits. As a string, the number fails validation instead."""
    return int(digits) if len(digits) <= MOST_DIGITS else "a number of too many digits"


class _Reduction:
    """Copies a value without what is nested too deeply or exceeds `MOST_VALUES`."""

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def of(self, value: Any, levels: int = MOST_LEVELS) -> Any:
        self._left -= 1
        if isinstance(value, dict):
            return {key: self.of(inner, levels - 1) for key, inner in value.items() if self._left > 0 and levels > 0}
        if isinstance(value, list):
            return [self.of(inner, levels - 1) for inner in value if self._left > 0 and levels > 0]
        return value


def _salvage_one(model: type[Model], item: Any, oddities: Oddities) -> Model | None:
    identity = str(item.get("id")) if isinstance(item, dict) else ""
    for _ in range(MOST_ROUNDS):
        if not isinstance(item, dict):
            break
        try:
            # By way of JSON, to validate as strictly as the fast path. Surrogates become question marks.
            return model.model_validate_json(json.dumps(item, ensure_ascii=False).encode("utf-8", "replace"))
        except ValidationError as error:
            problems = [
                _culprit(problem["type"], problem["loc"])
                for problem in error.errors(include_url=False, include_input=False)
            ]
        # From the end, so that removing an item of a list does not shift those that are still to be removed.
        for location in sorted(set(problems), key=_position, reverse=True):
            names = [part for part in location if isinstance(part, str)]
            oddities.note(model, ".".join(names[:MOST_NAMES]) or "identity", identity)
            if not location or not _take_out(item, location):
                return None
    oddities.note(model, "object", identity)
    return None


def _culprit(kind: str, location: Location) -> Location:
    """What to remove: the value that does not parse, or the object that lacks a required field."""
    return location[:-1] if kind == "missing" else location


def _position(location: Location) -> list[tuple[bool, int | str]]:
    """A sort key for locations, which mix list positions and field names."""
    return [(isinstance(part, str), part) for part in location]


def _take_out(container: Any, location: Location) -> bool:
    *path, last = location
    for part in path:
        try:
            container = container[part]
        except (KeyError, IndexError, TypeError):
            return False
    try:
        del container[last]
    except (KeyError, IndexError, TypeError):
        return False
    return True
