"""Bad events, as anybody may post them to a Prefect server, and what the poisonous objects have in common with them.

Each event that does not say otherwise tells that a run has completed that the server does not know. Payloads and labels
hold the word MARKER, which nothing that the check says may repeat.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import requests

from .prefect_api import Json, PrefectApi, iso
from .task_run import uuid7
from .waiting import wait_until

MARKER = "s3cr3t-payload"
POST_SECONDS = 60.0
BUSY_SECONDS = 30.0
# Of an id so many characters are enough to be found by.
SHORT = 8

MEGABYTE = 1_000_000
BIDI = "\u202e\u2066\u0634\u0645\u0633\u200f"
EMOJI = "\U0001f469\u200d\U0001f680"
CONTROLS = "\x01\x07\x1b[31m\t\r\n\x7f\x85"

EventMaker = Callable[[], list[Json]]


class Refused(Exception):
    """The server does not take this poison."""


@dataclass(frozen=True)
class Posted:
    """What was posted: a warning names one of `ids`, if there are any; `event_ids` are those of events to be seen.

    `resource_ids` are the resources of events that must not be counted. `take_back` removes from the server what
    cannot stay there.
    """

    ids: Sequence[str]
    event_ids: Sequence[str] = ()
    resource_ids: Sequence[str] = ()
    take_back: Callable[[], object] = lambda: None

    def is_named_by(self, warning: str) -> bool:
        """Whether a warning says which poison it is about, as far as that can be known."""
        return not self.ids or is_about(warning, self.ids)


def is_about(warning: str, ids: Collection[str]) -> bool:
    """Whether a warning names one of these ids, if only its beginning."""
    return any(identity[:SHORT] in warning for identity in ids if identity)


def send(api: PrefectApi, path: str, body: Any) -> int:
    """POST a body that the usual client does not send, such as one with NaN; returns the status."""

    def status() -> int:
        with requests.Session() as session:
            session.trust_env = False  # no proxy on the way to the loopback interface
            headers = {"Content-Type": "application/json"}
            answer = session.post(f"{api.api_url}/{path}", data=text, headers=headers, timeout=POST_SECONDS)
        # A server whose database is locked has done nothing.
        return answer.status_code if answer.status_code != 503 else 0

    text = json.dumps(body)
    return wait_until(status, BUSY_SECONDS, f"Another answer than 503 to POST {path}")


def post(api: PrefectApi, name: str) -> Posted:
    """Post the events of that name. Raises `Refused` where the server takes them for what they are."""
    events = POISON_EVENTS[name]()
    if (status := send(api, "events", events)) != 204:
        raise Refused(f"the server answers {status} to events with {name}")
    ids = [event["id"] for event in events]
    resources = [event["resource"]["prefect.resource.id"] for event in events]
    return Posted(
        ids=ids + [id_in(resource) for resource in resources],
        event_ids=() if name in NEVER_SHOWN else ids,
        resource_ids=() if any(is_uuid(resource) for resource in resources) else resources,
    )


def id_in(resource_id: str) -> str:
    """What stands behind the kind in a resource's id."""
    return resource_id.split(".", 2)[-1]


def is_uuid(resource_id: str) -> bool:
    """Whether a resource's id ends in what somebody may take for a UUID."""
    try:
        uuid.UUID(id_in(resource_id))
    except ValueError:
        return False
    return True


def is_canonical(resource_id: str) -> bool:
    """Whether a resource's id ends in a UUID as Prefect writes it."""
    return re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", id_in(resource_id)) is not None


# What events consist of


def event(
    run_id: str | None = None,
    name: str = "prefect.flow-run.Completed",
    labels: Mapping[str, str] | None = None,
    payload: Any = None,
    related: Sequence[Json] = (),
    occurred: datetime | str | None = None,
) -> Json:
    """An event of a run that the server does not know; `name` says of which kind, and into which state it comes."""
    _, kind, *_ = f"{name}..".split(".")
    state = name.rpartition(".")[2]
    moment = occurred if isinstance(occurred, str) else iso(occurred or datetime.now(UTC))
    about_state = {"prefect.state-type": state.upper(), "prefect.state-name": state, "prefect.run-count": "1"}
    return {
        "id": uuid7(),
        "occurred": moment,
        "event": name,
        "resource": {
            "prefect.resource.id": f"prefect.{kind}.{uuid.uuid4() if run_id is None else run_id}",
            "prefect.resource.name": "poison",
            **(about_state if kind in ("flow-run", "task-run") else {}),
            "prefect.state-message": MARKER,
            **(labels or {}),
        },
        "related": list(related),
        "payload": {"note": MARKER, "initial_state": {"type": "RUNNING"}, **(payload or {})},
    }


def task_event(
    run_id: str | None = None, state: str = "Completed", related: Sequence[Json] = (), **fields: Any
) -> Json:
    """The same of a task run; `fields` are those of the payload's task run."""
    task_run = {"task_key": "poison-0a1b2c3d", "dynamic_key": str(uuid.uuid4()), "run_count": 1, **fields}
    return event(run_id, f"prefect.task-run.{state}", None, {"task_run": task_run}, related)


def role(role: str, identity: str, name: str = MARKER) -> Json:
    """A related resource."""
    return {"prefect.resource.id": identity, "prefect.resource.role": role, "prefect.resource.name": name}


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    inner: Any = MARKER
    for _ in range(depth):
        inner = [inner]
    return inner


def inputs(ids: Sequence[Any]) -> Json:
    """`task_inputs` of a task run that waits for others."""
    return {"upstream": [{"input_type": "task_run", "id": identity} for identity in ids]}


def _in(**ago: float) -> datetime:
    return datetime.now(UTC) + timedelta(**ago)


def _run_count(text: str) -> Json:
    return event(labels={"prefect.run-count": text})


def _named(name: str) -> Json:
    return event(name=name, labels={"prefect.state-type": "COMPLETED"})


def _all_related_to(identity: str) -> list[Json]:
    kinds = ("flow-run", "flow", "deployment", "work-pool", "work-queue", "task-run")
    return [role(kind, f"prefect.{kind}.{identity}") for kind in kinds]


def _nested(*depths: int) -> list[Json]:
    return [event(payload={"deep": nested(depth)}) for depth in depths]


def _run_times(*times: float | str) -> list[Json]:
    return [task_event(total_run_time=seconds) for seconds in times]


def _wrong_types() -> list[Json]:
    """A task run with each of its fields of a type that it cannot have."""
    fields = (
        "task_key", "dynamic_key", "run_count", "expected_start_time", "start_time", "end_time", "total_run_time",
        "task_inputs",
    )  # fmt: skip
    values: tuple[Any, ...] = ([MARKER], {MARKER: None}, True)
    return [_task_event_with({name: value}) for name in fields for value in values]


def _task_event_with(fields: Json) -> Json:
    return task_event(None, "Completed", (), **fields)


def _twice(made: Json) -> list[Json]:
    return [made, made]


def _uncounted() -> list[Json]:
    """Changes into a state that no metric counts, of a run that the server does not know."""
    payloads: tuple[Json, ...] = ({"initial_state": [MARKER]}, {"intended": 7}, {"task_run": [MARKER]}, {"task_run": 7})
    labels = {"prefect.state-type": "SCHEDULED", "prefect.run-count": "9" * 5000}
    name = "prefect.{}.AwaitingRetry"
    return [event(None, name.format(kind), labels, odd) for kind in ("flow-run", "task-run") for odd in payloads]


def _ends_twice() -> list[Json]:
    run_id = str(uuid.uuid4())
    return [event(run_id, f"prefect.flow-run.{state}") for state in ("Failed", "Completed")]


def _statuses(identity: str) -> list[Json]:
    kinds = ("deployment", "work-pool", "work-queue")
    return [event(identity, f"prefect.{kind}.{status}") for kind in kinds for status in ("ready", "not-ready")]


def _full_width(text: str) -> str:
    """The same with digits that Python takes for digits, and nobody else."""
    return "".join(chr(ord("\uff10") + int(letter)) if letter.isdecimal() else letter for letter in text)


POISON_EVENTS: dict[str, EventMaker] = {
    # Ids
    "an id that is no UUID": lambda: [event("not-a-uuid")],
    "an empty id": lambda: [event("")],
    "a task run's id that is no UUID": lambda: [task_event("not-a-uuid")],
    "a task run's id of 5,000 characters": lambda: [task_event("x" * 5000)],
    "an id of a megabyte": lambda: [event("y" * MEGABYTE)],
    "other spellings of a UUID": lambda: [
        event(spelling.format(uuid.uuid4())) for spelling in ("{{{}}}", "urn:uuid:{}", "{0.hex}")
    ],
    "a UUID in capitals": lambda: [event(str(uuid.uuid4()).upper())],
    "a UUID with a line break behind it": lambda: [event(f"{uuid.uuid4()}\n")],
    "a UUID in other digits": lambda: [event(_full_width(str(uuid.uuid4())))],
    "a UUID behind another": lambda: [event(f"{uuid.uuid4()}.{uuid.uuid4()}")],
    "a run that does not exist": lambda: [event()],
    "an id that is a path": lambda: [event("../../admin/version?x=1#y"), task_event("../filter%00")],
    "an id with NUL and control characters": lambda: [event(f"\0{CONTROLS}"), task_event(f"\0{CONTROLS}")],
    "a hundred ids that are no UUID": lambda: [event(f"no-{number}") for number in range(100)],
    "names of events that end early": lambda: [event("x", "prefect.flow-run."), event("x", ""), event("x", "prefect")],
    # Run counts
    "a run count of 5,000 digits": lambda: [_run_count("9" * 5000)],
    "a run count of 5,000 digits of no run": lambda: [event("not-a-uuid", labels={"prefect.run-count": "9" * 5000})],
    "run counts in other digits": lambda: [_run_count(text) for text in ("\u00b2", "\u0663", "\u2460")],
    "run counts that are no whole number": lambda: [
        _run_count(text) for text in ("-1", "1.5", "1e3", "nan", "", " 1", "+1", "1_000", "0x1", "1\n")
    ],
    # States and names
    "a type of state that there is none of": lambda: [event(labels={"prefect.state-type": "EXPLODED"})],
    "a state's name with NUL and control characters": lambda: [event(labels={"prefect.state-name": f"\0{CONTROLS}"})],
    "a state's name of a megabyte": lambda: [event(labels={"prefect.state-name": "z" * MEGABYTE})],
    "a state's message of a megabyte": lambda: [event(labels={"prefect.state-message": MARKER * 70_000})],
    "a state's message with NUL and marks": lambda: [event(labels={"prefect.state-message": f"\0%%%{CONTROLS}{BIDI}"})],
    "a name with NUL and control characters": lambda: [event(labels={"prefect.resource.name": f"\0{CONTROLS}"})],
    "names that are empty or run backwards": lambda: [
        event(labels={"prefect.resource.name": name, "prefect.state-name": name}) for name in ("", BIDI + EMOJI)
    ],
    "400 labels": lambda: [event(labels={f"label-{number}": MARKER for number in range(400)})],
    "an event's name with NUL and control characters": lambda: [_named(f"prefect.flow-run.\0{CONTROLS}")],
    "an event's name of 1,000 characters": lambda: [_named("prefect.flow-run." + "n" * 1000)],
    # Related resources
    "a hundred related resources": lambda: [event(related=[role(f"role-{n}", f"prefect.x.{n}") for n in range(100)])],
    "roles that come twice": lambda: [event(related=_all_related_to("one") + _all_related_to("two"))],
    "roles of odd characters": lambda: [
        event(related=[role(f"ro:le,\0{CONTROLS}", "prefect.x.y"), role("resource", "prefect.x.y"), role("-", "x.y.z")])
    ],
    "related ids that are no UUID": lambda: [event(related=_all_related_to("not-a-uuid"))],
    "a task run's related ids that are no UUID": lambda: [task_event(related=_all_related_to("not-a-uuid"))],
    "related ids that do not exist": lambda: [
        event(related=_all_related_to(str(uuid.uuid4()))),
        task_event(related=_all_related_to(str(uuid.uuid4()))),
    ],
    "related ids of nothing": lambda: [
        event(related=[role("flow-run", text) for text in ("x", ".", "prefect.", "..")])
    ],
    "related names with NUL and control characters": lambda: [
        event(
            related=[role(kind, f"prefect.{kind}.{uuid.uuid4()}", f"\0{CONTROLS}") for kind in ("deployment", "flow")]
        )
    ],
    # Payloads
    "an initial state that is a list": lambda: [event(payload={"initial_state": [MARKER]})],
    "a validated state that is a text": lambda: [event(payload={"validated_state": MARKER})],
    "an intention that is a number": lambda: [
        event(payload={"intended": 7}),
        event(payload={"intended": {"from": [7]}}),
    ],
    "task runs that are a number, a list, a text": lambda: [
        event(name="prefect.task-run.Completed", payload={"task_run": odd}) for odd in (7, [MARKER], MARKER)
    ],
    "a task run with fields of wrong types": _wrong_types,
    "task inputs of 20,000 ids": lambda: [
        task_event(state="Running", task_inputs=inputs([str(uuid.uuid4()) for _ in range(20_000)]))
    ],
    "task inputs whose ids are no UUID": lambda: [task_event(state="Running", task_inputs=inputs(["x", "", "\0", 7]))],
    "a task key of 5,000 characters": lambda: [task_event(task_key="k" * 5000)],
    "a task key with NUL and control characters": lambda: [task_event(task_key=f"\0{CONTROLS}", dynamic_key="\0")],
    "numbers of 4,300 digits": lambda: [task_event(run_count=int("9" * 4300), total_run_time=int("9" * 4300))],
    "keys that are odd": lambda: [event(payload={"": MARKER, "\0": 1, "__class__": 2, MARKER: 3, "k" * 5000: 4})],
    "lists nested 50 to 197 deep": partial(_nested, 50, 100, 150, 197),
    "lists nested 198 deep": partial(_nested, 198),
    "lists nested 199 and 250 deep": partial(_nested, 199, 250),
    "400,000 lists": lambda: [event(payload={"lists": [[]] * 400_000})],
    "400,000 objects": lambda: [task_event(task_inputs={"many": [{}] * 350_000})],
    # Times
    "run times without end": partial(_run_times, 1e308, math.nan, math.inf, "1e999"),
    "a run time below zero": partial(_run_times, -1.0),
    "dates at the ends of the calendar": lambda: [
        task_event(state=state, expected_start_time=first, start_time=first, end_time=last)
        for state in ("Running", "Completed")
        for first, last in (
            ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
            ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"),
        )
    ],
    "a start after the end": lambda: [task_event(start_time=iso(_in(hours=1)), end_time=iso(_in(hours=-1)))],
    "an event of half an hour ago": lambda: [event("not-a-uuid", occurred=_in(minutes=-30))],
    "events of the years 1 and 9999": lambda: [
        event(occurred=moment) for moment in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
    ],
    # Others
    "the same event twice": lambda: _twice(event("not-a-uuid")),
    "two ends of one run": _ends_twice,
    "statuses of what has no UUID": lambda: _statuses("not-a-uuid"),
    "statuses of what does not exist": lambda: _statuses(str(uuid.uuid4())),
    "the end of a deployment without a UUID": lambda: [event("not-a-uuid", "prefect.deployment.deleted")],
    "heartbeats of no run": lambda: [
        event("not-a-uuid", "prefect.flow-run.heartbeat"),
        event("", "prefect.flow-run.heartbeat"),
    ],
    "odd changes of state that count nowhere": _uncounted,
    # An Agent that starts anew finds these, too, so that they are the last.
    "an event of the next minute": lambda: [
        event("not-a-uuid", occurred=_in(minutes=1)),
        event(occurred=_in(minutes=1)),
    ],
}

# The server takes these and shows them to nobody, or only to those who ask for other times.
NEVER_SHOWN = frozenset({"lists nested 199 and 250 deep", "events of the years 1 and 9999"})
# Those that any history may hold: by the contract nothing of them counts, and none is handed on.
OF_NO_CONSEQUENCE = (
    "an id that is no UUID",
    "an empty id",
    "a task run's id that is no UUID",
    "a task run's id of 5,000 characters",
    "an id that is a path",
    "statuses of what has no UUID",
    "the end of a deployment without a UUID",
    "heartbeats of no run",
    "a run count of 5,000 digits of no run",
)
# The same, of which some are handed on, and some are warned of without their ids.
COUNTED_NOWHERE = (
    *OF_NO_CONSEQUENCE,
    "odd changes of state that count nowhere",
    "an id with NUL and control characters",
)
