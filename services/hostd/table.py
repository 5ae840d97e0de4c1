"""hostd's memory of its attachments, and the way every change of it goes: to disk first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from libs.common.clock import Clock
from services.hostd.batch import Batcher
from services.hostd.core import FIRST_OFPORT, pick_ofport
from services.hostd.model import Attachment, AttachmentId, Namespace, PendingRelease
from services.hostd.ports import Change, StateStore

Key = tuple[str, str]  # container, interface


class KeyLocks:
    """A lock a key, kept only while somebody holds or wants it."""

    def __init__(self) -> None:
        self._locks: dict[Key, tuple[asyncio.Lock, int]] = {}

    def is_held(self, key: Key) -> bool:
        """Does anybody hold it, or wait for it?"""
        return key in self._locks

    @asynccontextmanager
    async def hold(self, keys: Iterable[Key]) -> AsyncIterator[None]:
        """Hold all the keys' locks; taken in order, so that two callers can't wait for each other."""
        async with AsyncExitStack() as stack:
            for key in sorted(set(keys)):
                await stack.enter_async_context(self._one(key))
            yield

    @asynccontextmanager
    async def _one(self, key: Key) -> AsyncIterator[None]:
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)


class Table:
    """What is desired (saved), and what is known of it at present (not saved)."""

    def __init__(self, state: StateStore, clock: Clock) -> None:
        self._state = state
        self._attachments: dict[AttachmentId, Attachment] = {}
        self._ids: dict[Key, AttachmentId] = {}
        self._reserved: set[int] = set()
        self._saves: Batcher[Sequence[Change], None] = Batcher(self._save_all, clock, linger_s=0.0)
        self.locks = KeyLocks()
        self.doubtful: set[AttachmentId] = set()  # nobody knows what is on disk: save before acting
        self.releases: dict[str, PendingRelease] = {}  # by ipam key
        self.ready: dict[AttachmentId, Namespace] = {}  # wired, as far as we know
        self.registered: dict[AttachmentId, str] = {}  # the container id that was given leave last
        self.given_leave: set[AttachmentId] = set()  # at some time, used or not

    async def load(self) -> None:
        """Read what is on disk."""
        attachments, releases = await self._state.load()
        for each in attachments:
            self._put(each)
        self.releases = {each.ipam_key: each for each in releases}

    async def run(self) -> None:
        """Save what is handed in, until cancelled."""
        await self._saves.run()

    def all(self) -> list[Attachment]:
        """All attachments, oldest id first."""
        return [self._attachments[key] for key in sorted(self._attachments)]

    def get(self, attachment: AttachmentId) -> Attachment | None:
        """By id."""
        return self._attachments.get(attachment)

    def find(self, container: str, ifname: str) -> Attachment | None:
        """By container and interface; parked ones have no container any more."""
        key = self._ids.get((container, ifname))
        return self._attachments[key] if key is not None else None

    async def put(self, attachment: Attachment) -> Attachment:
        """Save a new or changed attachment. Raises Unavailable; then nobody knows whether it is on disk."""
        if attachment.id not in self._attachments:
            # Known at once, so that a retry or a DEL finds it, should it be on disk in spite of an error.
            self._put(attachment)
        self.doubtful.add(attachment.id)
        await self._saves.submit([attachment])
        self.doubtful.discard(attachment.id)
        self._put(attachment)
        return attachment

    async def park(self, parked: Attachment, release: PendingRelease | None) -> None:
        """Save an attachment as parked, and in the same transaction the release of its address."""
        self.doubtful.add(parked.id)
        await self._saves.submit([parked, *([release] if release is not None else [])])
        if release is not None:
            self.releases[release.ipam_key] = release
        self._put(parked)
        self._nothing_known_of(parked.id)

    async def become(self, newcomer: Attachment, heir: Attachment) -> Attachment:
        """Put `heir`, a parked attachment that is taken over, in the place of `newcomer`, in one transaction.

        Raises Unavailable; then both are doubtful.
        """
        self.doubtful |= {newcomer.id, heir.id}
        await self._saves.submit([("attachment", newcomer.id), heir])
        self._forget(newcomer)
        self._put(heir)
        self._nothing_known_of(heir.id)
        return heir

    async def drop(self, attachment: Attachment, release: PendingRelease | None) -> None:
        """Forget an attachment; `release` takes its place in the same transaction."""
        changes: list[Change] = [("attachment", attachment.id)]
        if release is not None:
            changes.append(release)
        await self._saves.submit(changes)
        if release is not None:
            self.releases[release.ipam_key] = release
        self._forget(attachment)

    def _forget(self, attachment: Attachment) -> None:
        self._attachments.pop(attachment.id, None)
        self._unname(attachment)
        self._nothing_known_of(attachment.id)

    def _nothing_known_of(self, attachment: AttachmentId) -> None:
        """It is on disk as it is here, and what was true of its container and its wiring is so no more."""
        self.ready.pop(attachment, None)
        self.registered.pop(attachment, None)
        self.given_leave.discard(attachment)
        self.doubtful.discard(attachment)

    async def released(self, release: PendingRelease) -> None:
        """ipam knows of a release."""
        await self._saves.submit([("release", release.ipam_key)])
        if self.releases.get(release.ipam_key) == release:
            del self.releases[release.ipam_key]

    def reserve_ofport(self, beyond: int = FIRST_OFPORT - 1) -> int:
        """A port number that no attachment has, above `beyond`; it is taken from now on."""
        used = {each.ofport for each in self._attachments.values() if each.ofport is not None}
        number = pick_ofport(used | self._reserved, beyond + 1)
        self._reserved.add(number)
        return number

    def unreserve_ofport(self, number: int) -> None:
        """The number is an attachment's now, or was not needed."""
        self._reserved.discard(number)

    def _put(self, attachment: Attachment) -> None:
        before = self._attachments.get(attachment.id)
        if before is not None:
            self._unname(before)
        self._attachments[attachment.id] = attachment
        if attachment.parked_at is None:
            self._ids[attachment.container, attachment.ifname] = attachment.id

    def _unname(self, attachment: Attachment) -> None:
        key = attachment.container, attachment.ifname
        if self._ids.get(key) == attachment.id:
            del self._ids[key]

    async def _save_all(self, batch: Sequence[Sequence[Change]]) -> Sequence[None]:
        await self._state.save([change for changes in batch for change in changes])
        return [None] * len(batch)
