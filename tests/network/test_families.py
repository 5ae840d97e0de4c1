"""Both families across hosts: each other is reached at both, and what somebody else uses is given to nobody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from libs.common.errors import NotFound
from tests.network import places
from tests.network.site import Site, open_site, until
from tests.stranger import STRANGER_MAC, stranger

pytestmark = pytest.mark.asyncio(loop_scope="module")

NETWORK = "dual"
DUAL: dict[str, Any] = {
    "name": NETWORK,
    "vlan": 400,
    "cidr": "10.91.0.0/24",
    "gateway": "10.91.0.1",
    "cidr6": "fd91::/64",
    "gateway6": "fd91::ffff",
}
PORT = 8080
ENGINE_ID = "ab" * 32


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dual_site() -> AsyncIterator[Site]:
    """Two hosts, and a network of both families."""
    async with open_site(2, networks=[DUAL]) as opened:
        yield opened


def of_family(view: dict[str, Any], family: int) -> str:
    """An attachment's address."""
    (found,) = [str(each["address"]) for each in view["addresses"] if each["family"] == family]
    return found


async def reaches(sender: dict[str, Any], receiver: dict[str, Any], family: int) -> str:
    """What a server at the receiver's address tells the sender; it is asked once."""
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    with places.being_in(receiver["namespace"]):
        listener = socket.socket(kind, socket.SOCK_STREAM)
    with places.being_in(sender["namespace"]):
        client = socket.socket(kind, socket.SOCK_STREAM)
    with listener, client:
        listener.bind((of_family(receiver, family), PORT))
        listener.listen()
        listener.setblocking(False)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            await loop.sock_connect(client, (of_family(receiver, family), PORT))
            accepted, peer = await loop.sock_accept(listener)
            with accepted:
                await loop.sock_sendall(accepted, str(peer[0]).encode())
                return (await loop.sock_recv(client, 100)).decode()


async def test_each_other_is_reached_at_both_addresses(dual_site: Site) -> None:
    one, two = dual_site.hosts
    views = await asyncio.gather(one.add("acme-a-1", NETWORK), two.add("acme-b-1", NETWORK))
    try:
        for family in (4, 6):
            for sender, receiver in (views, reversed(views)):
                assert await reaches(sender, receiver, family) == of_family(sender, family)
    finally:
        await asyncio.gather(one.delete("acme-a-1"), two.delete("acme-b-1"))

    async def all_back() -> bool:
        return all(each["state"] != "allocated" for each in await dual_site.used(NETWORK))

    await until(all_back, lambda: "addresses are not given back")


@pytest.mark.parametrize("family", [4, 6])
async def test_an_address_that_somebody_uses_is_kept_from_all(dual_site: Site, family: int) -> None:
    """Found by asking the wire at its first use: ipam sets it aside, and the container gets another one."""
    host, name = dual_site.hosts[0], f"acme-c-{family}"
    claims = await _never_used(dual_site, family)
    with stranger(f"/run/netns/{dual_site.trunk}", "trunk", claims):
        view = await host.add(name, NETWORK)
        taken = of_family(view, family)
        assert taken in claims
        with pytest.raises(NotFound):
            await host.register(name, ENGINE_ID)
    try:
        again = await host.add(name, NETWORK)
        assert of_family(again, family) != taken
        await host.register(name, ENGINE_ID)
        states = {each["address"]: each for each in await dual_site.used(NETWORK)}
        assert states[taken]["state"] == "quarantined"
        assert states[taken]["seen_mac"] == STRANGER_MAC
        assert {states[of_family(again, each)]["state"] for each in (4, 6)} == {"allocated"}
    finally:
        await host.delete(name)


async def _never_used(site: Site, family: int) -> set[str]:
    """Addresses that nobody has had; the next one to be given is among them."""
    used = {each["address"] for each in await site.used(NETWORK)}
    every = (
        [f"10.91.0.{n}" for n in range(2, 200)]
        if family == 4
        else [f"fd91::{n:x}" for n in range(1, 200)]
    )
    return set(every) - used
