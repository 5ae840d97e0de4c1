"""The entry point of every service process: read the configuration, run until told to stop."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import uvloop
from pydantic import BaseModel

from libs.common import config
from libs.common.errors import GantryError, InvalidInput
from libs.common.runtime import CommonConfig, ServiceMain, Shared, open_shared, say_farewell
from libs.common.supervision import run_services
from libs.common.waiting import TaskGroup

EXIT_FAILED = 1
EXIT_USAGE = 2
STOP_S = 9.5
GC_AFTER = (200_000, 10, 10)
"""A service's documents live long, and lie in no cycles: looking at all of them again and again is waste."""


def read_settings(argv: list[str], sections: Mapping[str, type[BaseModel]]) -> config.Settings:
    """All sections from `--config FILE`, the environment and flags. Raises InvalidInput."""
    file = os.environ.get("GANTRY_CONFIG", "")
    flags: list[str] = []
    given = iter(argv)
    for each in given:
        if each == "--config":
            file = next(given, "")
        elif each.startswith("--config="):
            file = each.removeprefix("--config=")
        else:
            flags.append(each)
    return config.load(
        {"common": CommonConfig, **sections},
        file=Path(file) if file else None,
        environ=os.environ,
        flags=flags,
    )


Around = Callable[[Shared], AbstractAsyncContextManager[None]]


def main(
    mains: Mapping[str, ServiceMain],
    sections: Mapping[str, type[BaseModel]],
    around: Around | None = None,
) -> None:
    """Run services in this process until SIGTERM or SIGINT; exits 2 for a wrong configuration.

    `around` is entered before they start and left after they have stopped.
    """
    try:
        settings = read_settings(sys.argv[1:], sections)
    except InvalidInput as error:
        for each in error.problems:
            hint = f" (expected: {each.expected})" if each.expected else ""
            print(f"{each.field}: {each.problem}{hint}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    code = 0
    gc.set_threshold(*GC_AFTER)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(mains, settings, around))
    except* GantryError as group:
        print(f"gantry: {group.exceptions[0]}", file=sys.stderr)
        code = EXIT_FAILED
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process: everything is closed, and what a driver's threads still wait for matters to nobody."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _run(
    mains: Mapping[str, ServiceMain], settings: config.Settings, around: Around | None
) -> None:
    common = settings["common"]
    assert isinstance(common, CommonConfig)
    async with open_shared(common, settings) as shared, AsyncExitStack() as stack:
        if around is not None:
            await stack.enter_async_context(around(shared))
        await until_stopped(run_services(shared, mains))
        await say_farewell(shared, next(iter(mains)))


async def until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends, or SIGTERM or SIGINT cancels it.

    Then the process has STOP_S to end. One that hangs all the same says where, and ends as if it had been killed.
    """
    loop = asyncio.get_running_loop()
    async with TaskGroup() as group:
        task = group.create_task(work)

        def stop() -> None:
            faulthandler.dump_traceback_later(STOP_S, exit=True)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
