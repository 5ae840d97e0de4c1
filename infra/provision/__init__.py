"""Servers for tests and for a single machine, started for real.

    async with kafka(tmp_path / "kafka") as broker:
        client = AIOKafkaProducer(bootstrap_servers=broker.address)
        await broker.kill9()
        await broker.start()

Each of `kafka`, `mongo`, `zookeeper`, `registry`, `engine` and `ovs` yields a `Server` that
answers, and stops it on leaving. Where the server comes from is decided in `sources.py`.
"""

from infra.provision.errors import ProvisionError
from infra.provision.server import Control, OvsServer, Server
from infra.provision.sources import engine, kafka, mongo, ovs, registry, zookeeper

__all__ = [
    "Control",
    "OvsServer",
    "ProvisionError",
    "Server",
    "engine",
    "kafka",
    "mongo",
    "ovs",
    "registry",
    "zookeeper",
]
