"""A consumer process for the tests to kill: URL GROUP TOPIC COUNT. It fetches, says so, and never commits."""

from __future__ import annotations

import asyncio
import sys

from libs.common.clock import SystemClock
from libs.common.runtime import open_bus


async def main(url: str, group: str, topic: str, count: int) -> None:
    """Fetch `count` records, print a line, wait for the end."""
    bus = await open_bus(url, SystemClock())
    seen = 0
    async with bus.consumer(group, [topic]) as consumer:
        while seen < count:
            seen += len(await consumer.fetch(100, 1.0))
        print("fetched", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
