"""The envelope: deterministic ids, causes handed on, and a reason for each kind of poison."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid5

import pytest

from libs.common.bus.base import Record
from libs.common.clock import deterministic_uuid
from libs.common.errors import Poison
from libs.common.events import EVENT_TYPES, Cause, seal, to_record
from libs.common.events import model as ev

JOINED = ev.NodeJoined(agent="a1", hostname="h1")


def record(**changes: bytes | None) -> Record:
    """A good record with some headers changed (None: left out)."""
    made = to_record(seal([JOINED], source="monitor", sequence=3, now=1000.5)[0])
    headers = {**dict(made.headers), **changes}
    return replace(made, headers=tuple((n, v) for n, v in headers.items() if v is not None))


def test_ids_depend_on_all_that_tells_events_apart() -> None:
    def ids(source: str = "s", sequence: int = 1, agent: str = "a") -> list[str]:
        node = ev.NodeJoined(agent=agent, hostname="h")
        lost = ev.NodeLost(agent=agent, hostname="h")
        return [e.id for e in seal([node, node, lost], source=source, sequence=sequence, now=0.0)]

    assert ids() == ids()
    everything = [*ids(), *ids(source="t"), *ids(sequence=2), *ids(agent="b")]
    assert len(set(everything)) == 12


def test_ids_are_version_5_uuids_of_our_namespace() -> None:
    namespace = UUID("6f4d1c1e-4f0b-5a56-9d0e-0a1d5a1f6b77")
    for n in range(100):  # each of the four variants' digits comes up
        assert deterministic_uuid("ä", n) == str(uuid5(namespace, f"ä\x1f{n}"))


def test_an_event_comes_back_with_its_envelope() -> None:
    cause = Cause("corr", "cause", "00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    (entry,) = seal([JOINED], source="monitor", sequence=3, now=1000.5, cause=cause)
    event, envelope = EVENT_TYPES.open(to_record(entry))
    assert event == JOINED
    assert (envelope.source, envelope.subject, envelope.sequence) == ("/gantry/monitor", "a1", 3)
    assert (envelope.time, envelope.cause, envelope.proof) == (1000.5, cause, None)
    assert envelope.caused() == Cause("corr", entry.id, cause.traceparent)
    assert replace(envelope, cause=Cause()).caused().correlation_id == entry.id


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (record(ce_id=None), "ce_id"),
        (record(ce_sequence=None), "ce_sequence"),
        (record(ce_sequence=b"x"), "malformed"),
        (record(ce_time=b"yesterday"), "malformed"),
        (record(ce_type=b"gantry.node.joined.v9"), "unknown event type"),
        (record(ce_subject=b"somebody"), "ce_subject"),
        (replace(record(), topic="node.lost"), "does not belong"),
        (replace(record(), value=b"{"), "Invalid JSON"),
        (replace(record(), value=b"[]"), "node.joined"),
        (replace(record(), value=b'{"agent": 1, "hostname": "h"}'), "agent"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(broken: Record, reason: str) -> None:
    with pytest.raises(Poison, match=reason):
        EVENT_TYPES.open(broken)
