"""The objects in the responses of Prefect's API, reduced to the fields that the check reads.

All fields but the identity may be missing: versions differ, and one odd object must not cost a whole page. Texts and
lists that users choose are cut here; `answers`, which parses these models, limits everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, get_args

from cachetools import FIFOCache
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

StateType = Literal[
    "SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED"
]
STATE_TYPES: frozenset[str] = frozenset(get_args(StateType))
TERMINAL: frozenset[str] = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})

# Dates outside these bounds are bogus, and date arithmetic near the ends of the calendar would overflow.
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
Moment = Annotated[AwareDatetime, Field(ge=EARLIEST, le=LATEST)]
# Fits into a database column. JSON allows larger integers, which overflow in arithmetic with floats.
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]


# A duration, at most a century.
Seconds = Annotated[float, Field(ge=0, le=100 * 366 * 86400)]
# Names are cut: Prefect does not limit most of them, and Datadog cuts tags anyway.
MOST_CHARACTERS = 1000
MOST_MESSAGE_CHARACTERS = 4000
MESSAGE = "prefect.state-message"
# The labels of events that the check reads. Anybody may send 500 labels of a megabyte each.
LABELS = frozenset(
    {
        "prefect.resource.id",
        "prefect.resource.name",
        "prefect.resource.role",
        "prefect.run-count",
        MESSAGE,
        "prefect.state-name",
        "prefect.state-type",
        "prefect.work-pool.type",
    }
)
MOST_RELATED = 100


def _cut(text: Any) -> Any:
    return text[:MOST_CHARACTERS] if isinstance(text, str) and len(text) > MOST_CHARACTERS else text


def _known_labels(labels: Any) -> Any:
    if not isinstance(labels, dict):
        return labels
    return {
        name: value[: MOST_MESSAGE_CHARACTERS if name == MESSAGE else MOST_CHARACTERS]
        if isinstance(value, str)
        else value
        for name, value in labels.items()
        if name in LABELS
    }


def _first_related(related: Any) -> Any:
    return related[:MOST_RELATED] if isinstance(related, list) else related


Name = Annotated[str, BeforeValidator(_cut)]
Labels = Annotated[Mapping[str, str | None], BeforeValidator(_known_labels)]


class ApiModel(BaseModel):
    """An object in a response. `essential` names the fields whose absence causes a warning."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    essential: ClassVar[tuple[str, ...]] = ()


class ApiObject(ApiModel):
    """An object with an id, the one field that must not be missing."""

    id: str


class StateDetails(ApiModel):
    scheduled_time: Moment | None = None


class State(ApiObject):
    """A state of a run, as in its history."""

    type: StateType
    name: Name | None = None
    timestamp: Moment
    state_details: StateDetails | None = None


class CurrentState(ApiModel):
    """The part of a run's current state that the run object itself does not repeat."""

    timestamp: Moment | None = None
    state_details: StateDetails | None = None


class FlowRunPolicy(ApiModel):
    retry_type: str | None = None


class FlowRun(ApiObject):
    essential = ("state_type",)

    name: Name | None = None
    flow_id: str | None = None
    deployment_id: str | None = None
    work_pool_id: str | None = None
    work_pool_name: str | None = None
    work_queue_id: str | None = None
    work_queue_name: Name | None = None
    state_type: StateType | None = None
    state_name: Name | None = None
    state: CurrentState | None = None
    run_count: Whole | None = None
    expected_start_time: Moment | None = None
    next_scheduled_start_time: Moment | None = None
    start_time: Moment | None = None
    end_time: Moment | None = None
    total_run_time: Seconds | None = None
    empirical_policy: FlowRunPolicy | None = None


class WorkPool(ApiObject):
    essential = ("name", "status")

    # Not cut: requests to the server contain it.
    name: str | None = None
    type: Name | None = None
    status: Literal["READY", "NOT_READY", "PAUSED"] | None = None
    default_queue_id: str | None = None


class Worker(ApiObject):
    essential = ("status", "last_heartbeat_time")

    name: Name | None = None
    status: Literal["ONLINE", "OFFLINE"] | None = None
    last_heartbeat_time: Moment | None = None


class WorkQueue(ApiObject):
    essential = ("name", "status")

    name: Name | None = None
    priority: Whole | None = None
    concurrency_limit: Whole | None = None
    last_polled: Moment | None = None
    status: Literal["READY", "NOT_READY", "PAUSED"] | None = None
    work_pool_id: str | None = None
    work_pool_name: str | None = None


class Deployment(ApiObject):
    essential = ("name", "status")

    name: Name | None = None
    flow_id: str | None = None
    paused: bool | None = None
    status: Literal["READY", "NOT_READY"] | None = None
    work_pool_name: str | None = None
    work_queue_id: str | None = None
    work_queue_name: Name | None = None
    tags: list[Name] = Field(default_factory=list)
    updated: Moment | None = None


class ConcurrencyLimit(ApiObject):
    """A global concurrency limit."""

    essential = ("name", "limit", "active_slots")

    name: Name | None = None
    limit: Whole | None = None
    active_slots: Whole | None = None
    active: bool | None = None


class TagConcurrencyLimit(ApiObject):
    """A concurrency limit of task runs with a tag; `active_slots` are the ids of those that hold a slot."""

    essential = ("tag", "concurrency_limit")

    tag: Name | None = None
    concurrency_limit: Whole | None = None
    active_slots: list[str] = Field(default_factory=list)


class Flow(ApiObject):
    essential = ("name",)

    name: Name | None = None


class TaskInput(ApiModel):
    input_type: str | None = None
    id: str | None = None


class TaskRunPayload(ApiModel):
    """The task run as its own process saw it when it sent the event. The sender omits nulls."""

    task_key: Name | None = None
    dynamic_key: Name | None = None
    run_count: Whole | None = None
    expected_start_time: Moment | None = None
    total_run_time: Seconds | None = None
    task_inputs: dict[str, list[TaskInput]] = Field(default_factory=dict)


class TaskRun(ApiObject, TaskRunPayload):
    """The task run as the server has it."""

    essential = ("state_type",)

    flow_run_id: str | None = None
    state_type: StateType | None = None
    state_name: Name | None = None
    state: CurrentState | None = None
    start_time: Moment | None = None
    end_time: Moment | None = None

    @property
    def entered_terminal_at(self) -> datetime | None:
        """When it entered its current state, if that is a terminal one."""
        return self.state.timestamp if self.state and self.state_type in TERMINAL else None


class EventState(ApiModel):
    type: StateType | None = None
    name: Name | None = None


class EventPayload(ApiModel):
    intended: Mapping[str, str | None] | None = None
    initial_state: EventState | None = None
    validated_state: EventState | None = None
    task_run: TaskRunPayload | None = None


class Event(ApiObject):
    event: str
    occurred: Moment
    resource: Labels = Field(default_factory=dict)
    related: Annotated[list[Labels], BeforeValidator(_first_related)] = Field(default_factory=list)
    payload: EventPayload | None = None


class EventPageModel(ApiModel):
    events: list[Event]
    total: Whole
    next_page: str | None = None


@dataclass(frozen=True)
class EventQuery:
    """The query for a page of events: filters without times, the time span, and the page size."""

    criteria: Mapping[str, Any]
    since: datetime
    until: datetime
    limit: int


@dataclass(frozen=True)
class EventPage:
    """A page of events, the total of the whole query, and the server's link to the next page.

    If `rest` is set, it replaces the link: the next page is a new query for events up to this time.
    """

    events: list[Event]
    total: int
    next_page: str | None = None
    query: EventQuery | None = None
    rest: datetime | None = None


# Limits of what a warning shows: a damaged response may have any number of fields, with names of any length.
MOST_FIELDS = 30
MOST_FIELD_CHARACTERS = 100
MOST_LEFT_OUT = 5
MOST_REASON_CHARACTERS = 200
MOST_ID_CHARACTERS = 40
MOST_TOLD = 10_000


class Oddities:
    """What was dropped from the responses of one check run, for one warning.

    Fields that do not parse are counted by type of object and field. Objects that are left out are named by their id,
    which is cut, and never by their content. Each oddity is reported in one check run only, even if it persists.
    """

    def __init__(self, before: Oddities | None = None) -> None:
        """`before` belongs to the previous check run."""
        self._fields: dict[tuple[str, str], int] = {}
        self._left_out: dict[tuple[str, str], int] = {}
        self._without_identity: Counter[tuple[str, str]] = Counter()
        self._told: FIFOCache[str, None] = before._told if before is not None else FIFOCache(MOST_TOLD)
        self._tells: set[str] = set()

    def note(self, model: type[ApiModel], field: str, identity: str) -> None:
        """Note a field of an object that is missing or does not parse."""
        if self._is_new(f"{model.__name__} {identity[:MOST_ID_CHARACTERS]} {field[:MOST_FIELD_CHARACTERS]}"):
            _count(self._fields, (model.__name__, field[:MOST_FIELD_CHARACTERS]), MOST_FIELDS, ("other", "fields"))

    def leave_out(self, model: type[ApiModel], why: str, identity: str = "") -> None:
        """Note an object that cannot be read or evaluated at all."""
        kind = f"{model.__name__} {shortened(identity)}".rstrip(), why[:MOST_REASON_CHARACTERS]
        if not identity:
            # Without an id, a second one in the same check run counts as another object.
            self._without_identity[kind] += 1
        if self._is_new(f"{kind} {self._without_identity[kind]}"):
            _count(self._left_out, kind, MOST_LEFT_OUT, ("others", "similar reasons"))

    def _is_new(self, thing: str) -> bool:
        """Whether no earlier check run has reported it."""
        if thing not in self._told:
            self._told[thing] = None
            self._tells.add(thing)
        return thing in self._tells

    def __bool__(self) -> bool:
        """Whether fields were missing or did not parse."""
        return bool(self._fields)

    def __str__(self) -> str:
        return ", ".join(f"{model}.{field} ({count})" for (model, field), count in sorted(self._fields.items()))

    @property
    def left_out(self) -> str:
        """The objects that were left out, and why; empty if there are none."""
        return "; ".join(
            f"{name}{f' ({count} times)' if count > 1 else ''}: {why}" for (name, why), count in self._left_out.items()
        )


def _count(kinds: dict[tuple[str, str], int], kind: tuple[str, str], most: int, rest: tuple[str, str]) -> None:
    """Count one of a kind, or of the `rest` if there are `most` kinds already."""
    if kind not in kinds and len(kinds) >= most:
        kind = rest
    kinds[kind] = kinds.get(kind, 0) + 1


def shortened(identity: str) -> str:
    """An id, or whatever was sent as one, cut and printable."""
    shown = "".join(character if character.isprintable() else "_" for character in identity[:MOST_ID_CHARACTERS])
    return f"{shown}..." if len(identity) > MOST_ID_CHARACTERS else shown


def utc_text(moment: datetime) -> str:
    """The moment in the format of Prefect's filters."""
    return moment.isoformat().replace("+00:00", "Z")
