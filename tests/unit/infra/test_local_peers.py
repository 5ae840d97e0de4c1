"""The local cluster of many processes: each service has the addresses of all whom it calls, and the monitor of all."""

from __future__ import annotations

from pathlib import Path

from infra.local.distributed import SERVICES, DistributedStack
from infra.local.layout import Layout
from infra.provision.server import ExternalControl, Server
from tests.unit.infra.calls import calls


def test_each_service_knows_every_replica_that_it_calls_or_watches(tmp_path: Path) -> None:
    stack = DistributedStack(Layout("c", tmp_path), replicas=2)
    stack.servers = {
        kind: Server(kind, f"{scheme}://127.0.0.1:1", tmp_path, ExternalControl(kind))
        for kind, scheme in (
            *(("kafka", "kafka"), ("mongo", "mongodb")),
            *(("zookeeper", "zk"), ("registry", "http")),
        )
    }
    for name in stack.names:
        service = name.rpartition("-")[0]
        peers = stack.service_config(name)["common"]["peers"]
        called = set(SERVICES) if service == "monitor" else calls()[service]
        assert called <= peers.keys(), name
        for peer in called:
            assert peers[peer].split(",") == [stack.url_of(f"{peer}-{n}") for n in (1, 2)]
