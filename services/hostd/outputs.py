"""OutputPort on the files that the executor keeps: what they are, `libs/common/outputs.py` says."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import orjson

from libs.common.clock import Clock
from libs.common.outputs import Output, place_of
from services.hostd.logs import MAX_LINE_BYTES
from services.hostd.ports import LogQuery

STREAM = "output"
"""Neither which of its outputs a run wrote to is known, nor when."""
GAP = b"[more was written here than was read in time: some of it may be missing]"
POLL_S = 0.2


class FileOutputs:
    """See OutputPort. `directory` has the places of all shared containers."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    async def of_run(self, container: str, run: str, query: LogQuery) -> AsyncIterator[bytes]:
        """See OutputPort."""
        place = place_of(self._directory, container)
        output = await asyncio.to_thread(Output, place, run)
        return self._lines(output, query)

    async def _lines(self, output: Output, query: LogQuery) -> AsyncIterator[bytes]:
        split, gaps = LineSplitter(), 0
        lines = deque[bytes](maxlen=query.tail)
        with closing(output):
            while True:
                over = output.over() or not query.follow
                while chunk := await asyncio.to_thread(output.read):
                    if output.gaps > gaps:
                        gaps = output.gaps
                        lines.extend((*split.end(), _line(GAP, "gantry")))
                    lines.extend(split.feed(chunk))
                    if lines.maxlen is None and lines:
                        yield b"".join(lines)
                        lines.clear()
                if over:
                    lines.extend(split.end())
                if lines:
                    yield b"".join(lines)
                if over:
                    return
                lines = deque()  # of what comes from now on, all
                await self._clock.sleep(POLL_S)


class LineSplitter:
    """Takes bytes, gives lines `{"time", "stream", "line"}` as JSON with a newline; a very long one in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Lines that are complete with `data`."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) >= MAX_LINE_BYTES:
            whole, self._rest = [*whole, self._rest], b""
        return [_line(each) for each in whole]

    def end(self) -> list[bytes]:
        """What is left when no more comes."""
        rest, self._rest = self._rest, b""
        return [_line(rest)] if rest else []


def _line(text: bytes, stream: str = STREAM) -> bytes:
    line = text.decode(errors="replace").rstrip("\r")
    return orjson.dumps({"time": "", "stream": stream, "line": line}) + b"\n"
