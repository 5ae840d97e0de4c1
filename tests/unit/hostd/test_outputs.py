"""What runs write, as lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from libs.common.clock import SystemClock
from libs.common.errors import NotFound
from libs.common.outputs import Entries, place_of
from services.hostd.logs import MAX_LINE_BYTES
from services.hostd.outputs import GAP, FileOutputs, LineSplitter
from services.hostd.ports import LogQuery

CONTAINER, RUN = "gantry-test-bu-runs-1.1", "job-1"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = place_of(tmp_path, CONTAINER)
    (place / "out").mkdir(parents=True)
    (place / "out/c1").write_text("one\ntwo\nthr")
    Entries(place).add(f"{RUN}.1", "c1")
    return place


async def said(lines: AsyncIterator[bytes]) -> list[str]:
    return [each["line"] async for chunk in lines for each in objects(chunk)]


def objects(chunk: bytes) -> list[dict[str, str]]:
    found = [orjson.loads(each) for each in chunk.splitlines()]
    assert all((each["time"], each["stream"]) == ("", "output") for each in found)
    return found


async def test_what_is_there_now(tmp_path: Path, place: Path) -> None:
    outputs = FileOutputs(tmp_path, SystemClock())
    for tail, lines in ((None, ["one", "two", "thr"]), (2, ["two", "thr"]), (0, [])):
        assert await said(await outputs.of_run(CONTAINER, RUN, LogQuery(tail=tail))) == lines
    for container, run in ((CONTAINER, "other"), ("other", RUN), ("..", RUN)):
        with pytest.raises(NotFound):
            await outputs.of_run(container, run, LogQuery())


async def test_what_comes_until_it_ends(tmp_path: Path, place: Path) -> None:
    outputs = FileOutputs(tmp_path, SystemClock())
    lines = await outputs.of_run(CONTAINER, RUN, LogQuery(tail=1, follow=True))
    async with asyncio.timeout(20):
        assert [each["line"] for each in objects(await anext(lines))] == ["two"]
        with (place / "out/c1").open("a") as file:
            file.write("ee\nfour\n")
        assert [each["line"] for each in objects(await anext(lines))] == ["three", "four"]
        with (place / "out/c1").open("a") as file:
            file.write("five\nand no more")
        Entries(place).remove(f"{RUN}.1")
        (place / "out/c1").unlink()
        assert await said(lines) == ["five", "and no more"]


async def test_what_may_be_missing_is_said(tmp_path: Path, place: Path) -> None:
    file = place / "out/c1"
    lines = await FileOutputs(tmp_path, SystemClock()).of_run(CONTAINER, RUN, LogQuery(follow=True))
    async with asyncio.timeout(20):
        await anext(lines)
        for text in ("lost\n", "ee\nfo", "ur\n"):
            file.rename(place / "out/c1.1")
            file.write_text(text)
        told: list[dict[str, str]] = []
        while len(told) < 4:
            told += [orjson.loads(each) for each in (await anext(lines)).splitlines()]
    assert [each["line"] for each in told] == ["thr", GAP.decode(), "ee", "four"]
    assert [each["stream"] for each in told] == ["output", "gantry", "output", "output"]


def test_lines_that_do_not_end_are_cut() -> None:
    split = LineSplitter()
    assert split.feed(b"a" * (MAX_LINE_BYTES - 1)) == []
    (long,) = split.feed(b"bc")
    assert orjson.loads(long)["line"].endswith("abc")
    (left,) = split.feed(b"d\xff\r\n")
    assert orjson.loads(left)["line"] == "d\ufffd"
    assert split.end() == []
