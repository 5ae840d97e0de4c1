"""Business units' secrets and registry logins: kept sealed, by name, each change a version. Values never leave in clear
but to what runs with them (delivery.py) and to the registry.

A value is sealed under every secret that the cluster has. When those change, a sweep seals anew what is behind, so that
a secret can be retired without losing a value.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping

import orjson

from libs.common.actor import Actor
from libs.common.clock import Clock
from libs.common.delivery import is_text
from libs.common.errors import NotFound, TooMany, Unavailable
from libs.common.events import model as ev
from libs.common.events import seal
from libs.common.sealing import Sealer, label_of
from libs.common.store.base import Collection, Op, OutboxEvent, Where, Write, eq
from libs.common.store.paging import documents
from libs.common.telemetry import Telemetry
from services.deployer.entries import Entry, Kind, entry_id
from services.deployer.registry import ImageRef, Login

PURPOSE = "business-unit-vault"
TRIES = 8
PAGE = 200


MAX_ENTRIES: Mapping[Kind, int] = {Kind.SECRET: 200, Kind.REGISTRY: 20}
"""Of one business unit."""


class Vault:
    """All entries. Methods raise Unavailable when the store can't be reached."""

    def __init__(
        self,
        entries: Collection,
        sealer: Sealer,
        clock: Clock,
        telemetry: Telemetry,
        kick: Callable[[], None],
        default_registry: str,
    ) -> None:
        self._entries = entries
        self._sealer = sealer
        self._clock = clock
        self._log = telemetry.log
        self._kick = kick
        self._default_registry = default_registry
        self._behind = telemetry.gauge(
            "deployer_vault_behind", "Entries not sealed under the newest secret at the last sweep"
        )

    # -- changing ----------------------------------------------------------------------------------

    async def put_secret(self, bu: str, name: str, value: bytes, actor: Actor) -> Entry:
        """A new version, unless the value is the same. Raises TooMany."""
        return await self._put(bu, Kind.SECRET, name, value, actor)

    async def put_login(self, bu: str, registry: str, login: Login, actor: Actor) -> Entry:
        """The same for a registry's login."""
        content = orjson.dumps({"user": login.user, "password": login.password})
        return await self._put(bu, Kind.REGISTRY, registry, content, actor, login.user)

    async def _put(
        self, bu: str, kind: Kind, name: str, content: bytes, actor: Actor, user: str = ""
    ) -> Entry:
        key = entry_id(bu, kind, name)
        for _ in range(TRIES):
            doc = await self._entries.get(key)
            before = Entry.model_validate(doc.body) if doc is not None else None
            if before is None:
                await self._check_room(bu, kind)
            elif not before.removed and self._holds(before, content):
                return before
            now, version = self._clock.now(), before.version + 1 if before else 1
            entry = Entry(
                bu=bu,
                kind=kind,
                name=name,
                version=version,
                boxes=self._sealer.seal(content, f"{key}@{version}"),
                sealed_by="",
                text=is_text(content),
                user=user,
                created_at=before.created_at if before and not before.removed else now,
                updated_at=now,
                updated_by=actor.name,
            )
            if await self._save(entry, doc.version if doc else 0, self._audit(entry, actor, "put")):
                return entry
        raise Unavailable(f"{key} is being changed all the time")

    async def remove(self, bu: str, kind: Kind, name: str, actor: Actor) -> Entry:
        """Forget the value; what it was. Raises NotFound."""
        key = entry_id(bu, kind, name)
        for _ in range(TRIES):
            doc = await self._entries.get(key)
            entry = Entry.model_validate(doc.body) if doc is not None else None
            if doc is None or entry is None or entry.removed:
                raise NotFound(_missing(bu, kind, name))
            gone = entry.model_copy(update={"boxes": (), "updated_at": self._clock.now()})
            if await self._save(gone, doc.version, self._audit(entry, actor, "remove")):
                return entry
        raise Unavailable(f"{key} is being changed all the time")

    async def _check_room(self, bu: str, kind: Kind) -> None:
        if await self._entries.count((eq("bu", bu), eq("kind", kind.value))) >= MAX_ENTRIES[kind]:
            raise TooMany(f"{bu} has {MAX_ENTRIES[kind]} of kind {kind}; remove some first")

    def _holds(self, entry: Entry, content: bytes) -> bool:
        try:
            return self._sealer.open(entry.boxes, entry.about) == content
        except Unavailable:  # of a secret that is gone: the new value heals it
            return False

    async def _save(self, entry: Entry, version: int, events: tuple[OutboxEvent, ...]) -> bool:
        entry = entry.model_copy(update={"sealed_by": label_of(entry.boxes)})
        write = Write(entry.id, version, entry.model_dump(mode="json"), events)
        (result,) = await self._entries.replace_many([write])
        if result.ok and events:
            self._kick()
        return result.ok

    def _audit(self, entry: Entry, actor: Actor, verb: str) -> tuple[OutboxEvent, ...]:
        now = self._clock.now()
        line = ev.AuditRecorded(
            actor=actor.name,
            action=f"{entry.kind}.{verb}",
            target=entry.id,
            allowed=True,
            detail=f"version {entry.version}",
        )
        source = f"deployer/vault/{entry.id}/{verb}"
        # A name that is given anew begins with version 1 again: the time keeps the events' ids apart.
        return seal([line], source=source, sequence=int(now * 1_000_000), now=now)

    # -- reading -----------------------------------------------------------------------------------

    async def list(self, bu: str, kind: Kind) -> list[Entry]:
        """All of a business unit, by name."""
        where = (eq("bu", bu), eq("kind", kind.value))
        found = [entry async for entry, _ in self._pages(where)]
        return [each for each in found if not each.removed]

    async def known(self, bu: str, names: Iterable[str]) -> dict[str, bool]:
        """Which of these secrets there are, and which of those may be environment variables."""
        ids = [entry_id(bu, Kind.SECRET, name) for name in sorted(set(names))]
        docs = await self._entries.get_many(ids) if ids else {}
        found = [Entry.model_validate(doc.body) for doc in docs.values()]
        return {each.name: each.text for each in found if not each.removed}

    async def secrets(self, bu: str, names: Iterable[str]) -> dict[str, bytes]:
        """The values of all of them. Raises NotFound naming one that is missing."""
        wanted = sorted(set(names))
        ids = [entry_id(bu, Kind.SECRET, name) for name in wanted]
        docs = await self._entries.get_many(ids) if ids else {}
        found = {}
        for name, key in zip(wanted, ids, strict=True):
            entry = Entry.model_validate(docs[key].body) if key in docs else None
            if entry is None or entry.removed:
                raise NotFound(_missing(bu, Kind.SECRET, name))
            found[name] = self._open(entry)
        return found

    async def login(self, bu: str, image: str) -> Login | None:
        """The login of the unit at the image's registry, if it has one. Raises InvalidInput for a wrong reference."""
        registry = ImageRef.parse(image).host(self._default_registry)
        doc = await self._entries.get(entry_id(bu, Kind.REGISTRY, registry))
        entry = Entry.model_validate(doc.body) if doc is not None else None
        if entry is None or entry.removed:
            return None
        content = orjson.loads(self._open(entry))
        return Login(content["user"], content["password"])

    def _open(self, entry: Entry) -> bytes:
        try:
            return self._sealer.open(entry.boxes, entry.about)
        except Unavailable as error:
            raise Unavailable(f"{entry.kind} {entry.name!r} of {entry.bu}: {error}") from None

    # -- the sweep ---------------------------------------------------------------------------------

    async def tend(self, _key: str) -> None:
        """Seal anew what is behind the cluster's secrets, and drop what is removed. One round."""
        label = self._sealer.label
        # What this replica would seal just so is not read at all.
        other = (Where("sealed_by", Op.LT, label), Where("sealed_by", Op.GT, label))
        resealed = behind = 0
        for where in other:
            async for entry, version in self._pages((where,)):
                if entry.removed:
                    await self._entries.delete(entry.id, version)
                elif self._sealer.is_behind(entry.boxes):
                    done = await self._reseal(entry, version)
                    resealed, behind = resealed + done, behind + (not done)
        self._behind.set(behind)
        if resealed:
            self._log.info("vault sealed anew", entries=resealed, sealed_by=label)

    async def _reseal(self, entry: Entry, version: int) -> bool:
        try:
            content = self._sealer.open(entry.boxes, entry.about)
        except Unavailable:
            self._log.error("vault entry can't be opened", entry=entry.id)
            return False
        fresh = entry.model_copy(update={"boxes": self._sealer.seal(content, entry.about)})
        return await self._save(fresh, version, ())

    async def _pages(self, where: tuple[Where, ...]) -> AsyncIterator[tuple[Entry, int]]:
        async for doc in documents(self._entries, where, PAGE):
            yield Entry.model_validate(doc.body), doc.version


def _missing(bu: str, kind: Kind, name: str) -> str:
    what = "login at registry" if kind is Kind.REGISTRY else "secret"
    return f"business unit {bu} has no {what} {name!r}"
