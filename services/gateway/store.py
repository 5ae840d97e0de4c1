"""The gateway's collections behind typed methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libs.common.errors import Unavailable
from libs.common.store.base import (
    Collection,
    CollectionSpec,
    Doc,
    Index,
    Op,
    OutboxEvent,
    Outcome,
    Query,
    Schema,
    Store,
    VersionConflict,
    Where,
    Write,
    WriteResult,
    eq,
)
from libs.common.store.paging import documents
from libs.common.store.shapes import known_to
from services.gateway.core import FIRST_KEY
from services.gateway.model import (
    ApiKey,
    AuditEntry,
    Host,
    HostToken,
    KeyId,
    Operation,
    OperationState,
    ProducerKey,
    Replay,
    Tenant,
)

KEYS = CollectionSpec(
    "gateway_keys", (Index("bu", ("bu",)),), Schema(known=known_to(ApiKey, by_id=True))
)
TENANTS = CollectionSpec("gateway_tenants", schema=Schema(known=known_to(Tenant)))
OPERATIONS = CollectionSpec(
    "gateway_operations",
    (
        Index("deployment", ("deployment",), unique=True),
        Index("started_at", ("started_at",)),
        Index("target", ("target", "started_at")),
        Index("state", ("state", "started_at")),
    ),
    Schema(known=known_to(Operation, by_id=True, without_none=True)),
)
PRODUCERS = CollectionSpec(
    "gateway_producers", (Index("bu", ("bu",)),), Schema(known=known_to(ProducerKey, by_id=True))
)
AUDIT = CollectionSpec(
    "gateway_audit",
    (Index("bu", ("bu",)), Index("time", ("time",))),
    Schema(known=known_to(AuditEntry, by_id=True, without_none=True)),
)
REPLAYS = CollectionSpec(
    "gateway_replays", (Index("at", ("at",)),), Schema(known=known_to(Replay, by_id=True))
)
HOSTS = CollectionSpec(
    "gateway_hosts",
    (Index("generation", ("generation",)),),
    Schema(known=known_to(Host, by_id="host")),
)
HOST_TOKENS = CollectionSpec(
    "gateway_host_tokens",
    (Index("created_at", ("created_at",)), Index("expires_at", ("expires_at",))),
    Schema(known=known_to(HostToken, by_id=True)),
)

_WRITE_TRIES = 8


@dataclass(frozen=True, slots=True)
class Versioned:
    """An operation, the version of its document, and its events that the bus has yet to take."""

    operation: Operation
    version: int
    unsent: tuple[OutboxEvent, ...] = ()


@dataclass(frozen=True)
class Repository:
    """All that the gateway stores. Methods raise Unavailable or TimedOut when the store is away."""

    keys: Collection
    tenants: Collection
    operations: Collection
    audit: Collection
    replays: Collection
    producers: Collection
    hosts: Collection
    host_tokens: Collection

    @property
    def outboxes(self) -> tuple[Collection, ...]:
        """The collections whose documents carry events."""
        return (self.operations, self.replays, self.hosts, self.host_tokens)

    @classmethod
    async def open(cls, store: Store) -> Repository:
        """The repository, its collections made if need be."""
        return cls(
            await store.collection(KEYS),
            await store.collection(TENANTS),
            await store.collection(OPERATIONS),
            await store.collection(AUDIT),
            await store.collection(REPLAYS),
            await store.collection(PRODUCERS),
            await store.collection(HOSTS),
            await store.collection(HOST_TOKENS),
        )

    # -- keys and business units -----------------------------------------------------------------

    async def key(self, key_id: KeyId) -> ApiKey | None:
        """The key, or None."""
        doc = await self.keys.get(key_id)
        return ApiKey.model_validate({**doc.body, "id": doc.id}) if doc else None

    async def list_keys(self, bu: str) -> list[ApiKey]:
        """The keys of a business unit ("*": of all), oldest first."""
        where = () if bu == "*" else (eq("bu", bu),)
        page = await self.keys.find(Query(where, order="created_at", limit=1000))
        return [ApiKey.model_validate({**doc.body, "id": doc.id}) for doc in page.docs]

    async def add_key(self, key: ApiKey) -> bool:
        """Save a new key and its business unit; False when the id is taken."""
        if key.bu != "*":
            tenant = Tenant(bu=key.bu, created_at=key.created_at)
            await _write(self.tenants, Write(tenant.bu, 0, tenant.model_dump(mode="json")))
        body = key.model_dump(mode="json", exclude={"id"})
        return (await _write(self.keys, Write(key.id, 0, body))).ok

    async def revoke_key(self, key_id: KeyId, now: float) -> ApiKey | None:
        """Revoke the key from `now` on and return it; None when there is none."""
        for _ in range(_WRITE_TRIES):
            doc = await self.keys.get(key_id)
            if doc is None:
                return None
            key = ApiKey.model_validate({**doc.body, "id": doc.id})
            if key.revoked_at is not None:
                return key
            body = {**doc.body, "revoked_at": now}
            if (await _write(self.keys, Write(doc.id, doc.version, body))).ok:
                return key.model_copy(update={"revoked_at": now})
        raise Unavailable(f"key {key_id} is being changed by others")

    async def list_tenants(self) -> list[Tenant]:
        """All business units that have keys."""
        page = await self.tenants.find(Query(limit=1000))
        return [Tenant.model_validate(doc.body) for doc in page.docs]

    # -- producers' keys -------------------------------------------------------------------------

    async def producer_key(self, key_id: str) -> ProducerKey | None:
        """The key, or None."""
        doc = await self.producers.get(key_id)
        return ProducerKey.model_validate({**doc.body, "id": doc.id}) if doc else None

    async def list_producer_keys(self, bu: str) -> list[ProducerKey]:
        """The keys of a business unit ("*": of all), oldest first."""
        where = () if bu == "*" else (eq("bu", bu),)
        page = await self.producers.find(Query(where, order="created_at", limit=1000))
        return [ProducerKey.model_validate({**doc.body, "id": doc.id}) for doc in page.docs]

    async def count_producer_keys(self, bu: str) -> int:
        """How many keys a business unit has."""
        return await self.producers.count((eq("bu", bu),))

    async def add_producer_key(self, key: ProducerKey) -> bool:
        """Save a new key; False when the id is taken."""
        body = key.model_dump(mode="json", exclude={"id"})
        return (await _write(self.producers, Write(key.id, 0, body))).ok

    async def remove_producer_key(self, key_id: str) -> None:
        """Delete the key; nothing when there is none."""
        doc = await self.producers.get(key_id)
        if doc is not None:
            await self.producers.delete(key_id, doc.version)

    # -- hosts -----------------------------------------------------------------------------------

    async def host(self, name: str) -> tuple[Host, int]:
        """The host and its document's version; one that nobody has heard of is at version 0."""
        doc = await self.hosts.get(name)
        if doc is None:
            return Host(host=name), 0
        return Host.model_validate({**doc.body, "host": doc.id}), doc.version

    async def save_host(self, host: Host, version: int, events: Sequence[OutboxEvent] = ()) -> None:
        """Replace the host at `version` (0: insert). Raises VersionConflict when somebody else was first."""
        body = host.model_dump(mode="json", exclude={"host"})
        if not (await _write(self.hosts, Write(host.host, version, body, tuple(events)))).ok:
            raise VersionConflict(host.host)

    async def list_hosts(self) -> list[Host]:
        """All that have enrolled, renewed or were removed, by name."""
        docs = documents(self.hosts)
        return [Host.model_validate({**doc.body, "host": doc.id}) async for doc in docs]

    async def generations(self) -> dict[str, int]:
        """The generation of the keys of all hosts that were ever removed."""
        docs = documents(self.hosts, (Where("generation", Op.GT, 0),))
        return {doc.id: int(doc.body["generation"]) async for doc in docs}

    async def host_token(self, token_id: str) -> tuple[HostToken, int] | None:
        """The token and its document's version, or None."""
        doc = await self.host_tokens.get(token_id)
        return (_host_token(doc), doc.version) if doc else None

    async def list_host_tokens(self, limit: int) -> list[HostToken]:
        """The newest tokens."""
        query = Query(order="created_at", descending=True, limit=limit)
        return [_host_token(doc) for doc in (await self.host_tokens.find(query)).docs]

    async def save_host_token(
        self, token: HostToken, version: int, events: Sequence[OutboxEvent] = ()
    ) -> None:
        """Replace the token at `version` (0: insert). Raises VersionConflict when somebody else was first."""
        body = token.model_dump(mode="json", exclude={"id"})
        if not (await _write(self.host_tokens, Write(token.id, version, body, tuple(events)))).ok:
            raise VersionConflict(token.id)

    # -- operations ------------------------------------------------------------------------------

    async def operation(self, operation_id: str) -> Versioned | None:
        """The operation with its document's version, or None."""
        doc = await self.operations.get(operation_id)
        return _versioned(doc) if doc else None

    async def save_operation(
        self, operation: Operation, version: int, events: Sequence[OutboxEvent] = ()
    ) -> int:
        """Replace the operation at `version` (0: insert), events in its outbox; the new version.

        Raises VersionConflict when somebody else was first.
        """
        body = operation.model_dump(mode="json", exclude={"id"}, exclude_none=True)
        result = await _write(
            self.operations, Write(operation.id, version, body, events=tuple(events))
        )
        if not result.ok:
            raise VersionConflict(operation.id)
        return version + 1

    async def running_since(self, before: float, limit: int) -> list[Versioned]:
        """Operations that were begun before then (Unix seconds) and are not over, oldest first."""
        where = (eq("state", OperationState.RUNNING), Where("started_at", Op.LT, before))
        page = await self.operations.find(Query(where, order="started_at", limit=limit))
        return [_versioned(doc) for doc in page.docs]

    async def operation_of(self, deployment: str) -> Versioned | None:
        """The operation that asked for a deployment, or None."""
        page = await self.operations.find(Query((eq("deployment", deployment),), limit=1))
        return _versioned(page.docs[0]) if page.docs else None

    async def operations_on(self, target: str, limit: int) -> list[Versioned]:
        """The newest operations on an app that are deployments."""
        where = (eq("target", target), Where("deployment", Op.EXISTS, True))
        page = await self.operations.find(
            Query(where, order="started_at", descending=True, limit=limit)
        )
        return [_versioned(doc) for doc in page.docs]

    # -- audit trail -----------------------------------------------------------------------------

    async def add_audit(self, entry: AuditEntry) -> None:
        """Append a line; one that is there already stays as it is."""
        body = entry.model_dump(mode="json", exclude={"id"}, exclude_none=True)
        await _write(self.audit, Write(entry.id, 0, body))

    async def list_audit(self, bu: str, before: str, limit: int) -> tuple[list[AuditEntry], bool]:
        """A page of lines, newest first, older than the one called `before`; and whether more follow."""
        where = () if bu == "*" else (eq("bu", bu),)
        page = await self.audit.find(Query(where, descending=True, after=before, limit=limit))
        entries = [AuditEntry.model_validate({**doc.body, "id": doc.id}) for doc in page.docs]
        return entries, page.more

    # -- replays of dead letters -----------------------------------------------------------------

    async def replays_of(self, ids: Sequence[str]) -> dict[str, tuple[Replay, int]]:
        """Those of the replays that there were, each with its document's version, by id."""
        found = await self.replays.get_many(ids)
        return {
            doc.id: (Replay.model_validate({**doc.body, "id": doc.id}), doc.version)
            for doc in found.values()
        }

    async def save_replays(
        self, replays: Sequence[tuple[Replay, int, OutboxEvent]]
    ) -> dict[str, bool]:
        """Write each at the version given (0: the first), with the event to publish; which took effect, by id."""
        writes = [
            Write(replay.id, version, replay.model_dump(mode="json", exclude={"id"}), (event,))
            for replay, version, event in replays
        ]
        results = await self.replays.replace_many(writes)
        return {write.id: result.ok for write, result in zip(writes, results, strict=True)}

    # -- clean-up --------------------------------------------------------------------------------

    async def prune(self, operations_before: float, audit_before: float, limit: int = 500) -> int:
        """Delete what is older (Unix seconds), at most `limit` of each; how many went."""
        gone = 0
        for collection, field, before in (
            (self.operations, "started_at", operations_before),
            (self.host_tokens, "expires_at", operations_before),
            (self.audit, "time", audit_before),
            (self.replays, "at", audit_before),
            (self.keys, "revoked_at", audit_before),
            (self.keys, "expires_at", audit_before),
        ):
            old = Query((Where(field, Op.LT, before),), order=field, limit=limit)
            for doc in (await collection.find(old)).docs:
                # Without its document the first key would be made anew at the next start.
                if doc.id != FIRST_KEY:
                    gone += (await collection.delete(doc.id, doc.version)).ok
        return gone


def _versioned(doc: Doc) -> Versioned:
    operation = Operation.model_validate({**doc.body, "id": doc.id})
    return Versioned(operation, doc.version, doc.outbox)


def _host_token(doc: Doc) -> HostToken:
    return HostToken.model_validate({**doc.body, "id": doc.id})


async def _write(collection: Collection, write: Write) -> WriteResult:
    (result,) = await collection.replace_many([write])
    if result.outcome is Outcome.FENCED:
        raise Unavailable("the store refused an unfenced write")
    return result
