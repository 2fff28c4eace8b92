"""Reads the bodies of answers into models, leniently, and in little memory whatever they hold.

What is quick reads whole pages: a parser in Rust, whose trees and lists of errors may be a hundred times as large as
the text. What does not parse, or might take too much, is read one object after the other, each reduced to what its
model has and to a bounded number of values, and without the fields that do not parse.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from .models import ApiModel, Event, EventPage, EventPageModel, Oddities

# What the two ways take at the most, by the estimates below.
MOST_QUICK_BYTES = 24 * 1024 * 1024
MOST_BYTES = 48 * 1024 * 1024
# A page has 200.
MOST_OBJECTS = 1000
# Values that are read of one object: a task run may take the results of five thousand others, of three values each.
MOST_VALUES = 20_000
# Nothing that the models have lies deeper.
MOST_LEVELS = 8
# More digits than any number has that is meant.
MOST_DIGITS = 30
# Rounds of taking out what does not parse.
MOST_ROUNDS = 10
# Deeper down are names that users give, of which there is no end.
MOST_NAMES = 3

Model = TypeVar("Model", bound=ApiModel)
Location = tuple[int | str, ...]


def read_objects(model: type[Model], body: bytes, oddities: Oddities) -> tuple[list[Model], int]:
    """Parse a JSON array of objects, and tell how many it held; raises `ValueError` when the body is not an array.

    Raises `OverflowError` or `RecursionError` for one that holds too much, or is nested too deeply.
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
    """Parse a page of events; raises `ValueError`, `OverflowError` or `RecursionError` as `read_objects` does."""
    page = _read_quickly(EventPageModel.model_validate_json, body)
    if page is not None:
        return EventPage(page.events, page.total, page.next_page)
    raw = _loaded(body)
    if not isinstance(raw, dict) or not isinstance(raw.get("events"), list) or not isinstance(raw.get("total"), int):
        raise ValueError("not a page of events")
    events, total, next_page = raw.pop("events"), raw["total"], raw.get("next_page")
    return EventPage(salvage(Event, events, oddities), total, next_page if isinstance(next_page, str) else None)


def salvage(model: type[Model], raw: list[Any], oddities: Oddities) -> list[Model]:
    """Parse objects one by one, without the fields that do not parse, and without objects that lack their identity.

    Takes what it has read out of `raw`. Raises `OverflowError` for more than belong on a page.
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
        # Only one of them is in memory at a time.
        del item
        if (parsed := _salvage_one(model, small, oddities)) is not None:
            found.append(parsed)
    return found


def _read_quickly(validate: Callable[[bytes], Any], body: bytes) -> Any:
    """What the parser makes of a body; None where it makes nothing of it, or might take too much memory."""
    containers = body.count(b"{") + body.count(b"[")
    if 480 * containers + 340 * body.count(b",") > MOST_QUICK_BYTES:
        return None
    try:
        return validate(body)
    except ValidationError:
        return None


def _loaded(body: bytes) -> Any:
    """The values of JSON, whose size is estimated first by how many there are of each kind."""
    text_bytes = len(body) * (2 if body.isascii() else 5)
    dicts, lists, empty = body.count(b"{"), body.count(b"["), body.count(b"{}")
    others = max(0, body.count(b",") - dicts - lists)
    if text_bytes + 190 * (dicts - empty) + 72 * (empty + lists) + 64 * others > MOST_BYTES:
        raise OverflowError("too many values")
    return json.loads(body.decode("utf-8", "replace"), parse_int=_whole_number)


def _whole_number(digits: str) -> int | str:
    """Python refuses to read more than 4,300 digits; as text, the number does not parse where one is expected."""
    return int(digits) if len(digits) <= MOST_DIGITS else "a number of too many digits"


class _Reduction:
    """Copies a value without what is too deep in it, and without what is more than there is room for."""

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
            # Strictly as from JSON; halves of characters, which are not text, become question marks.
            return model.model_validate_json(json.dumps(item, ensure_ascii=False).encode("utf-8", "replace"))
        except ValidationError as error:
            problems = [
                _culprit(problem["type"], problem["loc"])
                for problem in error.errors(include_url=False, include_input=False)
            ]
        # From the back, so that taking one item out of a list does not move those still to be taken out.
        for location in sorted(set(problems), key=_position, reverse=True):
            names = [part for part in location if isinstance(part, str)]
            oddities.note(model, ".".join(names[:MOST_NAMES]) or "identity", identity)
            if not location or not _take_out(item, location):
                return None
    oddities.note(model, "object", identity)
    return None


def _culprit(kind: str, location: Location) -> Location:
    """What to take out: the value that does not parse, or the object that lacks what it cannot be without."""
    return location[:-1] if kind == "missing" else location


def _position(location: Location) -> list[tuple[bool, int | str]]:
    """A key that sorts positions in lists as numbers, next to names of fields."""
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
