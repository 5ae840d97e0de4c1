"""ExecutorDriver on libs/mesos' executor client, and what a report becomes as a TaskStatus."""

from __future__ import annotations

import random
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic import ValidationError

from libs.common.clock import Clock, Ids
from libs.common.errors import InvalidInput
from libs.common.problems import invalid
from libs.common.task import Ahead, MakeReady, TaskPayload, TellAnew
from libs.mesos.environment import ExecutorEnvironment
from libs.mesos.events import Acknowledged, ExecutorEvent, ExecutorSubscribed
from libs.mesos.executor import ExecutorClient
from libs.mesos.messages import KillPolicy, TaskInfo, TaskStatus, UpdateCall
from libs.mesos.ports import Transport
from services.executor.model import AttemptId
from services.executor.moves import Report


class MesosDriver:
    """See ExecutorDriver. One subscription at a time."""

    def __init__(
        self,
        transport: Transport,
        environment: ExecutorEnvironment,
        *,
        clock: Clock,
        rng: random.Random,
        ids: Ids,
    ) -> None:
        self._transport = transport
        self._environment = environment
        self._clock = clock
        self._rng = rng
        self._ids = ids
        self._client = self._make((), ())
        self._missed: dict[str, TaskStatus] = {}  # by uuid

    def _make(self, tasks: Sequence[TaskInfo], updates: Sequence[UpdateCall]) -> ExecutorClient:
        return ExecutorClient(
            self._transport,
            self._environment,
            clock=self._clock,
            rng=self._rng,
            ids=self._ids,
            tasks=tasks,
            updates=updates,
        )

    @property
    def shutdown_grace_s(self) -> float:
        """See ExecutorDriver."""
        return self._environment.shutdown_grace_s

    @asynccontextmanager
    async def subscribe(
        self, tasks: Sequence[TaskInfo], updates: Sequence[UpdateCall]
    ) -> AsyncIterator[AsyncIterator[ExecutorEvent]]:
        """See ExecutorDriver."""
        client = self._client = self._make(tasks, updates)
        async with client.subscribe() as events:
            stream = self._told(events)
            try:
                yield stream
            finally:
                await stream.aclose()

    async def _told(
        self, events: AsyncIterator[ExecutorEvent]
    ) -> AsyncGenerator[ExecutorEvent, None]:
        async for event in events:
            match event:
                case ExecutorSubscribed():
                    # An update made while SUBSCRIBE was under way is in no request yet.
                    for status in list(self._missed.values()):
                        await self.update(status)
                case Acknowledged(_, uuid):
                    self._missed.pop(uuid, None)
            yield event

    def make_status(self, task_id: str, state: str, fields: Mapping[str, Any]) -> TaskStatus:
        """See ExecutorDriver."""
        return self._client.make_status(task_id, state, **fields)

    async def update(self, status: TaskStatus) -> None:
        """See ExecutorDriver."""
        if await self._client.update(status):
            self._missed.pop(status["uuid"], None)
        else:
            self._missed[status["uuid"]] = status


def asked_anew(data: bytes) -> tuple[AttemptId, ...]:
    """The attempts that a MESSAGE of the scheduler's asks for; none when it says something else."""
    try:
        return tuple(map(AttemptId, TellAnew.model_validate_json(data).attempts))
    except ValidationError:
        return ()


def ahead_of(data: bytes) -> tuple[Ahead, ...]:
    """What a MESSAGE of the scheduler's says that runs will want; none when it says something else."""
    try:
        return MakeReady.model_validate_json(data, extra="ignore").ahead
    except ValidationError:
        return ()


def payload_of(task: TaskInfo) -> TaskPayload:
    """What the scheduler put into the task. Raises InvalidInput."""
    try:
        return TaskPayload.model_validate_json(
            b64decode(task.get("data", ""), validate=True), extra="ignore"
        )
    except ValidationError as error:
        raise invalid(error, prefix="data.") from None
    except ValueError as error:
        raise InvalidInput.of("data", f"is not base64: {error}") from None


def status_fields(report: Report) -> dict[str, Any]:
    """The fields of a TaskStatus besides those that every one has."""
    fields: dict[str, Any] = {
        "message": report.message,
        "data": b64encode(report.report.model_dump_json().encode()).decode(),
    }
    if report.reason:
        fields["reason"] = report.reason
    if report.healthy is not None:
        fields["healthy"] = report.healthy
    if report.report.address:
        addresses = [{"protocol": "IPv4", "ip_address": report.report.address}]
        fields["container_status"] = {"network_infos": [{"ip_addresses": addresses}]}
    return fields


def grace_of(policy: KillPolicy | None) -> float | None:
    """The grace period of a kill policy in seconds, None when it has none."""
    if policy is None or "grace_period" not in policy:
        return None
    return int(policy["grace_period"]["nanoseconds"]) / 1e9
