"""The example for other teams, run as they would: events of ours on a real Kafka, read by nothing of ours."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from infra import provision
from libs.common.bus.base import Record
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.kafka_url import parse_url
from libs.common.clock import SystemClock
from libs.common.events import TOPICS, Event, seal, to_record
from libs.common.events import model as ev
from tests.contract.bus.helpers import DEADLINE_S
from tests.contract.bus.worlds import kafka_world_url

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "audit_consumer.py"


def sealed(source: str, sequence: int, *events: Event, aggregate: str = "") -> list[Record]:
    """Events of one write."""
    made = seal(events, source=source, sequence=sequence, now=1.75e9, aggregate=aggregate)
    return [to_record(each) for each in made]


def asked(operation: str, sequence: int) -> list[Record]:
    """What the gateway writes of a request."""
    wanted = ev.DeployRequested(
        deployment=operation, app="acme/web", action=ev.DeployAction.RELEASE, actor="alice"
    )
    audit = ev.AuditRecorded(
        actor="alice", action="deploy.release", target="acme/web", allowed=True, detail=operation
    )
    return sealed("gateway", sequence, wanted, audit, aggregate=operation)


def went(sequence: int, kind: type[ev.DeployProgressed | ev.DeploySucceeded]) -> list[Record]:
    """What the deployer writes of a deployment."""
    counts = ev.Counts(wanted=3, healthy=sequence)
    return sealed(
        "deployer",
        sequence,
        kind(deployment="d", app="acme/web", release=1, state="rolling", counts=counts),
    )


class Told:
    """What the example prints, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.events: list[dict[str, Any]] = []

    async def until(self, count: int) -> None:
        """Read until it has told so many events."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while len(self.events) < count:
                line = await self._process.stdout.readline()
                assert line, "it ended"
                self.events.append(json.loads(line))

    def names(self) -> list[tuple[str, int]]:
        """Type and sequence of each event."""
        return [(each["ce_type"], int(each["ce_sequence"])) for each in self.events]


@asynccontextmanager
async def running(url: str) -> AsyncIterator[Told]:
    """The example as a process of its own, ended with the context."""
    settings = parse_url(url)
    environ = {
        "KAFKA": ",".join(settings.bootstrap),
        "GROUP": f"{settings.prefix}acme-audit",
        "TOPIC_PREFIX": settings.prefix,
        "PATH": os.environ["PATH"],
    }
    if settings.user:
        environ["KAFKA_USER"] = settings.user
        environ["KAFKA_PASSWORD_FILE"] = str(settings.password_file)
        environ["KAFKA_CAFILE"] = str(settings.cafile)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), stdout=asyncio.subprocess.PIPE, env=environ, cwd="/"
    )
    try:
        yield Told(process)
    finally:
        process.terminate()
        await process.wait()


async def committed(bus: KafkaBus, topics: Sequence[str]) -> None:
    """Wait until the example has committed everything."""
    async with asyncio.timeout(DEADLINE_S):
        while any((await bus.lag("acme-audit", topics)).values()):
            await asyncio.sleep(0.05)


async def test_it_tells_each_event_once_and_goes_on_where_it_was(kafka_url: str) -> None:
    url = kafka_world_url(kafka_url)
    bus = await KafkaBus.open(url, SystemClock())
    await bus.ensure_topics(TOPICS)
    topics = [t.name for t in TOPICS if t.name.startswith(("audit.recorded", "deploy."))]
    assert len(topics) == 5
    progressed = went(5, ev.DeployProgressed)
    junk = [
        Record("audit.recorded", "alice", b"not of Gantry"),
        Record("deploy.failed", "acme/web", b"{}", to_v2(progressed[0])),
    ]
    async with running(url) as told:
        await bus.publish([*asked("op-2", 200), *progressed, *junk])
        await told.until(3)
        # Late: an older state is dropped; an older line of the trail is a line of the trail all the same.
        await bus.publish([*went(4, ev.DeployProgressed), *progressed, *asked("op-1", 100)[1:]])
        await told.until(4)
        await bus.publish([*went(5, ev.DeploySucceeded), *went(6, ev.DeploySucceeded)])
        await told.until(6)
        await committed(bus, topics)
    assert sorted(told.names()[:3]) == [
        ("gantry.audit.recorded.v1", 200),
        ("gantry.deploy.progressed.v1", 5),
        ("gantry.deploy.requested.v1", 200),
    ]
    assert told.names()[3] == ("gantry.audit.recorded.v1", 100)
    assert told.events[3]["data"]["detail"] == "op-1"
    assert told.names()[4:] == [
        ("gantry.deploy.succeeded.v1", 5),
        ("gantry.deploy.succeeded.v1", 6),
    ]
    await bus.publish(asked("op-3", 300))
    async with running(url) as again:
        await again.until(2)
        await committed(bus, topics)
    assert {sequence for _, sequence in again.names()} == {300}
    assert not await _others(bus)
    await bus.close()


async def test_it_gets_in_by_sasl_and_tls(tmp_path: Path) -> None:
    async with provision.kafka(tmp_path, secure=True) as server:
        url = kafka_world_url(server.url)
        assert parse_url(url).connection()["security_protocol"] == "SASL_SSL"
        bus = await KafkaBus.open(url, SystemClock())
        await bus.ensure_topics(TOPICS)
        await bus.publish(asked("op-1", 1))
        async with running(url) as told:
            await told.until(2)
        await bus.close()
    assert {each["data"]["actor"] for each in told.events} == {"alice"}


def to_v2(record: Record) -> tuple[tuple[str, bytes], ...]:
    """The headers of an event of a later type."""
    headers = {**dict(record.headers), "ce_type": b"gantry.deploy.failed.v2", "ce_sequence": b"99"}
    return tuple(headers.items())


async def _others(bus: KafkaBus) -> list[str]:
    """Topics that the example has made, which it must not."""
    ours = {spec.name for spec in TOPICS}
    return [name for name in await bus.topics() if name not in ours]


def test_the_page_shows_the_file_and_the_file_needs_nothing_of_ours() -> None:
    page, code = (DOCS / "audit-consumer.md").read_text(), EXAMPLE.read_text()
    assert f"```python\n{code}```\n" in page, "docs/audit-consumer.md shows an older file"
    imported = [line for line in code.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imported if "libs" in line or "services" in line]
