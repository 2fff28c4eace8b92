"""The objects that Prefect's API answers with, reduced to the fields that the check reads.

Every field but an object's identity may be missing: versions differ, and one odd object must not cost a page.
`read_objects` is the lenient door: a field that does not parse becomes None, and is told to the `Oddities` of the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

StateType = Literal[
    "SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED"
]
STATE_TYPES: frozenset[str] = frozenset(get_args(StateType))
TERMINAL: frozenset[str] = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})

# Dates out of these bounds are nobody's time, and the ends of the calendar are too near to them to calculate with.
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
Moment = Annotated[AwareDatetime, Field(ge=EARLIEST, le=LATEST)]
# As large as a column of a database; JSON has numbers with which floats cannot be calculated.
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class ApiModel(BaseModel):
    """An answer's object; `essential` names the fields without which it says little, to be warned of when absent."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    essential: ClassVar[tuple[str, ...]] = ()


class StateDetails(ApiModel):
    scheduled_time: Moment | None = None


class State(ApiModel):
    """A state of a run, as in its history."""

    id: str
    type: StateType
    name: str | None = None
    timestamp: Moment
    state_details: StateDetails | None = None


class CurrentState(ApiModel):
    """The part of a run's current state that the run object itself does not repeat."""

    timestamp: Moment | None = None
    state_details: StateDetails | None = None


class FlowRunPolicy(ApiModel):
    retry_type: str | None = None


class FlowRun(ApiModel):
    essential = ("state_type",)

    id: str
    name: str | None = None
    flow_id: str | None = None
    deployment_id: str | None = None
    work_pool_id: str | None = None
    work_pool_name: str | None = None
    work_queue_id: str | None = None
    work_queue_name: str | None = None
    state_type: StateType | None = None
    state_name: str | None = None
    state: CurrentState | None = None
    run_count: Whole | None = None
    expected_start_time: Moment | None = None
    next_scheduled_start_time: Moment | None = None
    start_time: Moment | None = None
    end_time: Moment | None = None
    total_run_time: float | None = None
    empirical_policy: FlowRunPolicy | None = None


class WorkPool(ApiModel):
    essential = ("name", "status")

    id: str
    name: str | None = None
    type: str | None = None
    status: Literal["READY", "NOT_READY", "PAUSED"] | None = None
    default_queue_id: str | None = None


class Worker(ApiModel):
    essential = ("status", "last_heartbeat_time")

    id: str
    name: str | None = None
    status: Literal["ONLINE", "OFFLINE"] | None = None
    last_heartbeat_time: Moment | None = None


class WorkQueue(ApiModel):
    essential = ("name", "status")

    id: str
    name: str | None = None
    priority: Whole | None = None
    concurrency_limit: Whole | None = None
    last_polled: Moment | None = None
    status: Literal["READY", "NOT_READY", "PAUSED"] | None = None
    work_pool_id: str | None = None
    work_pool_name: str | None = None


class Deployment(ApiModel):
    essential = ("name", "status")

    id: str
    name: str | None = None
    flow_id: str | None = None
    paused: bool | None = None
    status: Literal["READY", "NOT_READY"] | None = None
    work_pool_name: str | None = None
    work_queue_id: str | None = None
    work_queue_name: str | None = None
    updated: Moment | None = None


class Flow(ApiModel):
    essential = ("name",)

    id: str
    name: str | None = None


class TaskInput(ApiModel):
    input_type: str | None = None
    id: str | None = None


class TaskRunPayload(ApiModel):
    """The task run as its own process saw it when it sent the event. Nulls are left out by the sender."""

    task_key: str | None = None
    dynamic_key: str | None = None
    run_count: Whole | None = None
    expected_start_time: Moment | None = None
    total_run_time: float | None = None
    task_inputs: dict[str, list[TaskInput]] = Field(default_factory=dict)


class TaskRun(TaskRunPayload):
    """The task run as the server has it."""

    essential = ("state_type",)

    id: str
    flow_run_id: str | None = None
    state_type: StateType | None = None
    state_name: str | None = None
    state: CurrentState | None = None
    start_time: Moment | None = None
    end_time: Moment | None = None

    @property
    def entered_terminal_at(self) -> datetime | None:
        """When it entered its current state, where that is a terminal one."""
        return self.state.timestamp if self.state and self.state_type in TERMINAL else None


class EventState(ApiModel):
    type: StateType | None = None
    name: str | None = None


class EventPayload(ApiModel):
    intended: Mapping[str, str | None] | None = None
    initial_state: EventState | None = None
    validated_state: EventState | None = None
    task_run: TaskRunPayload | None = None


class Event(ApiModel):
    id: str
    event: str
    occurred: Moment
    resource: Mapping[str, str | None] = Field(default_factory=dict)
    related: list[Mapping[str, str | None]] = Field(default_factory=list)
    payload: EventPayload | None = None


class EventPage(ApiModel):
    """A page of events, the total of the whole query, and where the server thinks that the next page is."""

    events: list[Event]
    total: Whole
    next_page: str | None = None


Model = TypeVar("Model", bound=ApiModel)
Location = tuple[int | str, ...]
# Deeper down are names that users give, of which there is no end.
MOST_NAMES = 3
# What a warning shows of fields, of which a damaged answer may have any number, with names of any length.
MOST_FIELDS = 30
MOST_FIELD_CHARACTERS = 100


class Oddities:
    """What did not parse in one check run, by kind of object and field, for one warning in all."""

    def __init__(self) -> None:
        self._fields: dict[tuple[str, str], int] = {}

    def note(self, model: type[ApiModel], field: str) -> None:
        key = (model.__name__, field[:MOST_FIELD_CHARACTERS])
        if key not in self._fields and len(self._fields) >= MOST_FIELDS:
            key = ("other", "fields")
        self._fields[key] = self._fields.get(key, 0) + 1

    def __bool__(self) -> bool:
        return bool(self._fields)

    def __str__(self) -> str:
        return ", ".join(f"{model}.{field} ({count})" for (model, field), count in sorted(self._fields.items()))


def read_objects(model: type[Model], body: bytes, oddities: Oddities) -> tuple[list[Model], int]:
    """Parse a JSON array of objects, and tell how many it held; raises `ValueError` when the body is not an array.

    Raises `RecursionError` for one that is nested without end.
    """
    try:
        objects: list[Model] = _list_of(model).validate_json(body)
        size = len(objects)
    except ValidationError:
        raw = json.loads(body)
        if not isinstance(raw, list):
            raise ValueError("not a list") from None
        objects, size = salvage(model, raw, oddities), len(raw)
    for field in model.essential:
        for item in objects:
            if getattr(item, field) is None:
                oddities.note(model, field)
    return objects, size


@cache
def _list_of(model: type[ApiModel]) -> TypeAdapter[Any]:
    return TypeAdapter(list[model])  # type: ignore[valid-type]


def read_event_page(body: bytes, oddities: Oddities) -> EventPage:
    """Parse a page of events; raises `ValueError` or `RecursionError` as `read_objects` does."""
    try:
        return EventPage.model_validate_json(body)
    except ValidationError:
        raw = json.loads(body)
    if not isinstance(raw, dict) or not isinstance(raw.get("events"), list) or not isinstance(raw.get("total"), int):
        raise ValueError("not a page of events")
    next_page = raw.get("next_page")
    return EventPage(
        events=salvage(Event, raw["events"], oddities),
        total=raw["total"],
        next_page=next_page if isinstance(next_page, str) else None,
    )


def salvage(model: type[Model], raw: list[Any], oddities: Oddities) -> list[Model]:
    """Parse objects one by one, without the fields that do not parse, and without objects that lack their identity."""
    parsed = (_salvage_one(model, item, oddities) for item in raw)
    return [item for item in parsed if item is not None]


def _salvage_one(model: type[Model], item: Any, oddities: Oddities) -> Model | None:
    try:
        item = json.loads(json.dumps(item))
    except RecursionError:
        oddities.note(model, "object")
        return None
    while isinstance(item, dict):
        try:
            return model.model_validate_json(json.dumps(item))
        except ValidationError as error:
            problems = [_culprit(problem["type"], problem["loc"]) for problem in error.errors(include_url=False)]
        # From the back, so that taking one item out of a list does not move those still to be taken out.
        for location in sorted(set(problems), key=_position, reverse=True):
            names = [part for part in location if isinstance(part, str)]
            oddities.note(model, ".".join(names[:MOST_NAMES]) or "identity")
            if not location or not _take_out(item, location):
                return None
    oddities.note(model, "object")
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


def utc_text(moment: datetime) -> str:
    """The moment as Prefect's filters take it."""
    return moment.isoformat().replace("+00:00", "Z")
