"""What ipam does on behalf of a host belongs to the trace that the host's call came with."""

from __future__ import annotations

import json

from libs.common.events import EVENT_TYPES
from tests.simulation.loop import World, virtual
from tests.unit.ipam.test_service import config
from tests.unit.ipam.world import body_of, served


@virtual
async def test_an_event_is_of_the_trace_of_whoever_asked(world: World) -> None:
    async with served(world, config()) as ipam:
        asked = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
        body = json.dumps(body_of("a", "h1")).encode()
        path = "/v1/attachments/a.eth0"
        answer = await ipam.clients["h1"].call("ipam", "PUT", path, body=body, headers=asked)
        assert answer.status == 200
        bus = ipam.small.bus
        start = dict.fromkeys(await bus.end_offsets(["ip.allocated"]), 0)
        async for delivered in bus.read(["ip.allocated"], start):
            _, envelope = EVENT_TYPES.open(delivered.record)
            break
        assert envelope.cause.traceparent.split("-")[1] == "ab" * 16
