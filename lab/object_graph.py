"""What an object holds, by the path of attributes that leads to it: so that what grows has a name."""

from __future__ import annotations

import gc
import logging
import sys
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

# What is not an object's own: code, and what all of a process share.
SHARED = (type, ModuleType, BuiltinFunctionType, logging.Logger, logging.LoggerAdapter, logging.Handler)
LEAVES = (str, bytes, bytearray, int, float, complex, bool, type(None), array)
SEQUENCES = (list, tuple, set, frozenset, deque)


@dataclass
class Held:
    """What is found at one path: how many objects the containers there hold, and how many bytes all of it takes."""

    objects: int = 0
    size: int = 0


def held_by(root: object) -> dict[str, Held]:
    """All that is reachable from an object; what several paths lead to counts at the shortest of them.

    `[]` stands for what is in a sequence, `{}` for the values of a dictionary, `{key}` for its keys.
    """
    found: dict[str, Held] = {}
    seen: dict[int, object] = {}
    pending: deque[tuple[object, str]] = deque([(root, type(root).__name__)])
    while pending:
        thing, path = pending.popleft()
        if id(thing) in seen or isinstance(thing, SHARED):
            continue
        # Kept, lest another object gets its id.
        seen[id(thing)] = thing
        held = found.setdefault(path, Held())
        held.size += sys.getsizeof(thing)
        if isinstance(thing, (Mapping, *SEQUENCES, array)):
            held.objects += len(thing)
        pending.extend((part, path + step) for part, step in _parts_of(thing))
    return found


def grown(before: Mapping[str, Held], after: Mapping[str, Held], factor: float, spare: int) -> dict[str, str]:
    """The paths at which there are more objects than so many times what there were, and `spare`."""
    return {
        path: f"{before.get(path, Held()).objects} -> {held.objects}"
        for path, held in after.items()
        if held.objects > factor * before.get(path, Held()).objects + spare
    }


def size_of(held: Mapping[str, Held]) -> int:
    """The bytes at all paths together."""
    return sum(item.size for item in held.values())


def show_largest(held: Mapping[str, Held], number: int) -> None:
    """Print the paths with the most bytes, a line each."""
    for path, item in sorted(held.items(), key=lambda item: -item[1].size)[:number]:
        print(f"{item.size:>10,} bytes {item.objects:>8,} objects  {path}")


def _parts_of(thing: object) -> Iterator[tuple[object, str]]:
    if isinstance(thing, LEAVES):
        return
    if isinstance(thing, dict):
        for key, value in list(thing.items()):
            yield key, "{key}"
            yield value, "{}"
    elif isinstance(thing, SEQUENCES):
        for part in list(thing):
            yield part, "[]" if isinstance(part, (*LEAVES, *SEQUENCES, dict)) else f"[{type(part).__name__}]"
    elif isinstance(thing, MethodType):
        yield thing.__self__, ".__self__"
    elif isinstance(thing, FunctionType):
        # Not its module's globals.
        yield from _cells_of(thing.__closure__ or ())
        yield thing.__defaults__, ".__defaults__"
    elif isinstance(thing, partial):
        yield from ((thing.func, ".func"), (thing.args, ".args"), (thing.keywords, ".keywords"))
    yield from _attributes_of(thing)


def _cells_of(cells: Iterable[Any]) -> Iterator[tuple[object, str]]:
    for cell in cells:
        try:
            yield cell.cell_contents, ".__closure__"
        except ValueError:
            continue  # it has no contents yet


def _attributes_of(thing: object) -> Iterator[tuple[object, str]]:
    has_attributes = False
    for name, value in list(getattr(thing, "__dict__", {}).items()):
        has_attributes = True
        yield value, f".{name}"
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(thing, name):
                has_attributes = True
                yield getattr(thing, name), f".{name}"
    if not has_attributes and not isinstance(thing, (dict, *SEQUENCES, FunctionType, MethodType, partial)):
        # Such as a generator, with what its function has in its variables.
        for part in gc.get_referents(thing):
            yield part, f".<{type(part).__name__}>"
