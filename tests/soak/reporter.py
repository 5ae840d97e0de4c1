"""Who tells how runs of `async` jobs ended: over Chronos' API, as its clients do, by the id that each try is given.

Of each process that the witness hears begin, one word is given some seconds later: that it went well, or with which
status it failed. Often another word follows, which says the contrary, and must count for nothing.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import aiohttp

from tests.soak.witness import Seen, read

WITHIN_S = 6.0  # of its process' begin, the word is given
FAILS = 0.25
CONTRADICTS = 0.5
POLL_S = 0.1
PATIENCE_S = 120.0
TALK_S = 20.0


@dataclass
class Word:
    """What was told of a process. Unix seconds; `notes`: why nothing came of it, as the API said."""

    token: str
    status: int
    asked: float
    acknowledged: float = math.inf
    notes: str = ""


class Reporter:
    """Reads along in the witness's file. `jobs` are those whose ends are told."""

    def __init__(
        self, file: Path, url: str, key: str, jobs: Container[str], rng: random.Random
    ) -> None:
        self._file = file
        self._url = url
        self._auth = {"Authorization": aiohttp.encode_basic_auth("acme", key)}
        self._jobs = jobs
        self._rng = rng
        self._at = 0
        self.words: list[Word] = []

    async def run(self, until: float) -> None:
        """Until a Unix time; what has begun by then is told all the same. Raises TimeoutError when nobody takes it."""
        timeout = aiohttp.ClientTimeout(total=TALK_S)
        async with (
            aiohttp.ClientSession(self._url, headers=self._auth, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            while time.time() < until:
                for seen in self._news():
                    group.create_task(self._tell(session, seen))
                await asyncio.sleep(POLL_S)

    def _news(self) -> list[Seen]:
        with self._file.open("rb") as file:
            file.seek(self._at)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._at += len(whole) + len(newline)
        begun = [
            line for line in whole.decode().splitlines() if json.loads(line)["what"] == "begin"
        ]
        return [each for each in read(begun) if each.job in self._jobs]

    async def _tell(self, session: aiohttp.ClientSession, seen: Seen) -> None:
        status = self._rng.randrange(1, 100) if self._rng.random() < FAILS else 0
        contradicts = self._rng.random() < CONTRADICTS
        await asyncio.sleep(self._rng.random() * WITHIN_S)
        word = Word(seen.token, status, time.time())
        self.words.append(word)
        word.notes = await self._put(session, seen.task, status)
        word.acknowledged = time.time()
        if contradicts:
            await self._put(session, seen.task, 0 if status else 1)

    async def _put(self, session: aiohttp.ClientSession, task: str, status: int) -> str:
        """Until it is acknowledged. When an answer was lost, what the next one notes says nothing."""
        doubtful = False
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    path = f"/scheduler/task/{quote(task, safe=':')}"
                    async with session.put(path, json={"statusCode": status}) as answer:
                        if answer.status == 204:
                            return "" if doubtful else answer.headers.get("X-Gantry-Notes", "")
                except (aiohttp.ClientError, TimeoutError):
                    pass
                doubtful = True
                await asyncio.sleep(1.0)
