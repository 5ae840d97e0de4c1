"""Reads that come together are one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from libs.common.errors import Unavailable
from libs.common.gathering import Gathering


async def test_reads_of_one_turn_are_one() -> None:
    """Each caller gets its own value, and none what there is not."""
    asked: list[Sequence[str]] = []

    async def fetch(keys: Sequence[str]) -> Mapping[str, int]:
        asked.append(keys)
        return {key: len(key) for key in keys if key != "no"}

    reads = Gathering(fetch)
    found = await asyncio.gather(*(reads.get(key) for key in ("a", "bb", "no", "a")))
    assert found == [1, 2, None, 1]
    assert asked == [["a", "bb", "no"]]
    assert await reads.get("ccc") == 3


async def test_a_failure_is_everybodys_and_passes() -> None:
    """The next read tries anew."""
    fails = True

    async def fetch(keys: Sequence[str]) -> Mapping[str, int]:
        if fails:
            raise Unavailable("away")
        return dict.fromkeys(keys, 1)

    reads = Gathering(fetch)
    found = await asyncio.gather(reads.get("a"), reads.get("b"), return_exceptions=True)
    assert [type(each) for each in found] == [Unavailable, Unavailable]
    fails = False
    assert await reads.get("a") == 1


async def test_who_reads_for_others_may_be_cancelled() -> None:
    """They are told, and do not wait for ever."""

    async def fetch(keys: Sequence[str]) -> Mapping[str, int]:
        await asyncio.Event().wait()
        return {}

    reads = Gathering(fetch)
    first = asyncio.create_task(reads.get("a"))
    second = asyncio.create_task(reads.get("b"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    found = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(each) for each in found] == [asyncio.CancelledError, Unavailable]
