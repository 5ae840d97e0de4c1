"""Every port that the compose files open asks who is there; a registry login reads and writes, and deletes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp

from tests.unit.infra.compose import control, published

# Inside port → what only those who are known may ask there. ZooKeeper's own protocol is no HTTP: its nodes are closed.
ASKED = {
    8080: (("GET", "/v1/apps"), ("GET", "/metrics")),
    8081: (("GET", "/v1/apps"), ("GET", "/metrics")),
    8083: (("GET", "/v1/networks"), ("GET", "/metrics")),
    5050: (("GET", "/state"), ("POST", "/api/v1"), ("POST", "/api/v1/scheduler")),
    5000: (("GET", "/v2/_catalog"), ("POST", "/v2/acme/web/blobs/uploads/")),
}
ZOOKEEPER = 2181
ON_A_HOST = {
    8085: (("GET", "/v1/attachments"), ("GET", "/metrics")),
    5051: (("GET", "/state"), ("POST", "/api/v1"), ("POST", "/api/v1/executor")),
}


def knocks(control_address: str, host_address: str) -> list[tuple[str, str]]:
    """Methods and URLs. Raises AssertionError when the file publishes a port that is not known here."""
    found = []
    for name, service in control()["services"].items():
        for port, (address, inside) in published(service).items():
            assert inside in ASKED or inside == ZOOKEEPER, f"{name}: what is asked at {inside}?"
            place = address if address == "127.0.0.1" else control_address
            found += [(m, f"http://{place}:{port}{path}") for m, path in ASKED.get(inside, ())]
    for port, asked in ON_A_HOST.items():
        found += [(m, f"http://{host_address}:{port}{path}") for m, path in asked]
    return found


async def open_doors(control_address: str, host_address: str) -> AsyncIterator[str]:
    """What lets strangers in."""
    async with aiohttp.ClientSession() as session:
        for method, url in knocks(control_address, host_address):
            async with session.request(method, url, json={"type": "SUBSCRIBE"}) as answer:
                if answer.status != 401:
                    yield f"{method} {url} answers {answer.status}"


async def loose_logins(registry: str, user: str, password: str, image: str) -> AsyncIterator[str]:
    """What a login at the registry (`host:port`) can't do and should, or can and should not; `image` is by digest."""
    path, _, digest = image.partition("/")[2].partition("@")
    manifest = f"http://{registry}/v2/{path}/manifests/{digest}"
    mine = {"Authorization": aiohttp.encode_basic_auth(user, password)}
    wrong = {"Authorization": aiohttp.encode_basic_auth(user, "wrong")}
    async with aiohttp.ClientSession() as session:
        for method, headers, expected in (
            ("HEAD", mine, 200),
            ("HEAD", wrong, 401),
            ("DELETE", wrong, 401),
            ("DELETE", mine, 405),
        ):
            async with session.request(method, manifest, headers=headers) as answer:
                if answer.status != expected:
                    yield f"{method} {manifest} answers {answer.status}, not {expected}"
