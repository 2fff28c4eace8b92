"""Documents in the Agent's persistent cache."""

from __future__ import annotations

import json
from typing import Any

import pytest

from datadog_checks.prefect import state_store
from datadog_checks.prefect.state_store import StateStore

NAME = "flow_runs"
OLDER_IS_USED = (
    f"The last interval of {NAME} may be counted twice: the newer of its two files cannot be used. "
    "It is damaged, or of another version of this check."
)


class Cache(dict[str, str]):
    """The Agent's cache: what was never written is empty."""

    def __missing__(self, key: str) -> str:
        return ""


def store_over(cache: Cache, warnings: list[str] | None = None) -> StateStore:
    told: list[str] = [] if warnings is None else warnings
    return StateStore(cache.__getitem__, cache.__setitem__, told.append)


def saved(*documents: dict[str, Any]) -> Cache:
    """A cache into which these versions of one document were saved, one after the other."""
    cache = Cache()
    store = store_over(cache)
    store.load(NAME)
    for document in documents:
        store.save(NAME, document)
    return cache


def load(cache: Cache) -> tuple[Any, list[str]]:
    """What is loaded, `unreadable` where nothing can be, and the warnings."""
    warnings: list[str] = []
    try:
        return store_over(cache, warnings).load(NAME), warnings
    except ValueError:
        return "unreadable", warnings


def newest_key(cache: Cache, number: int) -> str:
    return f"{NAME}_{number % 2}"


def test_a_document_that_was_saved_is_loaded_by_its_name() -> None:
    cache = saved({"seen": {"1": "ü"}, "start": None})
    other = store_over(cache)
    assert other.load("task_runs") is None
    other.save("task_runs", {})
    assert load(cache) == ({"seen": {"1": "ü"}, "start": None}, [])
    assert store_over(cache).load("task_runs") == {}


def test_where_nothing_is_stored_there_is_no_document() -> None:
    assert load(Cache()) == (None, [])


def test_the_newest_of_all_versions_is_loaded_also_after_restarts() -> None:
    cache = Cache()
    for number in range(40):
        store = store_over(cache)
        store.load(NAME)
        store.save(NAME, {"number": number})
        if number % 3 == 0:
            store.save(NAME, {"number": number + 0.5})
    assert load(cache) == ({"number": 39.5}, [])
    assert len(cache) == 2


def test_wherever_the_newest_version_is_cut_off_the_one_before_it_is_loaded_with_one_warning() -> None:
    whole = saved({"number": 1}, {"number": 2}, {"number": 3})
    key = newest_key(whole, 3)
    for length in range(1, len(whole[key])):
        cache = Cache(whole)
        cache[key] = whole[key][:length]
        assert load(cache) == ({"number": 2}, [OLDER_IS_USED])


def test_whatever_character_of_the_newest_version_changes_the_one_before_it_is_loaded_with_one_warning() -> None:
    whole = saved({"number": 1}, {"number": 2})
    key = newest_key(whole, 2)
    for position, character in enumerate(whole[key]):
        for other in {"0", "1", " ", "ü", "\ud800", "²"} - {character}:
            cache = Cache(whole)
            cache[key] = whole[key][:position] + other + whole[key][position + 1 :]
            assert load(cache) == ({"number": 2 - 1}, [OLDER_IS_USED])


def test_an_older_version_that_is_damaged_costs_nothing_but_a_warning() -> None:
    cache = saved({"number": 1}, {"number": 2})
    cache[newest_key(cache, 1)] = "?"
    document, warnings = load(cache)
    assert document == {"number": 2}
    assert len(warnings) == 1


def test_a_file_that_is_no_text_is_damaged() -> None:
    cache = saved({"number": 1}, {"number": 2})

    def read(key: str) -> str:
        return b"\xff".decode() if key == newest_key(cache, 2) else cache[key]

    warnings: list[str] = []
    assert StateStore(read, cache.__setitem__, warnings.append).load(NAME) == {"number": 1}
    assert warnings == [OLDER_IS_USED]


def test_a_damaged_version_is_written_over_first() -> None:
    for damaged in (1, 2):
        cache = saved({"number": 1}, {"number": 2})
        cache[newest_key(cache, damaged)] = "?"
        store = store_over(cache)
        store.load(NAME)
        store.save(NAME, {"number": 3})
        assert load(cache)[0] == {"number": 3}
        store.save(NAME, {"number": 4})
        assert load(cache) == ({"number": 4}, [])


@pytest.mark.parametrize("text", ["not JSON", "null", "1 1 {}", '{"format": 1, "data": {}}', " ", "²"])
def test_where_no_version_is_good_loading_is_a_value_error_without_a_warning_of_its_own(text: str) -> None:
    assert load(Cache({f"{NAME}_0": text})) == ("unreadable", [])
    assert load(Cache({f"{NAME}_0": text, f"{NAME}_1": text})) == ("unreadable", [])


def test_what_another_format_wrote_is_not_taken_for_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_store, "FORMAT", state_store.FORMAT - 1)
    cache = saved({"number": 1}, {"number": 2})
    monkeypatch.undo()
    assert load(cache) == ("unreadable", [])
    store = store_over(cache)
    with pytest.raises(ValueError, match="another version"):
        store.load(NAME)
    store.save(NAME, {"number": 3})
    assert load(cache)[0] == {"number": 3}


def test_loading_and_saving_touch_no_other_document() -> None:
    cache = Cache(task_runs_0="not JSON")
    store = store_over(cache)
    store.load(NAME)
    store.save(NAME, {"a": 1})
    assert cache["task_runs_0"] == "not JSON"
    assert [json.loads(text.split(" ", 3)[3]) for key, text in cache.items() if key.startswith(NAME)] == [{"a": 1}]


def test_what_cannot_be_read_is_told_by_its_name() -> None:
    warnings: list[str] = []
    store_over(Cache(), warnings).report_unreadable("flow_runs", "It is damaged.")
    assert warnings == [
        "Counting of flow_runs starts one collection interval ago: its stored state cannot be read. It is damaged."
    ]
