"""The services of one process: run side by side, each started again when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from libs.common.backoff import Backoff
from libs.common.keys import SecretFile
from libs.common.runtime import ServiceMain, Shared, open_runtime
from libs.common.store.upkeep import is_outdated, keep_documents
from libs.common.telemetry import make_log
from libs.common.waiting import TaskGroup, contained

RESTARTS = 10
RESTART_WINDOW_S = 300.0


async def supervise(shared: Shared, service: str, main: ServiceMain) -> None:
    """Run a service and restart it when it fails, alone, with a back-off.

    More than RESTARTS failures within RESTART_WINDOW_S end the process, and so does one that another release alone can
    mend: something outside must look at it.
    """
    backoff = Backoff(0.2, 10.0)
    failed_at: list[float] = []
    log = make_log(service, level=shared.common.log_level)
    while True:
        try:
            async with open_runtime(shared, service) as rt:
                with contained("a library has cancelled a call of its own"):
                    await main(rt)
                return
        except Exception as error:
            now = shared.clock.monotonic()
            failed_at = [t for t in failed_at if now - t < RESTART_WINDOW_S] + [now]
            log.error("service failed", failures=len(failed_at), exc_info=error)
            if len(failed_at) > RESTARTS or is_outdated(error):
                raise
        await shared.clock.sleep(backoff.delay_s(len(failed_at), shared.rng))


async def run_services(shared: Shared, mains: Mapping[str, ServiceMain]) -> None:
    """Run several services in this process until cancelled; secret files and documents are looked after meanwhile."""
    async with TaskGroup() as group:
        running = [
            group.create_task(supervise(shared, service, main), name=service)
            for service, main in mains.items()
        ]
        log = make_log("process", level=shared.common.log_level)
        beside = [
            group.create_task(keep_documents(shared.store, shared.ids.short(), shared.clock, log))
        ]
        if isinstance(shared.secret, SecretFile):
            beside.append(group.create_task(shared.secret.watch(shared.clock, log)))
        await asyncio.wait(running)
        for each in beside:
            each.cancel()
