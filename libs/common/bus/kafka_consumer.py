"""A member of a Kafka consumer group, with a cooperative hand-over.

Kafka revokes all partitions at each rebalance. The rebalance listener holds it back until the batch in hand has been
handled and committed, which the next `fetch` says, for `max_poll_s` at most. The broker fences by member and
generation, not by partition; so a batch that outlived its assignment is fenced here as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.structs import ConsumerRecord

from libs.common.bus.base import Delivered, Offsets, Record, TopicPartition
from libs.common.bus.kafka_errors import guarded
from libs.common.bus.kafka_url import KafkaSettings
from libs.common.errors import Fenced

CALL_S = 15.0
START_S = 30.0
STOP_S = 2.0  # for a goodbye; a broker that does not answer finds out by itself


def to_delivered(record: ConsumerRecord[bytes, bytes], prefix: str) -> Delivered:
    """Ours from aiokafka's."""
    key = (record.key or b"").decode()
    topic = record.topic.removeprefix(prefix)
    headers = tuple((name, bytes(value)) for name, value in record.headers)
    ours = Record(topic, key, record.value or b"", headers)
    return Delivered(ours, record.partition, record.offset, record.timestamp / 1000)


class KafkaConsumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """A `Consumer` of a KafkaBus."""

    def __init__(
        self,
        settings: KafkaSettings,
        group: str,
        topics: Sequence[str],
        max_poll_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._prefix = settings.prefix
        self._topics = [settings.prefix + topic for topic in sorted(topics)]
        self._max_poll_s = max_poll_s
        self._monotonic = monotonic
        self._polled_at = monotonic()
        self._in_hand: frozenset[TopicPartition] = frozenset()
        self._lost: frozenset[TopicPartition] = frozenset()
        self._idle = asyncio.Event()
        self._idle.set()
        self._moving = False
        session_ms = int(settings.session_s * 1000)
        self._consumer = AIOKafkaConsumer(
            **settings.connection(),
            group_id=settings.prefix + group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=min(1000, session_ms // 3),
            max_poll_interval_ms=int(max_poll_s * 1000),
            rebalance_timeout_ms=max(session_ms, int(max_poll_s * 1000)),
            metadata_max_age_ms=30_000,
        )

    async def start(self) -> None:
        """Join the group."""
        async with guarded("join", START_S):
            await self._consumer.start()
            # Only now: `start` with a subscription would wait for the end of a rebalance.
            self._consumer.subscribe(self._topics, listener=self)

    async def stop(self) -> None:
        """Leave the group."""
        self._give_back()
        async with guarded("leave", STOP_S):
            await self._consumer.stop()

    async def on_partitions_revoked(self, revoked: frozenset[KafkaPartition]) -> None:
        """A rebalance begins: let the batch in hand be finished first."""
        try:
            async with asyncio.timeout(self._max_poll_s):
                await self._idle.wait()
        except TimeoutError:
            self._lost = self._in_hand
        self._moving = True

    async def on_partitions_assigned(self, assigned: frozenset[KafkaPartition]) -> None:
        """The rebalance is over."""
        self._moving = False

    def _give_back(self) -> None:
        self._in_hand = self._lost = frozenset()
        self._idle.set()

    def assignment(self) -> frozenset[TopicPartition]:
        """See Consumer."""
        held = {self._ours(each) for each in self._consumer.assignment()}
        return frozenset(held - self._lost)

    def _ours(self, place: KafkaPartition) -> TopicPartition:
        return (place.topic.removeprefix(self._prefix), place.partition)

    async def fetch(self, max_records: int, timeout_s: float) -> Sequence[Delivered]:
        """See Consumer."""
        self._give_back()
        self._polled_at = self._monotonic()
        async with guarded("fetch", timeout_s + CALL_S):
            batches = await self._consumer.getmany(
                timeout_ms=int(timeout_s * 1000), max_records=max_records
            )
        self._polled_at = self._monotonic()
        if self._moving:
            return []  # of partitions on the move: the new holder gets them, perhaps us
        found = [to_delivered(each, self._prefix) for batch in batches.values() for each in batch]
        if found:
            self._in_hand = frozenset(each.place for each in found)
            self._idle.clear()
        return found

    async def commit(self, offsets: Offsets) -> None:
        """See Consumer."""
        if not offsets:
            return
        held = self.assignment()
        lost = sorted(place for place in offsets if place not in held)
        if lost or self._monotonic() - self._polled_at > self._max_poll_s:
            raise Fenced(f"kafka: {lost or sorted(offsets)} no longer belong to this member")
        async with guarded("commit", CALL_S):
            await self._consumer.commit(
                {KafkaPartition(self._prefix + t, n): at for (t, n), at in offsets.items()}
            )
