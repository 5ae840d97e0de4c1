"""What events ask of the scheduler, as inputs for its loop: instances that should exist, or should no longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from libs.common.consume import Handlers, Together
from libs.common.events import Envelope
from libs.common.events import model as ev
from services.scheduler.cluster import Cluster
from services.scheduler.core import Input
from services.scheduler.model import Instance, InstanceId, Retell, Unwant, Want
from services.scheduler.store import SchedulerStore


class Submit(Protocol):
    """Hands inputs to the loop; returns when what they lead to is saved."""

    async def __call__(self, *given: Input) -> None: ...


class Intake:
    """Handlers of requests. Whoever asks again for an instance that there is, ended or not, is told how it is."""

    def __init__(self, cluster: Cluster, store: SchedulerStore, submit: Submit) -> None:
        self._cluster = cluster
        self._store = store
        self._submit = submit
        self.handlers: Handlers = {
            ev.InstanceRequested: self._on_requested,
            ev.InstanceStopRequested: self._on_stop_requested,
        }
        self.together: Together = {ev.InstanceRequested: self._on_all_requested}

    async def _on_requested(self, event: ev.InstanceRequested, envelope: Envelope) -> None:
        given = self._input(event, envelope, await self._store.get(event.instance))
        if given is not None:
            await self._submit(given)

    async def _on_all_requested(
        self, asked: Sequence[tuple[ev.InstanceRequested, Envelope]]
    ) -> None:
        """The store is asked once whom of them it knows, and what they lead to is saved as one."""
        while asked:
            wave: dict[str, tuple[ev.InstanceRequested, Envelope]] = {}
            again = [each for each in asked if wave.setdefault(each[0].instance, each) is not each]
            stored = await self._store.get_many(list(wave))
            given = [self._input(*each, stored.get(name)) for name, each in wave.items()]
            await self._submit(*[each for each in given if each is not None])
            asked = again

    def _input(
        self, event: ev.InstanceRequested, envelope: Envelope, known: Instance | None
    ) -> Input | None:
        return self._wish(event, envelope) if known is None else _told_anew(known, envelope)

    def _wish(self, event: ev.InstanceRequested, envelope: Envelope) -> Want:
        cause = envelope.caused()
        return Want(
            Instance(
                id=InstanceId(event.instance),
                app=event.app,
                release=event.release,
                deployment=event.deployment,
                spec=self._cluster.shared(event.app, event.spec),
                traceparent=cause.traceparent,
                correlation=cause.correlation_id,
                asked=envelope.sequence,
                direct_until=cause.direct_until,
            )
        )

    async def _on_stop_requested(self, event: ev.InstanceStopRequested, envelope: Envelope) -> None:
        instance_id, until = InstanceId(event.instance), envelope.cause.direct_until
        given: Input | None = Unwant(instance_id, event.app, event.reason, envelope.sequence, until)
        if instance_id not in self._cluster.instances:
            known = await self._store.get(instance_id)
            if known is not None:
                given = _told_anew(known, envelope)
        if given is not None:
            await self._submit(given)


def _told_anew(stored: Instance, envelope: Envelope) -> Retell | None:
    """What a request leads to that names a stored instance; nothing, when it is a copy of an older one."""
    if envelope.sequence <= stored.asked:
        return None
    return Retell(stored, envelope.sequence, envelope.cause.direct_until)
