"""The bus on Kafka, by aiokafka: an idempotent producer with acks=all, keyed by Kafka's own partitioner.

The first call connects, so a service starts while Kafka is away and its calls raise Unavailable until it is back. An
aborted publish may leave any part of its records in the log; those of one partition stay in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from libs.common.bus.base import (
    MAX_RECORD_BYTES,
    Consumer,
    Delivered,
    Offsets,
    Record,
    TopicPartition,
    TopicSpec,
    check_records,
)
from libs.common.bus.kafka_consumer import CALL_S, START_S, STOP_S, KafkaConsumer, to_delivered
from libs.common.bus.kafka_errors import guarded
from libs.common.bus.kafka_url import KafkaSettings, parse_url
from libs.common.bus.retention import Retention
from libs.common.clock import Clock
from libs.common.errors import TimedOut, Unavailable
from libs.common.waiting import heeded

PUBLISH_S = 30.0
_READ_S = 1.0
_SETTLE_TRIES = 50
_REQUEST_MS = 10_000


class KafkaBus:
    """A `Bus` on Kafka."""

    def __init__(
        self, settings: KafkaSettings, clock: Clock, retention: Retention | None = None
    ) -> None:
        self._settings = settings
        self._retention = retention or Retention()
        self._clock = clock
        self._partitions: dict[str, int] = {}
        self._producer: AIOKafkaProducer | None = None
        self._observer: AIOKafkaConsumer | None = None
        self._lasting: AIOKafkaAdminClient | None = None
        self._connecting = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(cls, url: str, clock: Clock, retention: Retention | None = None) -> KafkaBus:
        """Read the URL (see kafka_url.py; raises InvalidInput); the first call connects."""
        return cls(parse_url(url), clock, retention)

    async def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """See Bus. Returns when all partitions have a leader."""
        self._check_open()
        missing = {spec.name: spec for spec in topics if spec.name not in self._partitions}
        if not missing:
            return
        async with self._admin("create topics") as admin:
            there = set(await admin.list_topics())
            made = [self._new_topic(each) for each in missing.values()]
            made = [each for each in made if each.name not in there]
            if made:  # whoever finds all of them there need not be allowed to make any
                answer = await admin.create_topics(made)
                for _, code, message in answer.topic_errors:
                    if code and for_code(code) is not TopicAlreadyExistsError:
                        why = message or for_code(code).__name__
                        raise Unavailable(f"kafka: create topic: {why}")
            await self._settle_topics(admin, list(missing))

    def _new_topic(self, spec: TopicSpec) -> NewTopic:
        kept_s = self._retention.of(spec.name) if spec.retention_s is None else spec.retention_s
        configs = {
            "max.message.bytes": str(MAX_RECORD_BYTES + 100_000),
            "retention.ms": str(int(kept_s * 1000)),
        }
        return NewTopic(
            name=self._settings.prefix + spec.name,
            num_partitions=spec.partitions,
            replication_factor=self._settings.replication,
            topic_configs=configs,
        )

    async def topics(self) -> list[str]:
        """See Bus. Kafka's own topics are left out."""
        prefix = self._settings.prefix
        async with self._admin("list topics") as admin:
            names = await admin.list_topics()
        return sorted(
            name.removeprefix(prefix)
            for name in names
            if name.startswith(prefix) and not name.startswith("__")
        )

    async def _settle_topics(self, admin: AIOKafkaAdminClient, names: list[str]) -> None:
        prefix = self._settings.prefix
        for attempt in range(_SETTLE_TRIES):
            described = await admin.describe_topics([prefix + name for name in names])
            counts = {
                each["topic"].removeprefix(prefix): len(each["partitions"])
                for each in described
                if each["partitions"] and all(p["leader"] >= 0 for p in each["partitions"])
            }
            if counts.keys() >= set(names):
                self._partitions.update(counts)
                return
            await self._clock.sleep(min(0.02 * (attempt + 1), 0.5))
        raise TimedOut("kafka: new topics have no leaders yet")

    @asynccontextmanager
    async def _admin(self, what: str) -> AsyncIterator[AIOKafkaAdminClient]:
        self._check_open()
        async with guarded(what, START_S):
            admin = self._new_admin()
            try:
                await admin.start()
                yield admin
            finally:
                await _stop(admin)

    def _new_admin(self) -> AIOKafkaAdminClient:
        return AIOKafkaAdminClient(**self._settings.connection(), request_timeout_ms=_REQUEST_MS)

    async def _committed(self, group: str) -> dict[KafkaPartition, int]:
        """What a group has committed, by a client that stays connected: it is asked every few seconds."""
        async with self._asking, guarded("committed offsets", CALL_S):
            self._check_open()
            try:
                if self._lasting is None:
                    self._lasting = self._new_admin()
                    await self._lasting.start()
                found = await self._lasting.list_consumer_group_offsets(group)
            except BaseException:
                await self._drop_lasting()
                raise
        return {place: each.offset for place, each in found.items()}

    async def _drop_lasting(self) -> None:
        admin, self._lasting = self._lasting, None
        if admin is not None:
            await _stop(admin)

    async def publish(self, records: Sequence[Record]) -> None:
        """See Bus."""
        check_records(records)
        self._check_open()
        if not records:
            return
        await self._ensure({record.topic for record in records})
        producer = await self._connected_producer()
        try:
            async with guarded("publish", PUBLISH_S):
                await self._send(producer, records)
        except Unavailable:
            # The idempotent producer may be stuck with a sequence that the broker refuses: begin a new one.
            await self._drop_producer(producer)
            raise

    async def _send(self, producer: AIOKafkaProducer, records: Sequence[Record]) -> None:
        prefix = self._settings.prefix
        sent = [
            await producer.send(
                prefix + each.topic, each.value, key=each.key.encode(), headers=list(each.headers)
            )
            for each in records
        ]
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _connected_producer(self) -> AIOKafkaProducer:
        async with self._connecting:
            self._check_open()
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._settings.connection(),
                    enable_idempotence=True,
                    acks="all",
                    linger_ms=self._settings.linger_ms,
                    max_batch_size=65_536,
                    max_request_size=MAX_RECORD_BYTES + 100_000,
                    request_timeout_ms=_REQUEST_MS,
                )
                try:
                    async with guarded("connect", START_S):
                        await producer.start()
                    self._check_open()  # it may have been closed meanwhile
                except BaseException:
                    await _stop(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _drop_producer(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
            await _stop(producer)

    async def _ensure(self, names: Iterable[str]) -> None:
        await self.ensure_topics([TopicSpec(name) for name in sorted(names)])

    @asynccontextmanager
    async def consumer(
        self, group: str, topics: Sequence[str], *, max_poll_s: float = 300.0
    ) -> AsyncIterator[Consumer]:
        """See Bus."""
        await self._ensure(topics)
        consumer = KafkaConsumer(self._settings, group, topics, max_poll_s, self._clock.monotonic)
        try:
            await consumer.start()
            yield consumer
        finally:
            with suppress(Unavailable):  # then the session's end says that we left
                await consumer.stop()

    async def read(
        self, topics: Sequence[str], start: Offsets | None = None
    ) -> AsyncGenerator[Delivered, None]:
        """See Bus."""
        wanted, ends = start or {}, await self.end_offsets(topics)
        consumer = AIOKafkaConsumer(
            **self._settings.connection(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            async with guarded("read", START_S):
                await consumer.start()
                consumer.assign([self._theirs(place) for place in ends])
                for place, end in ends.items():
                    consumer.seek(self._theirs(place), min(wanted.get(place, end), end))
            while True:
                self._check_open()
                async with guarded("read", _READ_S + CALL_S):
                    batches = await consumer.getmany(timeout_ms=int(_READ_S * 1000))
                for batch in batches.values():
                    for each in batch:
                        yield to_delivered(each, self._settings.prefix)
        finally:
            await _stop(consumer)

    def _theirs(self, place: TopicPartition) -> KafkaPartition:
        return KafkaPartition(self._settings.prefix + place[0], place[1])

    async def _places(self, topics: Sequence[str]) -> dict[KafkaPartition, TopicPartition]:
        await self._ensure(topics)
        places = [(name, n) for name in sorted(topics) for n in range(self._partitions[name])]
        return {self._theirs(place): place for place in places}

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See Bus."""
        places = await self._places(topics)
        observer = await self._connected_observer()
        async with guarded("end offsets", CALL_S):
            ends = await observer.end_offsets(list(places))
        return {places[each]: offset for each, offset in ends.items()}

    async def _connected_observer(self) -> AIOKafkaConsumer:
        async with self._connecting:
            self._check_open()
            if self._observer is None:
                observer = AIOKafkaConsumer(**self._settings.connection(), group_id=None)
                try:
                    async with guarded("connect", START_S):
                        await observer.start()
                    self._check_open()
                except BaseException:
                    await _stop(observer)
                    raise
                self._observer = observer
            return self._observer

    async def lag(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See Bus."""
        places = await self._places(topics)
        observer = await self._connected_observer()
        async with guarded("lag", CALL_S):
            ends = await observer.end_offsets(list(places))
            starts = await observer.beginning_offsets(list(places))
        committed = await self._committed(self._settings.prefix + group)
        return {
            ours: ends[theirs] - max(committed.get(theirs, -1), starts[theirs])
            for theirs, ours in places.items()
        }

    async def truncate(self, place: TopicPartition, before: int) -> None:
        """Drop the records of a partition before an offset, as retention would."""
        async with self._admin("delete records") as admin:
            await admin.delete_records({self._theirs(place): RecordsToDelete(before)})

    async def close(self) -> None:
        """See Bus."""
        self._closed = True
        clients = [each for each in (self._producer, self._observer) if each is not None]
        self._producer = self._observer = None
        await asyncio.gather(*(_stop(each) for each in clients), self._drop_lasting())

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the bus is closed")


async def _stop(client: AIOKafkaProducer | AIOKafkaConsumer | AIOKafkaAdminClient) -> None:
    """Flush and stop, without waiting for a broker that does not come."""
    with suppress(TimeoutError, KafkaError, OSError):
        async with heeded(), asyncio.timeout(STOP_S):
            await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
