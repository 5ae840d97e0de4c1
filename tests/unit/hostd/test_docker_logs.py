"""A follower of a log goes on where it was when the engine loses its place; whoever reads to the end is told."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from libs.common.errors import Unavailable
from services.hostd.docker import RESUMES, DockerEngine
from services.hostd.ports import LogQuery


def frame(stream: int, text: str) -> bytes:
    return struct.pack("!BxxxI", stream, len(text)) + text.encode()


def lines(*numbers: int) -> bytes:
    """Of the container, one a second."""
    return frame(1, "".join(f"2026-01-31T09:00:{n:02}.000000000Z line {n}\n" for n in numbers))


LOST = frame(3, "Error grabbing logs: unexpected EOF\n")


@asynccontextmanager
async def engine(
    tmp_path: Path, answers: Sequence[bytes], terminal: bool = False
) -> AsyncIterator[tuple[DockerEngine, list[dict[str, str]]]]:
    """An engine's API as far as it is needed, with these answers in turn; and what was asked."""
    asked: list[dict[str, str]] = []

    async def inspect(_request: web.Request) -> web.Response:
        return web.json_response({"Id": "c" * 64, "Config": {"Tty": terminal}})

    async def logs(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.Response(body=answers[min(len(asked), len(answers)) - 1])

    app = web.Application()
    app.router.add_get("/v1.40/containers/{name}/json", inspect)
    app.router.add_get("/v1.40/containers/{name}/logs", logs)
    runner = web.AppRunner(app)
    await runner.setup()
    socket = tmp_path / "docker.sock"
    await web.UnixSite(runner, str(socket)).start()
    docker = DockerEngine("test", str(socket))
    try:
        yield docker, asked
    finally:
        await docker.close()
        await runner.cleanup()


async def told(docker: DockerEngine, query: LogQuery) -> list[str]:
    found = b"".join([chunk async for chunk in await docker.logs("web", query)])
    return [orjson.loads(each)["line"] for each in found.splitlines()]


async def test_a_follower_goes_on_and_is_told_each_line_once(tmp_path: Path) -> None:
    answers = [lines(1, 2, 3) + LOST, lines(2, 3, 4) + LOST, lines(3, 4, 5)]
    async with engine(tmp_path, answers) as (docker, asked):
        found = await told(docker, LogQuery(follow=True, tail=3))
        assert found == [f"line {n}" for n in range(1, 6)]
        assert [each["tail"] for each in asked] == ["3", "all", "all"]
        assert [int(each["since"]) - 1769850000 for each in asked[1:]] == [2, 3]


async def test_before_the_first_line_it_asks_the_same_again(tmp_path: Path) -> None:
    async with engine(tmp_path, [LOST, lines(1)]) as (docker, asked):
        assert await told(docker, LogQuery(follow=True, tail=1)) == ["line 1"]
        assert asked[0] == asked[1]


async def test_with_a_terminal_the_engine_speaks_in_between(tmp_path: Path) -> None:
    first = b"2026-01-31T09:00:01.000000000Z a\r\nError grabbing logs: unexpected EOF\n"
    answers = [first, b"2026-01-31T09:00:02.000000000Z b\r\n"]
    async with engine(tmp_path, answers, terminal=True) as (docker, _):
        assert await told(docker, LogQuery(follow=True)) == ["a", "b"]


async def test_where_it_gets_no_further_it_ends(tmp_path: Path) -> None:
    async with engine(tmp_path, [lines(1) + LOST]) as (docker, asked):
        with pytest.raises(Unavailable, match="unexpected EOF"):
            await told(docker, LogQuery(follow=True))
        assert len(asked) == RESUMES + 1


async def test_who_does_not_follow_is_told_that_lines_are_missing(tmp_path: Path) -> None:
    async with engine(tmp_path, [lines(1) + LOST]) as (docker, asked):
        with pytest.raises(Unavailable, match="lost its place"):
            await told(docker, LogQuery())
        assert len(asked) == 1
