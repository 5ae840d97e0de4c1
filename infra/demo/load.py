"""Continuous load on the demo's app: `python -m infra.demo.load --url URL --out FILE`, until SIGTERM.

Every request must be answered with 200 by some version of the app; whatever else happens is counted as a failure and
described. The counts are written to FILE twice a second, so that each phase of the demo can be judged by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

WRITE_EVERY_S = 0.5
TIMEOUT_S = 15.0
KEPT_ERRORS = 50


@dataclass
class Counts:
    """What the load has seen so far."""

    requests: int = 0
    failed: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0

    def failure(self, text: str) -> None:
        """Count a failed request."""
        self.failed += 1
        if len(self.errors) < KEPT_ERRORS:
            self.errors.append(f"{time.strftime('%H:%M:%S')} {text}")

    def write(self, file: Path) -> None:
        """Put the counts into the file, whole."""
        content = {
            "requests": self.requests,
            "failed": self.failed,
            "versions": dict(self.versions),
            "errors": self.errors,
            "slowest_ms": round(self.slowest_ms, 1),
        }
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(content))
        fresh.replace(file)


async def client(session: aiohttp.ClientSession, url: str, pause_s: float, counts: Counts) -> None:
    """One client: a request after the other, with a short pause between them."""
    while True:
        started = time.monotonic()
        try:
            async with session.get(url) as answer:
                content = await answer.json(content_type=None)
                if answer.status == 200:
                    counts.versions[str(content["version"])] += 1
                else:
                    counts.failure(f"status {answer.status}")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
            counts.failure(f"{type(error).__name__}: {error}")
        counts.requests += 1
        counts.slowest_ms = max(counts.slowest_ms, (time.monotonic() - started) * 1000)
        await asyncio.sleep(pause_s)


async def main(url: str, out: Path, clients: int, pause_s: float) -> None:
    """Load until SIGTERM."""
    counts = Counts()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        tasks = [loop.create_task(client(session, url, pause_s, counts)) for _ in range(clients)]
        while not stop.is_set():
            counts.write(out)
            try:
                async with asyncio.timeout(WRITE_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                pass
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    counts.write(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two requests")
    given = parser.parse_args()
    asyncio.run(main(given.url, given.out, given.clients, given.pause))
