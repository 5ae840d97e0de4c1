"""Ask instances for their version: `python -m infra.demo.ask PORT ADDRESS…` prints {version: count} as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import aiohttp

TIMEOUT_S = 15.0


async def main(port: int, addresses: list[str]) -> None:
    """Ask all at once; an instance that does not answer is an error."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:

        async def ask(address: str) -> str:
            async with session.get(f"http://{address}:{port}/") as answer:
                return str((await answer.json(content_type=None))["version"])

        versions = await asyncio.gather(*map(ask, addresses))
    print(json.dumps(Counter(versions)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
