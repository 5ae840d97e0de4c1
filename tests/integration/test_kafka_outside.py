"""The door of infra/compose/kafka-outside.yml on a real Kafka, with the commands of the operations guide."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
)

from infra.kafka.provisioner import KafkaProvisioner, kafka_libs
from infra.provision import process
from infra.provision.certificates import make_certificates
from infra.provision.process import free_ports
from tests.servers import REPOSITORY

FILE = REPOSITORY / "infra/compose/kafka-outside.yml"
GUIDE = (REPOSITORY / "docs/operations.md").read_text()
USER, PASSWORD = "acme-audit", "right-7d1c"
MINE, NOT_MINE = "audit.recorded", "instance.requested"
CLASSES = {
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
    "kafka-acls.sh": "kafka.admin.AclCommand",
}


def properties(environment: dict[str, str]) -> dict[str, str]:
    """As the upstream image names them: KAFKA_A_B___C is a.b-c."""
    found = {}
    for name, value in environment.items():
        key = name.removeprefix("KAFKA_").lower().replace("___", "-").replace("_", ".")
        found[key] = value
    return found


@dataclass
class Broker:
    """A broker with both doors."""

    inside: str
    outside: str
    authority: Path

    def known(self, password: str = PASSWORD) -> dict[str, Any]:
        """How a client of another team connects."""
        return {
            "bootstrap_servers": self.outside,
            "security_protocol": "SASL_SSL",
            "ssl_context": ssl.create_default_context(cafile=str(self.authority)),
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": USER,
            "sasl_plain_password": password,
        }


@asynccontextmanager
async def broker(directory: Path) -> AsyncIterator[Broker]:
    """The provisioner's broker with the file's settings, at free ports and with a certificate of its own."""
    server = await KafkaProvisioner(directory).server()
    (outside,) = free_ports(1)
    inside = server.url.removeprefix("kafka://")
    made = await make_certificates(directory)
    keystore = directory / "keystore.pem"
    keystore.write_text(made.key.read_text() + made.certificate.read_text())
    given = yaml.safe_load(FILE.read_text())["services"]["kafka"]["environment"]
    wanted = properties(given)
    present = dict(
        line.split("=", 1)
        for line in (directory / "server.properties").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    controller = present["listeners"].rpartition("CONTROLLER:")[2]
    wanted["listeners"] = (
        f"PLAINTEXT://{inside},CONTROLLER:{controller},OUTSIDE://127.0.0.1:{outside}"
    )
    wanted["advertised.listeners"] = f"PLAINTEXT://{inside},OUTSIDE://127.0.0.1:{outside}"
    wanted["listener.name.outside.ssl.keystore.location"] = str(keystore)
    with (directory / "server.properties").open("a") as out:
        out.writelines(f"{key}={value}\n" for key, value in wanted.items())
    await server.start()
    try:
        yield Broker(inside, f"127.0.0.1:{outside}", made.authority)
    finally:
        await server.stop()


async def as_the_guide_says(tool: str, broker: Broker, directory: Path) -> None:
    """Run the guide's command with that tool, inside of what the container is there."""
    found = re.search(rf"exec -T kafka /opt/kafka/bin/{tool} ([^\n]+)", GUIDE)
    assert found
    words = found[1].replace("localhost:9092", broker.inside).split()
    if "<password" in words:
        words.remove("<password")
    file = directory / "password.properties"
    file.write_text(f"SCRAM-SHA-512=password={PASSWORD}\n")
    words = [str(file) if word == "/dev/stdin" else word for word in words]
    libs = await kafka_libs()
    java = ("java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/libs/*")
    await process.run((*java, CLASSES[tool], *words), timeout_s=60)


@pytest.mark.timeout(280)
async def test_outsiders_come_by_tls_and_read_what_they_may(tmp_path: Path) -> None:
    async with broker(tmp_path / "kafka") as kafka:
        for tool in CLASSES:
            await as_the_guide_says(tool, kafka, tmp_path)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.inside)
        await admin.start()
        await admin.create_topics([NewTopic(topic, 1, 1) for topic in (MINE, NOT_MINE)])
        await admin.close()
        async with AIOKafkaProducer(bootstrap_servers=kafka.inside) as service:
            for topic in (MINE, NOT_MINE):
                await service.send_and_wait(topic, b"told")
        group = {"group_id": USER, "auto_offset_reset": "earliest"}
        async with AIOKafkaConsumer(MINE, **kafka.known(), **group) as consumer:
            assert (await consumer.getone()).value == b"told"
        foreign = {**group, "group_id": "gateway"}
        with pytest.raises(GroupAuthorizationFailedError):
            async with AIOKafkaConsumer(MINE, **kafka.known(), **foreign) as consumer:
                await consumer.getone()
        with pytest.raises(TopicAuthorizationFailedError):
            async with AIOKafkaConsumer(NOT_MINE, **kafka.known(), **group) as consumer:
                await consumer.getone()
        with pytest.raises(TopicAuthorizationFailedError):
            async with AIOKafkaProducer(**kafka.known()) as producer:
                await producer.send_and_wait(MINE, b"forged")
        with pytest.raises(KafkaConnectionError):
            async with AIOKafkaProducer(**kafka.known("wrong")):
                pass
