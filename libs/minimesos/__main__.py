"""`python -m libs.minimesos all|master|agent --flags`; one line of JSON on stdout when it listens."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import orjson
import uvloop

from libs.common.clock import RngIds, SystemClock, system_rng
from libs.minimesos.embedded import EmbeddedConfig, embedded
from libs.minimesos.errors import MinimesosError
from libs.minimesos.flags import Options, known_flags, parse
from libs.minimesos.links import agent_routes, follow_master
from libs.minimesos.nodes import AgentNode, MasterNode, task_group


@asynccontextmanager
async def running(options: Options, stop: asyncio.Event) -> AsyncIterator[dict[str, object]]:
    """Start what the options name; the value is what is printed when ready."""
    clock, ids = SystemClock(), RngIds(system_rng())
    if options.mode == "all":
        config = EmbeddedConfig(options.work_dir, options.master, options.agents)
        async with embedded(config, clock=clock, ids=ids) as cluster:
            yield {"master": cluster.master_url, "agents": list(cluster.agent_urls)}
        return
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(task_group())
        if options.mode == "master":
            opened = MasterNode.open(
                options.master, options.work_dir, clock, ids, tasks, agent_routes
            )
            master = await stack.enter_async_context(opened)
            yield {"master": master.url, "agents": []}
            return
        given = options.agents[0]
        agent = await stack.enter_async_context(
            AgentNode.open(given, options.work_dir, clock, ids, tasks)
        )
        link = tasks.create_task(follow_master(agent, clock))
        watch = tasks.create_task(_stop_with(agent, stop))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, agent.unregister)
        try:
            yield {"master": f"http://{given.master}", "agents": [agent.url]}
        finally:
            link.cancel()
            watch.cancel()


async def _stop_with(agent: AgentNode, stop: asyncio.Event) -> None:
    await agent.stopped.wait()
    stop.set()


async def main(options: Options) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(options, stop) as ready:
        line = orjson.dumps({**ready, "pid": os.getpid()}, option=orjson.OPT_APPEND_NEWLINE)
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        await stop.wait()


if __name__ == "__main__":
    # A hundred thousand tasks are long-lived objects: looking at them again and again is waste.
    gc.set_threshold(100_000, 20, 50)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        uvloop.run(main(parse(sys.argv[1:])))
    except MinimesosError as problem:
        sys.exit(f"minimesos: {problem}\nflags: " + " ".join("--" + n for n in known_flags()))
