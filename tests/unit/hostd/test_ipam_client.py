"""hostd's client of ipam: one address or two, an ipam of today or an older one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from libs.common.errors import Unavailable
from libs.common.http import Response
from services.hostd.ipam import HttpIpam
from services.hostd.model import (
    Address,
    Address6,
    Attachment,
    AttachmentId,
    AttachmentSpec,
    PendingRelease,
    Phase,
)

OLD = {
    "attachment": "a.eth0", "network": "red", "address": "10.0.0.5", "prefix_len": 24, "gateway": "",
    "vlan": 100, "generation": 3, "mtu": 1400,
}  # fmt: skip
FOUR = {
    "family": 4,
    "address": "10.0.0.5",
    "prefix_len": 24,
    "gateway": "10.0.0.1",
    "generation": 3,
    "pool": "default",
}
SIX = {
    "family": 6,
    "address": "fd00:0::5",
    "prefix_len": 64,
    "gateway": "fe80::1",
    "generation": 8,
    "pool": "default6",
}
IP6 = Address6(ip="fd00::5", prefix=64, gateway="fe80::1", generation=8)
DUAL = {**OLD, "gateway": "10.0.0.1", "addresses": [FOUR, SIX]}
ONLY6 = {**OLD, **SIX, "addresses": [SIX]}


class Peer:
    """An ipam that gives one answer and remembers what it was asked."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, Any]] = []

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        self.asked.append((method, path, orjson.loads(body) if body else None))
        return Response(200, orjson.dumps(self.answer))


def attachment(address: Address | None = None) -> Attachment:
    return Attachment(
        id=AttachmentId("a1"),
        container="a",
        ifname="eth0",
        ipam_key="a.eth0",
        spec=AttachmentSpec(network="red"),
        phase=Phase.ADDRESSING,
        created_at=0,
        address=address,
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (OLD, Address(ip="10.0.0.5", prefix=24, vlan=100, mtu=1400, generation=3)),
        (
            DUAL,
            Address(
                ip="10.0.0.5", prefix=24, gateway="10.0.0.1", vlan=100, mtu=1400, generation=3, ip6=IP6
            ),
        ),
        (ONLY6, Address(vlan=100, mtu=1400, ip6=IP6)),
    ],
)  # fmt: skip
async def test_addresses_of_either_family_or_both(
    answer: dict[str, Any], expected: Address
) -> None:
    peer = Peer(answer)
    assert await HttpIpam(peer, "host-1").allocate(attachment()) == expected


async def test_a_release_carries_the_generation_of_each() -> None:
    for answer, query in (
        (DUAL, "generation=3&reason=del&generation6=8"),
        (ONLY6, "generation=8&reason=del"),
        (OLD, "generation=3&reason=del"),
    ):
        peer = Peer(answer)
        given = await HttpIpam(peer, "host-1").allocate(attachment())
        first, second = given.generations()
        for known in (first, None):
            pending = PendingRelease(
                ipam_key="a.eth0",
                spec=attachment().spec,
                generation=known,
                generation6=second if known else None,
                since=0,
            )
            await HttpIpam(peer, "host-1").release(pending)
            assert peer.asked[-1][:2] == ("DELETE", f"/v1/attachments/a.eth0?{query}")


async def test_the_report_has_an_entry_an_address() -> None:
    peer = Peer({})
    given = await HttpIpam(Peer(DUAL), "host-1").allocate(attachment())
    await HttpIpam(peer, "host-1").report_live(["a.eth0"], [attachment(given), attachment()])
    held = peer.asked[0][2]["held"]
    assert [(each["address"], each["generation"]) for each in held] == [
        ("10.0.0.5", 3),
        ("fd00::5", 8),
    ]


@pytest.mark.parametrize(
    "change", [{"vlan": 5000}, {"address": "x"}, {"addresses": [{**SIX, "address": "x"}]}]
)
async def test_what_cannot_be_used_is_no_answer(change: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="can't be used"):
        await HttpIpam(
            Peer({**DUAL, **change, "addresses": change.get("addresses", [])}), "h"
        ).allocate(attachment())
