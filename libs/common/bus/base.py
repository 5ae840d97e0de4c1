"""The event bus as Gantry sees it: what Kafka does, and nothing that Kafka doesn't.

Topics have partitions; a record's key picks the partition, and order holds within a partition only. A
consumer group shares the partitions; a record may be delivered again until its offset is committed;
offsets may have gaps; a rebalance may take a partition away in the middle of a handler, after which a
commit of it is fenced. Every adapter (memory, sqlite, kafka) passes `tests/contract/bus/`.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from libs.common.errors import InvalidInput

TopicPartition = tuple[str, int]
Offsets = Mapping[TopicPartition, int]

MAX_RECORD_BYTES = 900_000


@dataclass(frozen=True, slots=True)
class Record:
    """What is published: `value` and header values are bytes, as Kafka has them."""

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Delivered:
    """A record as a consumer gets it, with its place in the log."""

    record: Record
    partition: int
    offset: int
    timestamp: float

    @property
    def place(self) -> TopicPartition:
        """The partition this record came from."""
        return (self.record.topic, self.partition)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is created. `retention_s` None: as the bus was told (`retention.py`)."""

    name: str
    partitions: int = 8
    retention_s: float | None = None


class Consumer(Protocol):
    """A member of a consumer group."""

    async def fetch(self, max_records: int, timeout_s: float) -> Sequence[Delivered]:
        """The next records of the partitions this member holds; empty after `timeout_s`.

        Fetching says that the batch before is done with: partitions that are to move go now. A member that lost its
        place joins again. Raises Unavailable while the bus can't be reached; fetch again.
        """
        ...

    async def commit(self, offsets: Offsets) -> None:
        """Record the *next* offset to read for each partition.

        Raises Fenced when one of the partitions no longer belongs to this member: nothing is committed then, and the
        member may go on with `fetch`. Raises Unavailable when the bus can't be reached.
        """
        ...

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions this member held at its last fetch, less those it is known to have lost."""
        ...


class Bus(Protocol):
    """Publishes records and reads them back."""

    async def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """Create the topics that don't exist; others are left as they are. Raises Unavailable.

        Whoever uses a topic that nobody made creates it as `TopicSpec(name)` says.
        """
        ...

    async def topics(self) -> list[str]:
        """The names of the topics there are, in order; it makes none. Raises Unavailable."""
        ...

    async def publish(self, records: Sequence[Record]) -> None:
        """Append all records, in order per key; returns when they are durable.

        On an error (Unavailable, TimedOut) any part may have been written: publish all again, in order; consumers
        drop what is older than what they have seen of a subject. Raises InvalidInput for a record over
        MAX_RECORD_BYTES, before anything is written.
        """
        ...

    def consumer(
        self, group: str, topics: Sequence[str], *, max_poll_s: float = 300.0
    ) -> AbstractAsyncContextManager[Consumer]:
        """Join `group`; a new group starts at the oldest record. Leaving hands the partitions on.

        A partition that is to move stays with its member until that one fetches again. A member that does not fetch
        for `max_poll_s` loses its partitions in the middle of its handler, a dead one within seconds.
        """
        ...

    def read(
        self, topics: Sequence[str], start: Offsets | None = None
    ) -> AsyncGenerator[Delivered, None]:
        """Read without a group, for followers such as SSE streams.

        Starts at `start` per partition, and at the end of the log (when iteration begins) for partitions it doesn't
        name; an offset that retention has taken away moves up to the oldest one there is. Close it with `aclosing`.
        """
        ...

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """The offset that the next record of each partition will get or exceed."""
        ...

    async def lag(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """Offsets between what the group has committed (or the oldest record) and the end, gaps counted."""
        ...

    async def close(self) -> None:
        """Flush and release everything; later calls raise Unavailable."""
        ...


def check_records(records: Sequence[Record]) -> None:
    """Raise InvalidInput for a record over MAX_RECORD_BYTES (key, value and headers together)."""
    for record in records:
        headers = sum([len(name) + len(value) for name, value in record.headers])
        size = len(record.key) + len(record.value) + headers
        if size > MAX_RECORD_BYTES:
            raise InvalidInput.of(
                f"{record.topic}[{record.key}]",
                f"record has {size} bytes",
                f"at most {MAX_RECORD_BYTES}",
            )


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key for adapters that choose themselves (Kafka has its own murmur2)."""
    return zlib.crc32(key.encode()) % partitions
