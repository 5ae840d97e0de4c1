"""CNI's face on hostd's socket, and the replay of DELs that were kept while nobody listened there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from libs.common.errors import GantryError
from libs.common.http import Access, Request, Response, Route
from libs.common.waiting import TaskGroup
from services.hostd.cni.plugin import CniPlugin
from services.hostd.cni.ports import DelQueue
from services.hostd.service import HostdService

EXIT_HEADER = "x-cni-exit"


def cni_routes(plugin: CniPlugin) -> Sequence[Route]:
    """The one route of the shim; see `request.unframe` for its body. The answer's body is for stdout."""

    async def call(request: Request) -> Response:
        answer = await plugin.handle(request.body)
        return Response(200, answer.stdout, {EXIT_HEADER: "0" if answer.ok else "1"})

    return (Route("POST", "/v1/cni", call, Access.HOST, "A call of a CNI plugin"),)


@asynccontextmanager
async def replaying(
    service: HostdService, plugin: CniPlugin, queue: DelQueue
) -> AsyncIterator[None]:
    """Do the DELs that were kept, now and from time to time, until left."""
    async with TaskGroup() as group:
        task = group.create_task(_replay(service, plugin, queue))
        try:
            yield
        finally:
            task.cancel()


async def _replay(service: HostdService, plugin: CniPlugin, queue: DelQueue) -> None:
    log = service.telemetry.log
    kept = service.telemetry.gauge("hostd_cni_kept_deletes", "DELs kept until hostd can do them")
    while True:
        try:
            names = await queue.names()
            kept.set(len(names))
            for name in names:
                try:
                    if await plugin.replay(name):
                        log.info("did a kept DEL", name=name)
                except GantryError as error:  # the others may go
                    log.warning("a kept DEL waits", name=name, reason=str(error))
        except GantryError as error:
            log.warning("kept DELs wait", reason=str(error))
        await service.clock.sleep(service.settings.cni_replay_s)
