"""Direct delivery: what must not wait for the bus is handled at once, and only from who may write it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import orjson
import pytest

from libs.common.bus.memory import MemoryBus
from libs.common.consume import Handlers, Subscription
from libs.common.direct import GIVE_UP_S, INBOX, PARCEL_RECORDS, WAYS, Courier, Parcel, Way, inbox
from libs.common.errors import Forbidden, InvalidInput, Unavailable
from libs.common.events import Cause, Envelope, Event, seal, to_record
from libs.common.events import model as ev
from libs.common.http import HttpApp, Kind
from libs.common.peers import LocalServices, PeerClient
from libs.common.proofs import ServiceProofs
from libs.common.store.base import OutboxEvent
from libs.common.telemetry import Telemetry
from libs.common.tokens import TokenSigner, TokenVerifier, derive_key
from tests.simulation.loop import World, virtual
from tests.unit.common.helpers import Lines

SECRET = b"s" * 32


def stop(instance: str, n: int = 1, until: float = 2e9, source: str = "deployer") -> OutboxEvent:
    """A request to stop an instance, `n` its sequence."""
    event = ev.InstanceStopRequested(instance=instance, app="acme/web", reason="enough")
    cause = Cause("corr", "", "", until)
    return seal([event], source=source, sequence=n, now=1.7e9, cause=cause)[0]


@dataclass
class Desk:
    """A scheduler with an inbox, and couriers of others to it."""

    world: World
    heard: list[tuple[Event, Envelope]] = field(default_factory=list)
    log: Lines = field(default_factory=Lines)
    trouble: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.local = LocalServices()
        telemetry = Telemetry("scheduler", Lines())
        handlers: Handlers = {
            ev.InstanceStopRequested: self.handle,
            ev.InstanceRequested: self.handle,
        }
        bus, clock = MemoryBus(self.world.clock), self.world.clock
        subscription = Subscription("scheduler", handlers, bus, clock, self.world.rng, telemetry)
        routes = [inbox("scheduler", [subscription])]
        verify = TokenVerifier(SECRET, clock)
        self.app = HttpApp(routes, verify, monotonic=clock.monotonic)
        self.local.apps["scheduler"] = self.app

    async def handle(self, event: Event, envelope: Envelope) -> None:
        if self.trouble:
            raise self.trouble.pop(0)
        self.heard.append((event, envelope))

    def client(self, service: str = "deployer", kind: Kind = Kind.SERVICE) -> PeerClient:
        signer = TokenSigner(kind, service, derive_key(SECRET, kind, service), self.world.clock)
        return PeerClient(signer, {}, self.local)

    def courier(self, service: str = "deployer") -> Courier:
        return Courier(
            self.client(service),
            ServiceProofs(SECRET).sign,
            clock=self.world.clock,
            rng=self.world.rng,
            log=self.log,
        )

    def seen(self) -> list[tuple[str, int]]:
        """Subjects and sequences, as they were handled."""
        return [(envelope.subject, envelope.sequence) for _, envelope in self.heard]


@virtual
async def test_a_reader_gets_the_very_same_event(world: World) -> None:
    desk = Desk(world)
    sent = stop("i1", 7)
    await desk.courier().deliver([sent])
    ((event, envelope),) = desk.heard
    assert event == ev.InstanceStopRequested(instance="i1", app="acme/web", reason="enough")
    assert (envelope.id, envelope.sequence, envelope.cause.direct_until) == (sent.id, 7, 2e9)
    assert envelope.caused().direct_until == 2e9, "what comes of it goes directly, too"


@virtual
async def test_only_what_bears_the_header_is_posted_and_only_for_its_time(world: World) -> None:
    desk = Desk(world)
    courier = desk.courier()
    late = stop("i2", until=1.6e9)
    assert "gantry-direct" not in dict(late.headers)
    elsewhere = replace(stop("i3"), topic="deploy.progressed")
    courier.post([late, elsewhere, stop("i1")])
    task = asyncio.create_task(courier.run())
    await world.clock.sleep(1.0)
    task.cancel()
    assert desk.seen() == [("i1", 1)]


@virtual
async def test_an_instances_events_keep_their_order_in_parcels_of_bounded_size(
    world: World,
) -> None:
    desk = Desk(world)
    courier = desk.courier()
    big = replace(stop("big"), value=stop("big").value[:-1] + b" " * 390_000 + b"}")
    posted = [stop(f"i{n % 7}", n) for n in range(2 * PARCEL_RECORDS)]
    courier.post([*posted, big, stop("i1", 900), big])
    task = asyncio.create_task(courier.run())
    await world.clock.sleep(5.0)
    task.cancel()
    assert len(desk.heard) == len(posted) + 3
    for name in {subject for subject, _ in desk.seen()} - {"big"}:
        numbers = [n for subject, n in desk.seen() if subject == name]
        assert numbers == sorted(numbers)
    assert desk.log.lines == []


@virtual
async def test_a_reader_that_is_away_is_asked_again_and_not_for_ever(world: World) -> None:
    desk = Desk(world)
    courier = desk.courier()
    task = asyncio.create_task(courier.run())
    desk.trouble = [
        Unavailable("the store is away"),
        RuntimeError("a bug"),
        asyncio.CancelledError(),  # leaked out of a client
    ]
    courier.post([stop("i1")])
    await world.clock.sleep(5.0)
    assert desk.seen() == [("i1", 1)] and desk.log.of("error") == []
    del desk.local.apps["scheduler"]
    courier.post([stop("i2")])
    await world.clock.sleep(GIVE_UP_S + 5.0)
    assert desk.log.of("error") == ["not handed over"]
    desk.local.apps["scheduler"] = desk.app
    courier.post([stop("i3")])
    await world.clock.sleep(1.0)
    task.cancel()
    assert desk.seen() == [("i1", 1), ("i3", 1)], "what was given up comes by the bus"


@virtual
async def test_a_parcel_that_is_refused_holds_nothing_up(world: World) -> None:
    desk = Desk(world)
    courier = desk.courier()
    courier.post([replace(stop("i1"), value=b"no JSON")])
    task = asyncio.create_task(courier.run())
    await world.clock.sleep(1.0)
    courier.post([stop("i2")])
    await world.clock.sleep(1.0)
    task.cancel()
    assert desk.seen() == [("i2", 1)]
    assert desk.log.of("error") == ["refused what was handed over"]


@virtual
async def test_who_may_not_write_it_may_not_hand_it_over(world: World) -> None:
    desk = Desk(world)
    for thief in ("gateway", "monitor", "scheduler"):
        with pytest.raises(Forbidden, match=f"{thief} may not hand"):
            await desk.courier(thief).deliver([stop("i1")])
    with pytest.raises(Forbidden, match="may not hand over what '/gantry/gateway' wrote"):
        await desk.courier().deliver([stop("i1", source="gateway")])
    parcel = _parcel(stop("i1"))
    for client in (desk.client("host-1", Kind.HOST), PeerClient(None, {}, desk.local)):
        assert (await client.call("scheduler", "PUT", INBOX, body=parcel)).status in (401, 403)
    assert desk.heard == []


@virtual
async def test_topics_without_an_inbox_are_refused(world: World) -> None:
    desk = Desk(world)
    audit = ev.AuditRecorded(actor="eve", action="x", target="acme/web", allowed=True)
    (sealed,) = seal([audit], source="deployer", sequence=1, now=0.0)
    await desk.courier().deliver([sealed])  # left to the bus
    answer = await desk.client().call("scheduler", "PUT", INBOX, body=_parcel(sealed))
    assert answer.status == 403 and desk.heard == []
    for body in (b"", b"{}", b'{"records": []}', b"[]"):
        answer = await desk.client().call("scheduler", "PUT", INBOX, body=body)
        assert answer.status == 422


@virtual
async def test_what_is_not_what_it_says_is_its_writers_fault(world: World) -> None:
    desk = Desk(world)
    with pytest.raises(InvalidInput, match="ce_subject"):
        wrong = replace(stop("i1"), value=stop("i2").value)
        await desk.courier().deliver([wrong])
    assert desk.heard == []


def test_every_way_ends_at_another_service_and_has_one_writer() -> None:
    assert all(way.writer != way.reader for way in WAYS.values())
    assert WAYS["deploy.requested"] == Way("gateway", "deployer")
    assert "audit.recorded" not in WAYS


def _parcel(event: OutboxEvent) -> bytes:
    record = to_record(event)
    handed = {
        "topic": record.topic,
        "key": record.key,
        "value": record.value.decode(),
        "headers": {name: value.decode() for name, value in record.headers},
    }
    body = orjson.dumps({"records": [handed]})
    assert Parcel.model_validate_json(body).records[0].record() == record
    return body
