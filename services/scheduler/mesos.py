"""Mesos as the scheduler sees it: a stream of events, and a few actions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import aiohttp

from libs.common.errors import InvalidInput, TimedOut, Unavailable
from libs.common.runtime import Runtime
from libs.common.task import MakeReady, TellAnew
from libs.mesos import calls, errors
from libs.mesos.credentials import open_credentials
from libs.mesos.events import SchedulerEvent
from libs.mesos.framework import FrameworkClient, Permit
from libs.mesos.keepalive import KeepAliveTransport
from libs.mesos.messages import FrameworkInfo
from libs.mesos.scheduler import SchedulerClient
from services.scheduler.model import (
    Acknowledge,
    Action,
    AskAnew,
    Decline,
    Kill,
    Launch,
    Prepare,
    Reconcile,
    Revive,
    Suppress,
)
from services.scheduler.settings import SchedulerConfig
from services.scheduler.tasks import EXECUTOR_ID

ACKNOWLEDGED_TOGETHER = 64
LAUNCH_REFUSE_S = 0.0
"""What a LAUNCH leaves of its offer is offered again at once: there may be more to place."""


class MesosDriver(Protocol):
    """The framework's side of a Mesos master. Adapters pass one contract suite."""

    def subscribe(
        self, permit: Permit
    ) -> AbstractAsyncContextManager[AsyncIterator[SchedulerEvent]]:
        """Subscribe and stay subscribed; losses show as Disconnected events, the end as Error.

        `permit` is asked each time before; what it raises ends it.
        """
        ...

    async def do(self, action: Action) -> None:
        """Do one thing. Raises Unavailable or TimedOut; it may have been done all the same."""
        ...


OpenDriver = Callable[
    [Runtime, SchedulerConfig, FrameworkInfo], AbstractAsyncContextManager[MesosDriver]
]


def together(actions: Sequence[Action]) -> list[Action]:
    """The actions, with up to ACKNOWLEDGED_TOGETHER acknowledgements made one, and all questions by name made one."""
    heard = [each for one in actions if isinstance(one, Acknowledge) for each in one.statuses]
    lots = [
        Acknowledge(tuple(heard[at : at + ACKNOWLEDGED_TOGETHER]))
        for at in range(0, len(heard), ACKNOWLEDGED_TOGETHER)
    ]
    named = tuple(task for each in actions if isinstance(each, Reconcile) for task in each.tasks)
    questions = [Reconcile(named)] if named else []
    rest = [
        each
        for each in actions
        if not isinstance(each, Acknowledge) and not (isinstance(each, Reconcile) and each.tasks)
    ]
    return [*lots, *questions, *rest]


class ClientDriver:
    """The driver on one of libs/mesos' clients."""

    def __init__(self, client: FrameworkClient) -> None:
        self._client = client

    def subscribe(
        self, permit: Permit
    ) -> AbstractAsyncContextManager[AsyncIterator[SchedulerEvent]]:
        """See MesosDriver."""
        return self._client.subscribe(permit)

    async def do(self, action: Action) -> None:
        """See MesosDriver."""
        try:
            await self._do(action)
        except errors.CallTimeout as error:
            raise TimedOut(str(error)) from error
        except errors.MesosError as error:
            raise Unavailable(f"Mesos: {error}") from error

    async def _do(self, action: Action) -> None:
        client = self._client
        match action:
            case Launch(offers, _agent, tasks):
                launch = [calls.launch(list(tasks))]
                await client.accept(list(offers), launch, calls.filters(LAUNCH_REFUSE_S))
            case Decline(offers, refuse_s):
                await client.decline(list(offers), calls.filters(refuse_s))
            case Kill(task, agent, grace_s):
                await client.kill(task, agent, grace_s)
            case Acknowledge(statuses):
                await client.acknowledge_all(statuses)
            case AskAnew(attempts, agent):
                asked = TellAnew(attempts=attempts).model_dump_json().encode()
                await client.message(agent, EXECUTOR_ID, asked)
            case Prepare(ahead, agent):
                wanted = MakeReady(ahead=ahead).model_dump_json().encode()
                await client.message(agent, EXECUTOR_ID, wanted)
            case Reconcile(tasks):
                await client.reconcile(_named(tasks))
            case Revive():
                await client.revive()
            case Suppress():
                await client.suppress()


def _named(tasks: Sequence[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    return [(task, agent or None) for task, agent in tasks]


@asynccontextmanager
async def open_http_driver(
    rt: Runtime, config: SchedulerConfig, info: FrameworkInfo
) -> AsyncIterator[MesosDriver]:
    """The default driver: libs/mesos' own client on asyncio."""
    credentials = open_credentials("scheduler", config.principal, config.credential_file)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = SchedulerClient(
            KeepAliveTransport(session),
            list(config.masters),
            info,
            clock=rt.clock,
            rng=rt.rng,
            credentials=credentials,
        )
        yield ClientDriver(client)


@asynccontextmanager
async def open_pymesos_driver(
    rt: Runtime, config: SchedulerConfig, info: FrameworkInfo
) -> AsyncIterator[MesosDriver]:
    """The driver through pymesos. Raises InvalidInput where it is not installed, or can't reach such a master."""
    try:
        # Not before it is wanted: it is an extra, and does things at import.
        from libs.mesos.pymesos_client import PymesosClient
    except ModuleNotFoundError as error:
        what = f"pymesos is not installed ({error.name} is missing)"
        raise InvalidInput.of("scheduler.driver", what, "libs, or the extra `pymesos`") from error
    try:
        client = PymesosClient(
            config.masters,
            info,
            clock=rt.clock,
            rng=rt.rng,
            credentials=open_credentials("scheduler", config.principal, config.credential_file),
        )
    except ValueError as error:
        raise InvalidInput.of("scheduler.masters", str(error), "host:port") from error
    yield ClientDriver(client)


def open_driver(
    rt: Runtime, config: SchedulerConfig, info: FrameworkInfo
) -> AbstractAsyncContextManager[MesosDriver]:
    """The driver that the configuration names."""
    opener = open_pymesos_driver if config.driver == "pymesos" else open_http_driver
    return opener(rt, config, info)
