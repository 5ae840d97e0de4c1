"""The gateway's life: its parts put together, the audit trail filled from events, old records pruned."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable

from libs.common.backoff import Backoff
from libs.common.errors import GantryError, Unavailable
from libs.common.events import TOPICS, Envelope
from libs.common.events import model as ev
from libs.common.runtime import Ready, Runtime
from libs.common.waiting import TaskGroup, lasting
from services.gateway.api import routes
from services.gateway.auth import Gate, Sessions
from services.gateway.chronos.face import ChronosFace
from services.gateway.chronos.model import Version
from services.gateway.core import bu_of_target
from services.gateway.dead import DeadLetters
from services.gateway.face import PublicFace
from services.gateway.feed import Slots, Spawn
from services.gateway.hosts import Hosts
from services.gateway.keyfile import DiskKeyFile, KeyFile
from services.gateway.keys import KeyRing
from services.gateway.model import AuditEntry, GatewayConfig
from services.gateway.operations import Operations
from services.gateway.parts import Gateway
from services.gateway.peers import HostTokens, Peers
from services.gateway.producers import Producers
from services.gateway.store import Repository

PRUNE_EVERY_S = 600.0
PRUNE_BATCH = 500
KEY_FILE = "admin.key"


async def run(rt: Runtime) -> None:
    """Serve until cancelled."""
    await run_with(rt, DiskKeyFile(rt.common.data_dir / KEY_FILE))


async def run_with(rt: Runtime, key_file: KeyFile) -> None:
    """The same, with the first admin key put elsewhere."""
    repository = await Repository.open(rt.store)
    relay = rt.relay(repository.outboxes)
    operations = Operations(repository, relay, rt.courier(), rt.clock, rt.ids)
    async with TaskGroup() as group:

        def spawn(coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
            return group.create_task(coroutine)

        gateway = assemble(rt, repository, operations, spawn)
        await gateway.keys.make_first(key_file)
        trail = AuditTrail(repository)
        pruning = rt.queue("prune", Pruner(gateway).prune, workers=1)
        inner = rt.http_app(routes(gateway), authenticate=gateway.gate, ready=_ready(repository))
        spoken = frozenset(Version(each) for each in gateway.config.chronos.versions)
        outer = PublicFace(ChronosFace(inner, spoken), rt.ids)
        async with rt.serve(outer):
            group.create_task(make_topics(rt))
            group.create_task(lasting(relay.run()), name="relay")
            subscription = rt.subscription({ev.AuditRecorded: trail.on_recorded})
            group.create_task(lasting(subscription.run()))
            await pruning.run(_once, PRUNE_EVERY_S)


def assemble(rt: Runtime, repository: Repository, operations: Operations, spawn: Spawn) -> Gateway:
    """The parts of a gateway."""

    async def generation_of(host: str) -> int:
        known, _ = await repository.host(host)
        return known.generation

    config = rt.section(GatewayConfig)
    file = config.agent_credential_file
    gate = Gate(repository, rt.verify, config, rt.clock)
    return Gateway(
        cluster=rt.common.cluster,
        config=config,
        clock=rt.clock,
        bus=rt.bus,
        log=rt.telemetry.log,
        repository=repository,
        operations=operations,
        dead=DeadLetters(rt.bus, repository, operations.relay, rt.clock),
        keys=KeyRing(repository, operations, gate, rt.clock, rt.secret),
        producers=Producers(repository, operations, rt.clock),
        hosts=Hosts(repository, operations, gate, rt.clock, rt.secret, file),
        gate=gate,
        sessions=Sessions(rt.secret, gate, rt.clock, config.session_s),
        peers=Peers(
            rt.peers, config.peer_timeout_s, HostTokens(rt.secret, rt.clock, generation_of)
        ),
        slots=Slots(config.max_streams, config.max_streams_per_key),
        spawn=spawn,
    )


async def make_topics(rt: Runtime) -> None:
    """Make all topics there are, once the bus is there: what followers outside read must not wait for a first event."""
    backoff, failures = Backoff(0.5, 30.0), 0
    while True:
        try:
            await rt.bus.ensure_topics(TOPICS)
            return
        except Unavailable as error:
            failures += 1
            rt.telemetry.log.warning("topics not made", error=str(error))
            await rt.clock.sleep(backoff.delay_s(failures, rt.rng))


class AuditTrail:
    """Keeps what all services record, for `GET /v1/audit`."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def on_recorded(self, event: ev.AuditRecorded, envelope: Envelope) -> None:
        """Append a line; the same event again changes nothing."""
        entry = AuditEntry(
            # Ids sort by time, so that a page is a range of them.
            id=f"{round(envelope.time * 1_000_000):017d}-{envelope.id}",
            time=envelope.time,
            source=envelope.source,
            bu=bu_of_target(event.target),
            **event.model_dump(),
        )
        await self._repository.add_audit(entry)


class Pruner:
    """Closes operations that were forgotten; deletes those, and audit lines, that are older than configured."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def prune(self, _key: str) -> float | None:
        """Delete a batch; come back at once when it was a full one."""
        config, now = self._gateway.config, self._gateway.clock.now()
        await self._gateway.operations.close_forgotten()
        gone = await self._gateway.repository.prune(
            now - config.idempotency_s, now - config.audit_s, PRUNE_BATCH
        )
        return 1.0 if gone >= PRUNE_BATCH else None


async def _once() -> Iterable[str]:
    return ("all",)


def _ready(repository: Repository) -> Ready:
    async def ready() -> str:
        try:
            await repository.tenants.count()
        except GantryError as error:
            return str(error)
        return ""

    return ready
