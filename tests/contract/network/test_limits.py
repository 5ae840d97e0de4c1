"""Limits and MTU, tried: throughput between two namespaces, limited and not in one run; frames at an MTU and above."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services.hostd.model import NO_LIMITS, Bandwidth
from services.hostd.netns import LinuxNetwork
from services.hostd.ovs import OvsSwitch
from tests import frames as f
from tests.contract.network.conftest import CLUSTER, SwitchWorld, dual_port, dual_wire

pytestmark = pytest.mark.parametrize("switch", ["real"], indirect=True)

RUN_S = 0.6
TRIES = 6
LIMIT_KBIT = 8_000
ONE, TWO = "10.77.0.1", "10.77.0.2"


@dataclass
class Pair:
    """Two attachments on one bridge; their namespaces' paths."""

    network: LinuxNetwork
    driver: OvsSwitch
    paths: list[str]

    async def limit(self, bandwidth: Bandwidth) -> None:
        """Give the first one these limits."""
        await self.network.ensure(replace(dual_wire(1), egress_kbit=bandwidth.egress_kbit))
        await self.driver.ensure([replace(dual_port(1), bandwidth=bandwidth), dual_port(2)])


@pytest.fixture
async def pair(switch: SwitchWorld, tmp_path: Path) -> AsyncIterator[Pair]:
    assert isinstance(switch.driver, OvsSwitch)
    network = LinuxNetwork(CLUSTER, tmp_path / "netns", checksum_offload=False)
    made = [await network.ensure(dual_wire(n)) for n in (1, 2)]
    await switch.driver.restore_flows(list)
    it = Pair(network, switch.driver, [each.path for each in made])
    await it.limit(NO_LIMITS)
    yield it
    network.close()


def throughput(source: str, sink: str, address: str) -> float:
    """What TCP brings from one namespace to `address` in the other, kbit/s."""
    received = 0

    def take(server: socket.socket) -> None:
        nonlocal received
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(1 << 18):
                received += len(data)

    with f.within(sink, lambda: socket.create_server((address, 9))) as server:
        thread = threading.Thread(target=take, args=(server,))
        thread.start()
        with f.within(source, lambda: socket.create_connection((address, 9), 5)) as sender:
            sender.settimeout(0.05)
            began = time.monotonic()
            while time.monotonic() - began < RUN_S:
                with contextlib.suppress(TimeoutError):
                    sender.send(bytes(65536))
            at_end = received  # first: a pause after it makes the result smaller, never larger
            took_s = time.monotonic() - began
        thread.join(20)
    return at_end * 8 / 1000 / took_s


async def test_limits_hold_in_the_direction_they_are_for(pair: Pair) -> None:
    # A bucket of an eighth of a second is full at the beginning: so much more, and some for the clock.
    least, most = LIMIT_KBIT * 0.3, LIMIT_KBIT * 1.6

    async def measured(
        enough: Callable[[tuple[float, float]], bool], capped: int | None = None
    ) -> tuple[float, float]:
        """Both ways; again when it was too little, as when somebody stalled. Too much is wrong at any time."""
        one, two = pair.paths
        for _ in range(TRIES):
            sends = await asyncio.to_thread(throughput, one, two, TWO)
            found = sends, await asyncio.to_thread(throughput, two, one, ONE)
            assert capped is None or found[capped] < most, found
            if enough(found):
                break
        return found

    free = await measured(lambda found: min(found) > 4 * LIMIT_KBIT)
    await pair.limit(Bandwidth(egress_kbit=LIMIT_KBIT))
    sending = await measured(lambda found: least < found[0] and most < found[1], capped=0)
    await pair.limit(Bandwidth(ingress_kbit=LIMIT_KBIT))
    receiving = await measured(lambda found: least < found[1] and most < found[0], capped=1)
    assert min(free) > 4 * LIMIT_KBIT, f"too slow to tell anything: {free}"
    assert least < sending[0] < most < sending[1]
    assert least < receiving[1] < most < receiving[0]
    await pair.limit(NO_LIMITS)
    assert (await pair.driver.view())[0].bandwidth == NO_LIMITS
    again = await measured(lambda found: min(found) > most)
    assert min(again) > most


async def test_limits_are_seen_and_leave_nothing(pair: Pair) -> None:
    limits = Bandwidth(egress_kbit=1000, ingress_kbit=2000)
    await pair.limit(limits)
    views = {view.name: view.bandwidth for view in await pair.driver.view()}
    assert views == {dual_port(1).name: limits, dual_port(2).name: NO_LIMITS}
    await pair.driver.remove([dual_port(1).name])
    db = pair.driver._db
    assert db is not None
    await db.until(lambda: not db.replica.tables["QoS"], "the limit stays in the database")


def arrives(sender: socket.socket, receiver: socket.socket, size: int) -> bool:
    """Whether one datagram of `size` bytes comes through, whole."""
    sender.sendto(bytes(size), (TWO, 9))
    try:
        return len(receiver.recv(65536)) == size
    except TimeoutError:
        return False


@pytest.mark.parametrize("mtu", [1400, 9000])
async def test_a_frame_at_the_mtu_passes_and_one_above_fails(pair: Pair, mtu: int) -> None:
    for n in (1, 2):
        await pair.network.ensure(replace(dual_wire(n), mtu=mtu))

    def run() -> None:
        receiver = f.within(pair.paths[1], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender = f.within(pair.paths[0], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with receiver, sender:
            receiver.bind((TWO, 9))
            receiver.settimeout(0.2)
            sender.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: never in fragments
            largest = mtu - 28
            # The switch hears of a device's new MTU from the kernel a moment later, and drops larger frames till then.
            assert any(arrives(sender, receiver, largest) for _ in range(50))
            with pytest.raises(OSError, match="too long"):
                sender.sendto(bytes(largest + 1), (TWO, 9))

    await asyncio.to_thread(run)
