"""What a framework can do, whichever way its calls and events travel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from libs.mesos import calls, events
from libs.mesos.errors import MesosError, NotConnected
from libs.mesos.messages import Call, Filters, FrameworkInfo, Operation, TaskStatus
from libs.mesos.subscription import Options

PATH = "/api/v1/scheduler"

LinkT = TypeVar("LinkT")
Permit = Callable[[], None]
"""Raises, with an error that is no `MesosError`, when no SUBSCRIBE may be sent now."""


def always() -> None:
    """The `Permit` of who need not ask."""


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """Bounds of a scheduler's subscription and calls; times in seconds."""

    subscription: Options = field(default_factory=Options)
    call_timeout_s: float = 10.0


class FrameworkClient(ABC):
    """One framework's subscription to the leading master, and its calls.

    The leader is found by redirects. The framework id is taken from the first SUBSCRIBED and used
    for every later subscription; give `framework["id"]` to fail over from an earlier process.
    `suppressed_roles` get no offers from the start. One subscription and one consumer at a time.
    """

    def __init__(self, framework: FrameworkInfo, suppressed_roles: Sequence[str]) -> None:
        self._framework = framework
        self._suppressed_roles = tuple(suppressed_roles)
        self._permit: Permit = always

    @property
    def framework_id(self) -> str | None:
        """None before the first subscription."""
        return self._framework["id"]["value"] if "id" in self._framework else None

    @abstractmethod
    def subscribe(
        self, permit: Permit = always
    ) -> AbstractAsyncContextManager[AsyncIterator[events.SchedulerEvent]]:
        """Typed events, re-subscribing inside; leaving the block closes the stream.

        `Disconnected` stands where it broke. After `Error` the iterator ends: what to do about
        a lost framework is the caller's decision. `permit` is asked before each SUBSCRIBE, which
        throws out whoever is subscribed with this id; what it raises, the iterator does.
        """

    @abstractmethod
    async def call(self, call: Call) -> None:
        """Send `call` on the present subscription; success means accepted, not carried out.

        Raises `NotConnected` (nothing sent), `NotSubscribed`, `BadCall`, `NotLeader`,
        `Unavailable`, `CallTimeout` or `TransportError` (it may have been carried out).
        """

    def _subscribe_call(self) -> Call:
        self._permit()
        return calls.subscribe(self._framework, self._suppressed_roles)

    def _learn(self, event: events.SchedulerEvent) -> None:
        if isinstance(event, events.Subscribed):
            self._framework = {**self._framework, "id": calls.value(event.framework_id)}

    def _addressed(self, call: Call, link: LinkT | None) -> tuple[LinkT, Mapping[str, Any]]:
        """The way to the master, and the call with the framework's id. Raises `NotConnected`."""
        if link is None or self.framework_id is None:
            raise NotConnected(f"{call['type']}: not subscribed")
        return link, {**call, "framework_id": calls.value(self.framework_id)}

    async def accept(
        self,
        offer_ids: Iterable[str],
        operations: Sequence[Operation],
        filters: Filters | None = None,
    ) -> None:
        """ACCEPT; what is wrong with it is told by events."""
        await self.call(calls.accept(offer_ids, operations, filters))

    async def decline(self, offer_ids: Iterable[str], filters: Filters | None = None) -> None:
        """DECLINE."""
        await self.call(calls.decline(offer_ids, filters))

    async def revive(self, roles: Sequence[str] = ()) -> None:
        """REVIVE."""
        await self.call(calls.revive(roles))

    async def suppress(self, roles: Sequence[str] = ()) -> None:
        """SUPPRESS."""
        await self.call(calls.suppress(roles))

    async def kill(
        self, task_id: str, agent_id: str | None = None, grace_s: float | None = None
    ) -> None:
        """KILL."""
        await self.call(calls.kill(task_id, agent_id, grace_s))

    async def acknowledge(self, status: TaskStatus) -> None:
        """ACKNOWLEDGE, or nothing when the status needs none."""
        if (call := calls.acknowledge(status)) is not None:
            await self.call(call)

    async def acknowledge_all(self, statuses: Iterable[TaskStatus]) -> None:
        """ACKNOWLEDGE all of them. Raises what the first failed with, of those that did, after the last."""
        failed: MesosError | None = None
        for status in statuses:
            try:
                await self.acknowledge(status)
            except MesosError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    async def reconcile(self, tasks: Iterable[tuple[str, str | None]] = ()) -> None:
        """RECONCILE (task id, agent id) pairs, or everything."""
        await self.call(calls.reconcile(tasks))

    async def message(self, agent_id: str, executor_id: str, data: bytes) -> None:
        """MESSAGE to an executor."""
        await self.call(calls.message(agent_id, executor_id, data))

    async def shutdown(self, executor_id: str, agent_id: str) -> None:
        """SHUTDOWN an executor."""
        await self.call(calls.shutdown(executor_id, agent_id))

    async def teardown(self) -> None:
        """TEARDOWN the framework for good."""
        await self.call(calls.teardown())

    async def update_framework(
        self, framework: FrameworkInfo, suppressed_roles: Sequence[str] = ()
    ) -> None:
        """UPDATE_FRAMEWORK; later subscriptions carry the new info too."""
        framework_id = self._framework.get("id")
        wanted: FrameworkInfo = {**framework, "id": framework_id} if framework_id else framework
        await self.call(calls.update_framework(wanted, suppressed_roles))
        self._framework = wanted
        self._suppressed_roles = tuple(suppressed_roles)
