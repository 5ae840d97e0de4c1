"""The envelope: CloudEvents 1.0 in Kafka's binary mode, around a pydantic model as JSON.

Headers: ce_id, ce_source, ce_type (`gantry.<topic>.v<version>`), ce_specversion, ce_subject, ce_time,
ce_partitionkey, ce_sequence (the subject's version), ce_correlationid, ce_causationid, traceparent.
Requests that others than Gantry's services may write carry a proof of their writer besides: libs/common/proofs.py; what
must not wait for the bus says so in `gantry-direct`: libs/common/direct.py.
`ce_id` is a function of (aggregate, version, n): a handler that runs twice emits the same id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from libs.common.bus.base import Record
from libs.common.clock import deterministic_uuid
from libs.common.errors import Poison
from libs.common.proofs import SIGNATURE, Proof, claims_of
from libs.common.store.base import OutboxEvent

DIRECT = "gantry-direct"
"""The header of events that are handed over directly besides: until when what comes of them is, too (Unix seconds)."""


class Event(BaseModel):
    """Base of all events. Unknown fields are ignored, so that producers may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    TOPIC: ClassVar[str]
    VERSION: ClassVar[int] = 1

    def subject(self) -> str:
        """The id of what the event is about; also the partition key."""
        raise TypeError(f"{type(self).__name__} must say its subject")

    @classmethod
    def type_name(cls) -> str:
        """The CloudEvents type."""
        return f"gantry.{cls.TOPIC}.v{cls.VERSION}"


@dataclass(frozen=True, slots=True)
class Cause:
    """What an event came from: ids for the chain, the W3C trace to go on with, and until when it goes directly."""

    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""
    direct_until: float = 0.0


NO_CAUSE = Cause()


@dataclass(frozen=True, slots=True)
class Envelope:
    """The CloudEvents attributes of one event."""

    id: str
    source: str
    type: str
    subject: str
    time: float
    sequence: int
    cause: Cause = NO_CAUSE
    proof: Proof | None = None

    def caused(self) -> Cause:
        """The cause to give to events that a handler of this one emits."""
        return replace(
            self.cause,
            correlation_id=self.cause.correlation_id or self.id,
            causation_id=self.id,
        )


def seal(
    events: Iterable[Event],
    *,
    source: str,
    sequence: int,
    now: float,
    cause: Cause = NO_CAUSE,
    aggregate: str = "",
) -> tuple[OutboxEvent, ...]:
    """Make outbox entries of events that one write (to aggregate version `sequence`) gives rise to.

    The id depends on (source, topic, subject, sequence, n), so sealing the same events again gives the same ids.
    `aggregate` goes in too where several documents speak about one subject (requests about one app).
    """
    common = _common_headers(source, sequence, now, cause)
    return tuple(
        _seal_one(event, n, source, sequence, aggregate, common) for n, event in enumerate(events)
    )


Headers = tuple[tuple[str, bytes], ...]


def _common_headers(source: str, sequence: int, now: float, cause: Cause) -> Headers:
    """Headers that all events of one write have."""
    known = (
        ("ce_correlationid", cause.correlation_id),
        ("ce_causationid", cause.causation_id),
        ("traceparent", cause.traceparent),
        (DIRECT, f"{cause.direct_until:.0f}" if cause.direct_until > now else ""),
    )
    return (
        *_written(source, now),
        ("ce_sequence", b"%d" % sequence),
        *((name, value.encode()) for name, value in known if value),
    )


@lru_cache(maxsize=16)
def _written(source: str, now: float) -> Headers:
    """Headers that all events have which a service seals at a time."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_source", f"/gantry/{source}".encode()),
        ("ce_time", _rfc3339(now).encode()),
        ("content-type", b"application/json"),
    )


def _seal_one(
    event: Event, n: int, source: str, sequence: int, aggregate: str, common: Headers
) -> OutboxEvent:
    subject = event.subject()
    about = (aggregate,) if aggregate else ()
    ce_id = deterministic_uuid(source, event.TOPIC, subject, sequence, n, *about)
    key = subject.encode()
    own = (
        ("ce_id", ce_id.encode()),
        ("ce_type", event.type_name().encode()),
        ("ce_subject", key),
        ("ce_partitionkey", key),
    )
    return OutboxEvent(
        id=ce_id,
        topic=event.TOPIC,
        key=subject,
        value=event.model_dump_json(by_alias=True).encode(),
        headers=(*own, *common),
    )


def to_record(entry: OutboxEvent) -> Record:
    """The bus record of an outbox entry."""
    return Record(entry.topic, entry.key, entry.value, entry.headers)


@dataclass(frozen=True)
class EventTypes:
    """A table from CloudEvents type to event class."""

    by_type: Mapping[str, type[Event]]

    @classmethod
    def of(cls, classes: Iterable[type[Event]]) -> Self:
        """The table of `classes`."""
        return cls({each.type_name(): each for each in classes})

    def open(self, record: Record) -> tuple[Event, Envelope]:
        """Validate a record. Raises Poison saying what is wrong with it."""
        headers = {name: value.decode(errors="replace") for name, value in record.headers}
        envelope = _envelope(headers, record.value)
        event_class = self.by_type.get(envelope.type)
        if event_class is None:
            raise Poison(f"unknown event type {envelope.type!r} on topic {record.topic!r}")
        if record.topic != event_class.TOPIC:
            raise Poison(f"type {envelope.type!r} does not belong on topic {record.topic!r}")
        try:
            # Models that refuse unknown fields of users (AppSpec's parts) must ignore those of newer producers.
            event = event_class.model_validate_json(record.value, extra="ignore")
        except ValidationError as error:
            # Without what was wrong itself: the reason is logged, and a spec's env may hold secrets.
            found = error.errors(include_url=False, include_input=False, include_context=False)
            raise Poison(f"{envelope.type}: {found}") from None
        if event.subject() != envelope.subject:
            raise Poison(f"ce_subject {envelope.subject!r} is not the event's {event.subject()!r}")
        return event, envelope


def _envelope(headers: Mapping[str, str], value: bytes) -> Envelope:
    signature = headers.get(SIGNATURE, "")
    try:
        return Envelope(
            id=headers["ce_id"],
            source=headers["ce_source"],
            type=headers["ce_type"],
            subject=headers["ce_subject"],
            time=datetime.fromisoformat(headers["ce_time"]).timestamp(),
            sequence=int(headers["ce_sequence"]),
            cause=Cause(
                headers.get("ce_correlationid", ""),
                headers.get("ce_causationid", ""),
                headers.get("traceparent", ""),
                float(int(headers.get(DIRECT, "0"))),
            ),
            proof=Proof(signature, claims_of(headers, value)) if signature else None,
        )
    except KeyError as error:
        raise Poison(f"CloudEvents header {error.args[0]!r} is missing") from None
    except ValueError as error:
        raise Poison(f"CloudEvents header is malformed: {error}") from None


def _rfc3339(now: float) -> str:
    return (
        datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    )
