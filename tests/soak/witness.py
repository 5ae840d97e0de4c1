"""Who is told by the runs themselves that they begin and end: `python -m tests.soak.witness`, in the edge's namespace.

A run's process sends a line `begin <bu>/<job> <token> <host> <task>` before its work and `end …` after it, or when it
is told to end, and waits for the answer `seen`; the token is its own, and all of its output. So there is a record of
what ran that owes nothing to scheduler, executor or engine; but for host and task, which are what Chronos' tries are
told of themselves. It is a file of lines `{"at": Unix seconds, "what": "begin" or "end", "job": …, "token": …, …}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

TALK_S = 10
_WORDS = ("what", "job", "token", "host", "task")


@dataclass(frozen=True)
class Seen:
    """A process that was there. Times are the witness's, Unix seconds; `end` None: it was not heard of again."""

    job: str
    token: str
    begin: float
    end: float | None = None
    host: str = ""
    task: str = ""  # Chronos' id of its try


def command(host: str, port: int, job: str, lasts_s: float) -> tuple[str, ...]:
    """What a run does: tell the witness, be busy for so long, tell it again. It fails if nobody answers.

    Who is told to end says so, too: in what is under way when another run replaces it, nothing else would.
    """
    script = (
        "read token < /proc/sys/kernel/random/uuid; echo $token; "
        f"line='{job} '$token' '$HOST' '$mesos_task_id; "
        f'tell() {{ test "$(echo $1 $line | nc -w {TALK_S} {host} {port})" = seen; }}; '
        "trap 'kill $!; wait; tell end; exit 143' TERM; "
        f"tell begin && {{ sleep {lasts_s:.2f} & wait $!; }} && tell end"
    )
    return "/bin/sh", "-c", script


def read(lines: Iterable[str]) -> list[Seen]:
    """What is in the file, by begin."""
    begins: list[Seen] = []
    ends: dict[str, float] = {}
    for line in lines:
        told = json.loads(line)
        if told["what"] == "end":
            ends[told["token"]] = told["at"]
        else:
            about = {"host": told.get("host", ""), "task": told.get("task", "")}
            begins.append(Seen(told["job"], told["token"], told["at"], **about))
    return [replace(each, end=ends.get(each.token)) for each in begins]


async def main(host: str, port: int, out: Path) -> None:
    """Listen until SIGTERM."""
    with out.open("a", buffering=1) as file:

        async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(TALK_S):
                    words = (await reader.readline()).decode().split()
                    if len(words) == len(_WORDS) and words[0] in ("begin", "end"):
                        told = {"at": time.time(), **dict(zip(_WORDS, words, strict=True))}
                        file.write(json.dumps(told) + "\n")
                        writer.write(b"seen\n")
                        await writer.drain()
            except (OSError, TimeoutError):
                pass  # who told nothing whole was not seen, and fails
            finally:
                writer.close()

        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with await asyncio.start_server(hear, host, port):
            await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak.witness")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    asyncio.run(main(given.host, given.port, given.out))
