"""The scheduler's framework at Mesos: subscribed, removed by an operator, or begun anew.

A framework that Mesos has removed is never let in again: subscribing with its id is refused once and for all, and its
tasks have been killed. Nothing is tried then, and nothing in the store changes, before a person says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from libs.common.errors import Conflict, Fenced, Unavailable
from libs.common.runtime import Runtime
from libs.mesos import events as mesos
from libs.mesos.framework import Permit
from services.scheduler.core import Input
from services.scheduler.mesos import MesosDriver, OpenDriver
from services.scheduler.model import Action
from services.scheduler.settings import SchedulerConfig
from services.scheduler.store import Framework
from services.scheduler.tasks import framework_info

REMOVED = "Framework has been removed"
"""Mesos' text, after a teardown and when the failover time-out is over."""

Save = Callable[[Framework], Awaitable[Framework]]


class Membership:
    """One leader's subscription. `put` takes what the core is to know, `save` stores the framework document.

    `permit` raises Fenced when another may lead: whose stream a SUBSCRIBE, which no epoch fences either, would end.
    """

    def __init__(
        self,
        rt: Runtime,
        config: SchedulerConfig,
        framework: Framework,
        open_driver: OpenDriver,
        put: Callable[[Input], Awaitable[None]],
        save: Save,
        permit: Permit,
    ) -> None:
        self.framework = framework
        self.alarm = ""
        self.removed = False
        self._rt = rt
        self._log = rt.telemetry.log
        self._config = config
        self._open_driver = open_driver
        self._put = put
        self._save = save
        self._permit = permit
        self._driver: MesosDriver | None = None
        self._anew = asyncio.Event()

    async def run(self) -> None:
        """Be subscribed until cancelled. Raises Fenced when there is a newer scheduler of this framework, or may be."""
        while True:
            info = framework_info(self._config, self.framework.id)
            async with self._open_driver(self._rt, self._config, info) as self._driver:
                await self._listen(self._driver)
                self._driver = None
                await self._put(mesos.Disconnected(self.alarm, False, 0.0))
            await self._anew.wait()
            self._anew.clear()

    async def _listen(self, driver: MesosDriver) -> None:
        async with driver.subscribe(self._permit) as events:
            async for event in events:
                match event:
                    case mesos.Subscribed(framework_id):
                        await self._remember(framework_id)
                        await self._put(event)
                    case mesos.Disconnected(reason):
                        self._log.warning("mesos is away", reason=reason)
                        await self._put(event)
                    case mesos.Offers() | mesos.Rescind() | mesos.Update() | mesos.Failure():
                        await self._put(event)
                    case mesos.Error(message) if "failed over" in message:
                        raise Fenced(f"Mesos: {message}")
                    case mesos.Error(message):
                        # An operator removed us, or we were away for too long: a person must decide.
                        self.alarm, self.removed = f"Mesos: {message}", message == REMOVED
                        self._log.error("mesos refuses the framework", message=message)
                    case _:
                        pass

    async def _remember(self, framework_id: str) -> None:
        if self.framework.id != framework_id:
            self._log.info("subscribed", framework=framework_id)
            known = self.framework
            given = Framework(framework_id, known.executor_command, known.version)
            self.framework = await self._save(given)

    async def do(self, action: Action) -> None:
        """See MesosDriver. Raises Unavailable without a subscription."""
        if self._driver is None:
            raise Unavailable("not subscribed to Mesos")
        await self._driver.do(action)

    def must_be_removed(self) -> None:
        """Raise Conflict unless Mesos has removed the framework: any other is carried on with."""
        if not self.removed:
            raise Conflict("Mesos has not removed the framework")

    async def begin_anew(self, executor_command: str) -> None:
        """Forget the id and register as a new framework, which may have another executor's command."""
        self.must_be_removed()
        self.framework = await self._save(Framework("", executor_command, self.framework.version))
        self.alarm, self.removed = "", False
        self._log.warning("registers as a new framework")
        self._anew.set()
