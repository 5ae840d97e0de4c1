"""Kafka behind TLS and SASL: the bus works as ever, and whoever lacks something is told what, never a password.

The tests of the contract that are named below run here once more, against a broker that lets in nobody unknown.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from infra import provision
from infra.provision import Server
from infra.provision.certificates import make_certificates
from libs.common.bus.base import Bus
from libs.common.bus.kafka import KafkaBus
from libs.common.clock import SystemClock
from libs.common.errors import InvalidInput, Unavailable
from libs.common.runtime import open_bus
from tests.contract.bus.helpers import ONE, numbered, take, texts
from tests.contract.bus.test_groups import (  # noqa: F401 - they run here too
    test_a_group_resumes_at_what_it_committed,
    test_a_member_dies_and_the_others_take_over,
    test_what_was_not_committed_comes_again_after_a_crash,
)
from tests.contract.bus.test_log import (  # noqa: F401 - they run here too
    test_a_follower_sees_only_what_comes_after_it_began,
    test_a_record_comes_back_as_it_was_published,
    test_order_holds_per_key_and_a_key_stays_in_its_partition,
)
from tests.contract.bus.worlds import KafkaWorld, World, kafka_world_url
from tests.servers import ServerPark


@pytest.fixture(scope="module")
def server(server_park: ServerPark) -> Server:
    """A broker with SASL_SSL."""

    def secure(directory: Path) -> object:
        return provision.kafka(directory, secure=True)

    return server_park.start("kafka-doors", secure)  # type: ignore[arg-type]


@pytest.fixture
async def world(server: Server) -> AsyncIterator[World]:
    """A log of its own for each test."""
    async with AsyncExitStack() as stack:
        yield KafkaWorld(kafka_world_url(server.url), stack)


@pytest.fixture
async def bus(world: World) -> AsyncIterator[Bus]:
    """One handle."""
    opened = await world.open()
    yield opened
    await opened.close()


@pytest.fixture
def foreign_authority() -> Iterator[Path]:
    """An authority that signed nothing here."""
    directory = Path(tempfile.mkdtemp(prefix="gantry-"))
    yield asyncio.run(make_certificates(directory)).authority
    shutil.rmtree(directory)


def password_of(server: Server) -> str:
    return (server.data_dir / "password").read_text().strip()


async def test_plain_passwords_go_over_tls_too(server: Server) -> None:
    bus = await open_bus(f"{kafka_world_url(server.url)}&sasl=PLAIN", SystemClock())
    await bus.ensure_topics([ONE])
    await bus.publish(numbered("a", range(3)))
    async with bus.consumer("g", ["things"]) as consumer:
        assert texts(await take(consumer, 3)) == ["a:0", "a:1", "a:2"]
    await bus.close()


async def refusal(url: str, secret: str = "\0") -> str:
    """What is said when the bus is opened; and that nothing works for those who go on."""
    with pytest.raises(InvalidInput) as raised:
        await open_bus(url, SystemClock())
    bus = await KafkaBus.open(url, SystemClock())
    with pytest.raises(Unavailable) as unavailable:
        await bus.publish(numbered("a", [1]))
    await bus.close()
    said = f"{raised.value} {unavailable.value}"
    assert secret not in said
    return said


@pytest.mark.parametrize("sasl", ["SCRAM-SHA-512", "PLAIN"])
async def test_a_wrong_password_is_named_and_not_shown(
    server: Server, tmp_path: Path, sasl: str
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("hunter2-hunter2\n")
    url = server.url.replace(str(server.data_dir / "password"), str(wrong)) + f"&sasl={sasl}"
    said = await refusal(url, "hunter2")
    assert "refuses the password of 'gantry'" in said


async def test_a_broker_of_another_authority_is_not_trusted(
    server: Server, foreign_authority: Path
) -> None:
    url = server.url.replace(str(server.data_dir / "ca.pem"), str(foreign_authority))
    said = await refusal(url, password_of(server))
    assert "common.bus?cafile" in said and "is not trusted" in said


async def test_nobody_gets_in_without_tls_user_or_the_right_mechanism(server: Server) -> None:
    address = server.url.partition("@")[2].partition("?")[0]
    password = f"password_file={server.data_dir}/password"
    tls = f"tls=1&cafile={server.data_dir}/ca.pem"
    assert "speaks TLS only" in await refusal(f"kafka://{address}")
    assert "speaks TLS only" in await refusal(f"kafka://gantry@{address}?{password}")
    assert "takes nobody without a password" in await refusal(f"kafka://{address}?{tls}")
    said = await refusal(f"kafka://gantry@{address}?{tls}&{password}&sasl=SCRAM-SHA-256")
    assert "does not take SCRAM-SHA-256" in said


async def test_a_broker_without_doors_is_told_from_one_with(
    own_kafka: Server, tmp_path: Path
) -> None:
    address = own_kafka.url.partition("//")[2]  # a lent one may have them
    (tmp_path / "password").write_text("x")
    tls = f"kafka://{address}?tls=1"
    with pytest.raises(InvalidInput, match="does not speak TLS"):
        await open_bus(tls, SystemClock())
    with pytest.raises(InvalidInput, match="wants no user"):
        await open_bus(f"kafka://u@{address}?password_file={tmp_path}/password", SystemClock())
    bus = await open_bus(own_kafka.url, SystemClock())
    await bus.close()
