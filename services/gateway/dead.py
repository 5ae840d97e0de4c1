"""Dead letters: read from the log, and published again by the outbox of a document that remembers it.

Listings carry no values: those may be long, and hold secrets; one letter at a time shows its own.
"""

from __future__ import annotations

import asyncio
import base64
import heapq
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from libs.client.dead import Dead, DeadLetter, DeadView, NotReplayed, Replayed
from libs.common.bus.base import Bus, TopicPartition
from libs.common.clock import Clock
from libs.common.deadletters import PREFIX, Letter, dead_topic
from libs.common.errors import Conflict, InvalidInput, NotFound, TimedOut
from libs.common.events import TOPICS
from libs.common.outbox import Relay
from libs.common.store.base import OutboxEvent
from services.gateway.model import Replay
from services.gateway.offsets import decode, encode
from services.gateway.store import Repository

SHOWN_BYTES = 65_536
PAGE_LETTERS = 500
PAGE_BYTES = 8_000_000
QUIET_S = 15.0
_NEAR = 200  # offsets that are read in one go with the ones asked for
_NOBODY = "gantry-nobody"  # a group that commits nothing: its lag tells how much there still is
_KNOWN = frozenset(spec.name for spec in TOPICS)

Places = dict[TopicPartition, int]


@dataclass(frozen=True)
class DeadLetters:
    """Those of all groups. Methods raise Unavailable when bus or store is away, NotFound for a group without any."""

    bus: Bus
    repository: Repository
    relay: Relay
    clock: Clock

    async def newest(self, group: str, limit: int) -> Dead:
        """The newest letters of a group, or of all groups ("")."""
        topics = await self._topics(group)
        first, ends = await self._span(topics)
        start = {place: max(first[place], end - limit) for place, end in ends.items()}
        more = any(start[place] > first[place] for place in ends)
        newest: list[tuple[float, str, int, int, DeadView]] = []
        async with aclosing(self._scan(topics, start, ends)) as letters:
            async for each in letters:
                view = DeadView(**_told(each))
                heapq.heappush(newest, (each.time, each.group, each.partition, each.offset, view))
                if len(newest) > limit:
                    heapq.heappop(newest)
                    more = True
        views = [entry[-1] for entry in sorted(newest, key=lambda e: e[:-1], reverse=True)]
        return Dead(letters=tuple(await self._with_replays(views)), more=more)

    async def letter(self, group: str, place: str) -> DeadLetter:
        """One letter, whole but for the end of a long value."""
        (found,) = await self._at(group, [place])
        record = found.record
        text, encoding = _as_text(record.value[:SHOWN_BYTES])
        (view,) = await self._with_replays([DeadView(**_told(found))])
        return DeadLetter(
            **view.model_dump(),
            headers={name: value.decode(errors="replace") for name, value in record.headers},
            value=text,
            encoding=encoding,
            truncated=len(record.value) > SHOWN_BYTES,
        )

    async def replay(self, group: str, places: Sequence[str], by: str) -> Replayed:
        """Publish these letters again, also those that were before.

        Raises NotFound for one that isn't there and Conflict for one that can't be replayed, before any is.
        """
        letters = await self._at(group, places)
        for each in letters:
            reason = _unfit(each)
            if reason:
                raise Conflict(f"{group} {each.place}: {reason}")
        size = sum(len(each.record.value) for each in letters)
        if size > 2 * PAGE_BYTES:
            expected = f"at most {2 * PAGE_BYTES}"
            raise InvalidInput.of("places", f"hold {size} bytes together", expected)
        known = await self.repository.replays_of([_id(each) for each in letters])
        replayed, left = await self._publish(letters, known, by)
        return Replayed(group=group, replayed=replayed, left=left)

    async def replay_all(self, group: str, after: str, by: str) -> Replayed:
        """Publish those of a page that were not replayed yet; the page begins where the one before ended ("": at the
        oldest letter). The last page ends where the log ended at the first: what dies again is not replayed for ever.
        """
        topics = await self._topics(group)
        start, ends = _resumed(after, topics) if after else await self._span(topics)
        page: list[Letter] = []
        size, full = 0, False
        async with aclosing(self._scan(topics, start, ends)) as letters:
            async for each in letters:
                page.append(each)
                start[topics[0], each.partition] = each.offset + 1
                size += len(each.record.value)
                full = len(page) >= PAGE_LETTERS or size >= PAGE_BYTES
                if full:
                    break
        known = await self.repository.replays_of([_id(each) for each in page])
        fresh = [each for each in page if _id(each) not in known]
        unfit = [NotReplayed(place=e.place, reason=_unfit(e)) for e in fresh if _unfit(e)]
        replayed, left = await self._publish([e for e in fresh if not _unfit(e)], known, by)
        following = f"{encode(start)}.{encode(ends)}" if full else ""
        return Replayed(group=group, replayed=replayed, left=(*left, *unfit), next=following)

    async def _publish(
        self, letters: Sequence[Letter], known: Mapping[str, tuple[Replay, int]], by: str
    ) -> tuple[tuple[str, ...], tuple[NotReplayed, ...]]:
        now = self.clock.now()
        writes = []
        for each in letters:
            before, version = known.get(_id(each), (None, 0))
            replay = Replay(
                id=_id(each),
                group=each.group,
                place=each.place,
                topic=each.record.topic,
                at=now,
                by=by,
                times=before.times + 1 if before else 1,
            )
            record = each.record
            event = OutboxEvent(
                f"{replay.id}#{version + 1}",
                record.topic,
                record.key,
                record.value,
                record.headers,
            )
            writes.append((replay, version, event))
        done = await self.repository.save_replays(writes) if writes else {}
        self.relay.kick()
        busy = "somebody else replays it just now"
        return (
            tuple(each.place for each in letters if done[_id(each)]),
            tuple(
                NotReplayed(place=each.place, reason=busy)
                for each in letters
                if not done[_id(each)]
            ),
        )

    async def _with_replays(self, views: Sequence[DeadView]) -> list[DeadView]:
        told = []
        for first in range(0, len(views), PAGE_LETTERS):
            part = views[first : first + PAGE_LETTERS]
            ids = [_id_of(each.group, each.place, each.time) for each in part]
            known = await self.repository.replays_of(ids)
            for each, doc_id in zip(part, ids, strict=True):
                replay, _ = known.get(doc_id, (None, 0))
                if replay is not None:
                    seen = {"replayed_at": replay.at, "replayed_by": replay.by}
                    each = each.model_copy(update={**seen, "replays": replay.times})
                told.append(each)
        return told

    # -- reading ---------------------------------------------------------------------------------

    async def _topics(self, group: str) -> list[str]:
        there = [name for name in await self.bus.topics() if name.startswith(PREFIX)]
        if not group:
            return there
        if dead_topic(group) not in there:
            known = ", ".join(name.removeprefix(PREFIX) for name in there) or "none yet"
            raise NotFound(f"no group {group!r} has dead letters; groups: {known}")
        return [dead_topic(group)]

    async def _span(self, topics: Sequence[str]) -> tuple[Places, Places]:
        """The oldest offset there is, and the end, of each partition."""
        if not topics:
            return {}, {}
        ends = await self.bus.end_offsets(topics)
        there = await self.bus.lag(_NOBODY, topics)
        return {place: max(0, end - there[place]) for place, end in ends.items()}, ends

    async def _at(self, group: str, places: Iterable[str]) -> list[Letter]:
        """The letters at some places, in the order asked for. Raises NotFound."""
        (topic,) = await self._topics(group)
        first, ends = await self._span([topic])
        wanted: dict[TopicPartition, list[int]] = {}
        for text in places:
            place, offset = _parsed(topic, text)
            if not first.get(place, 0) <= offset < ends.get(place, 0):
                raise NotFound(f"there is no dead letter of {group} at {text}")
            wanted.setdefault(place, []).append(offset)
        found: dict[str, Letter] = {}
        asked = frozenset(places)
        # A run a partition at a time: what lies far apart is not read in between.
        for runs in zip_longest(*(_runs(place, at) for place, at in wanted.items())):
            start = {place: low for place, low, _ in filter(None, runs)}
            until = {place: high + 1 for place, _, high in filter(None, runs)}
            async with aclosing(self._scan([topic], start, until)) as letters:
                async for each in letters:
                    if each.place in asked:
                        found[each.place] = each
        missing = sorted(asked - found.keys())
        if missing:
            raise NotFound(f"there is no dead letter of {group} at {', '.join(missing)}")
        return [found[text] for text in dict.fromkeys(places)]

    async def _scan(
        self, topics: Sequence[str], start: Mapping[TopicPartition, int], ends: Places
    ) -> AsyncGenerator[Letter, None]:
        """The letters from `start` to before `ends`. Raises TimedOut when the bus has nothing to say for QUIET_S."""
        left = {place: start[place] for place, end in ends.items() if start[place] < end}
        if not left:
            return
        async with aclosing(self.bus.read(topics, left)) as log:
            while left:
                try:
                    async with asyncio.timeout(QUIET_S):
                        each = await anext(log)
                except TimeoutError:
                    raise TimedOut(f"dead letters: nothing came for {QUIET_S:g} s") from None
                end = ends.get(each.place, 0)
                if each.place in left and each.offset < end:
                    yield Letter.of(each)
                if each.offset + 1 >= end:
                    left.pop(each.place, None)


def _parsed(topic: str, text: str) -> tuple[TopicPartition, int]:
    partition, _, offset = text.partition(":")
    return (topic, int(partition)), int(offset)


def _runs(place: TopicPartition, offsets: Iterable[int]) -> list[tuple[TopicPartition, int, int]]:
    """Offsets that are near each other, as (place, lowest, highest)."""
    runs: list[tuple[TopicPartition, int, int]] = []
    for offset in sorted(offsets):
        if runs and offset - runs[-1][2] <= _NEAR:
            runs[-1] = (place, runs[-1][1], offset)
        else:
            runs.append((place, offset, offset))
    return runs


def _resumed(after: str, topics: Sequence[str]) -> tuple[Places, Places]:
    head, _, tail = after.partition(".")
    try:
        start, ends = decode(head, topics), decode(tail, topics)
    except InvalidInput:
        start, ends = {}, {}
    if not ends or start.keys() != ends.keys():
        raise InvalidInput.of("after", "is not such a place", "`next` of the page before")
    return start, ends


def _id(letter: Letter) -> str:
    return _id_of(letter.group, letter.place, letter.time)


def _id_of(group: str, place: str, time: float) -> str:
    # With its time: in a log that was made anew, another letter lies at the same place.
    return f"{group}/{place}@{round(time * 1000)}"


def _told(letter: Letter) -> dict[str, Any]:
    headers = dict(letter.record.headers)
    return {
        "group": letter.group,
        "place": letter.place,
        "topic": letter.record.topic,
        "origin": letter.origin,
        "key": letter.record.key,
        "reason": letter.reason,
        "time": letter.time,
        "id": headers.get("ce_id", b"").decode(errors="replace"),
        "size": len(letter.record.value),
        "cut_from": letter.cut_from,
    }


def _unfit(letter: Letter) -> str:
    """Why it can't be replayed, or ""."""
    if letter.cut_from:
        size = len(letter.record.value)
        return (
            f"only {size} of its {letter.cut_from} bytes were kept; its producer must send it again"
        )
    if letter.record.topic not in _KNOWN:
        return f"it came from {letter.record.topic or 'nowhere'!r}, which is no topic of events"
    return ""


def _as_text(value: bytes) -> tuple[str, str]:
    try:
        return value.decode(), "utf-8"
    except UnicodeDecodeError as error:
        if error.start >= len(value) - 3 and error.reason == "unexpected end of data":
            return value[: error.start].decode(), "utf-8"  # the bound fell into a character
        return base64.b64encode(value).decode(), "base64"
