"""Topics on a real Kafka, seen with another client's eyes: partitions, replicas and settings are as meant."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from libs.common.bus.base import MAX_RECORD_BYTES, TopicPartition, TopicSpec
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.kafka_url import KafkaSettings, parse_url
from libs.common.clock import SystemClock
from libs.common.consume import Handlers, Subscription
from libs.common.errors import Unavailable
from libs.common.events import TOPICS, Envelope, Event
from libs.common.events import model as ev
from libs.common.telemetry import Telemetry
from tests.contract.bus.helpers import DEADLINE_S, numbered
from tests.contract.bus.worlds import kafka_world_url
from tests.unit.common.helpers import Lines


@dataclass
class Operator:
    """Somebody with Kafka's own tools."""

    admin: AIOKafkaAdminClient
    settings: KafkaSettings

    def each(self, partitions: int) -> list[int]:
        """The replicas of each partition of a topic that the bus makes; a lent broker's URL may ask for several."""
        return [self.settings.replication] * partitions

    async def partitions(self) -> dict[str, list[int]]:
        """The replicas of each partition, by topic."""
        prefix = self.settings.prefix
        names = [name for name in await self.admin.list_topics() if name.startswith(prefix)]
        if not names:  # an empty list means all
            return {}
        return {
            each["topic"].removeprefix(prefix): [len(p["replicas"]) for p in each["partitions"]]
            for each in await self.admin.describe_topics(names)
        }

    async def setting(self, topic: str, name: str) -> str:
        """A topic's setting."""
        resource = ConfigResource(ConfigResourceType.TOPIC, self.settings.prefix + topic)
        (answer,) = await self.admin.describe_configs([resource])
        entries: Sequence[Any] = answer.resources[0][4]
        return next(str(entry[1]) for entry in entries if entry[0] == name)

    async def make(self, topic: str, partitions: int, **configs: str) -> None:
        """A topic made by hand."""
        made = NewTopic(self.settings.prefix + topic, partitions, 1, topic_configs=configs)
        await self.admin.create_topics([made])


@pytest.fixture
def url(kafka_url: str) -> str:
    """A broker with names of one's own."""
    return kafka_world_url(kafka_url)


@pytest.fixture
async def operator(url: str) -> AsyncIterator[Operator]:
    """On the same broker."""
    settings = parse_url(url)
    admin = AIOKafkaAdminClient(**settings.connection())
    await admin.start()
    yield Operator(admin, settings)
    await admin.close()


async def _subscribe(bus: KafkaBus) -> None:
    async def ignore(_event: Event, _envelope: Envelope) -> None:
        return

    handlers: Handlers = {ev.NodeJoined: ignore, ev.NodeLost: ignore}
    telemetry = Telemetry("monitor", Lines())
    clock, rng = SystemClock(), random.Random(1)
    await Subscription("monitor", handlers, bus, clock, rng, telemetry).run()


async def _lag(bus: KafkaBus, *topics: str) -> dict[TopicPartition, int]:
    """A broker that has just begun may have nobody yet to ask about groups."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await bus.lag("monitor", topics)
            except Unavailable:
                await asyncio.sleep(0.1)


async def test_services_that_start_together_make_all_topics_as_they_are_meant(
    url: str, operator: Operator
) -> None:
    buses = [await KafkaBus.open(url, SystemClock()) for _ in range(3)]
    async with asyncio.TaskGroup() as group, asyncio.timeout(DEADLINE_S):
        consuming = group.create_task(_subscribe(buses[0]))
        await asyncio.gather(*(bus.ensure_topics(TOPICS) for bus in buses[1:]))
        while "dead.monitor" not in await buses[1].topics():
            await asyncio.sleep(0.05)
        consuming.cancel()
    made = (*TOPICS, TopicSpec("dead.monitor"))
    expected = {spec.name: operator.each(spec.partitions) for spec in made}
    assert await operator.partitions() == expected
    assert await operator.setting("node.joined", "max.message.bytes") == str(
        MAX_RECORD_BYTES + 100_000
    )
    for bus in buses:
        await bus.close()


async def test_a_topic_has_the_partitions_and_the_retention_of_its_spec(
    url: str, operator: Operator
) -> None:
    bus = await KafkaBus.open(url, SystemClock())
    await bus.ensure_topics([TopicSpec("wide", 13, retention_s=3600.0), TopicSpec("narrow", 1)])
    assert await operator.partitions() == {"wide": operator.each(13), "narrow": operator.each(1)}
    assert await operator.setting("wide", "retention.ms") == "3600000"
    assert set(await bus.end_offsets(["wide"])) == {("wide", n) for n in range(13)}
    await bus.close()


async def test_topics_that_somebody_made_are_left_as_they_are_and_used(
    url: str, operator: Operator
) -> None:
    own = {"retention.ms": "123456789", "max.message.bytes": "2000000"}
    await operator.make("node.joined", 3, **own)
    await operator.make("node.lost", 20)
    bus = await KafkaBus.open(url, SystemClock())
    await bus.ensure_topics(TOPICS)
    partitions = await operator.partitions()
    assert (partitions["node.joined"], partitions["node.lost"]) == ([1] * 3, [1] * 20)
    for name, value in own.items():
        assert await operator.setting("node.joined", name) == value
    assert len(await _lag(bus, "node.joined", "node.lost")) == 23
    await bus.close()


async def test_who_finds_all_topics_there_need_not_be_allowed_to_make_any(
    url: str, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in TOPICS:
        await operator.make(each.name, each.partitions)
    async with asyncio.timeout(DEADLINE_S):
        while len(await operator.partitions()) < len(TOPICS):
            await asyncio.sleep(0.05)

    async def refuse(*_: object) -> None:
        raise AssertionError("asked to make topics")

    monkeypatch.setattr(AIOKafkaAdminClient, "create_topics", refuse)
    bus = await KafkaBus.open(url, SystemClock())
    await bus.ensure_topics(TOPICS)
    (joined,) = (each for each in TOPICS if each.name == "node.joined")
    assert len(await _lag(bus, joined.name)) == joined.partitions
    await bus.close()


async def test_more_replicas_than_brokers_are_refused_in_words_and_nothing_is_made(
    url: str, operator: Operator
) -> None:
    greedy = await KafkaBus.open(f"{url}&replication=100", SystemClock())
    with pytest.raises(Unavailable, match=r"(?i)replication.?factor"):
        await greedy.ensure_topics([TopicSpec("things")])
    with pytest.raises(Unavailable, match=r"(?i)replication.?factor"):
        await greedy.publish(numbered("a", [1]))
    assert await operator.partitions() == {}
    modest = await KafkaBus.open(f"{url}&replication=1", SystemClock())
    await modest.publish(numbered("a", [1]))
    # What is there is used, whatever the URL would make.
    await greedy.publish(numbered("a", [2]))
    assert sum((await greedy.end_offsets(["things"])).values()) == 2
    assert await operator.partitions() == {"things": [1] * TopicSpec("things").partitions}
    await greedy.close()
    await modest.close()
