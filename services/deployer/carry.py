"""Carries out what an app's document intends: releases and deployments filed, instances made and stopped.

All of it may be repeated, by anybody, at any time: an instance is inserted under the id that the intent gives it,
and one that is to be stopped already stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from libs.common.clock import Clock, Ids
from libs.common.errors import Unavailable
from libs.common.events import Cause, Event, seal
from libs.common.outbox import Kick
from libs.common.store.base import Write
from services.deployer.core import Decision
from services.deployer.instances import Change, born, doomed
from services.deployer.model import (
    App,
    Birth,
    Death,
    Deployment,
    Instance,
    InstanceId,
    Intents,
    Release,
    Wanted,
)
from services.deployer.store import Kept, Repository, write_of

TRIES = 5
Fleet = dict[str, Kept[Instance]]


def intended(
    decision: Decision,
    ids: Ids,
    *,
    earlier: Intents | None = None,
    releases: Sequence[Release] = (),
    filed: Sequence[Deployment] = (),
) -> App:
    """The decision's app with the writes to other documents that it entails, after `earlier` ones."""
    app, before = decision.app, earlier or Intents()
    births = tuple(
        Birth(
            id=InstanceId(f"{app.bu}-{app.name}-{ids.short()}"),
            release=each.release,
            slot=each.slot,
            deployment=each.deployment,
            rollback=each.rollback,
        )
        for each in decision.make
    )
    deaths = tuple(Death(id=name, reason=reason) for name, reason in decision.stop)
    ended = (decision.ended,) if decision.ended is not None else ()
    intents = Intents(
        births=(*before.births, *births),
        deaths=(*before.deaths, *deaths),
        releases=(*before.releases, *releases),
        deployments=(*before.deployments, *ended, *filed),
    )
    return app.model_copy(update={"intents": intents})


class Carrier:
    """Writes instances, and their events with them."""

    def __init__(self, repo: Repository, clock: Clock, kick: Kick) -> None:
        self._repo = repo
        self._clock = clock
        self._kick = kick

    async def carry_out(self, app: App, fleet: Fleet) -> Fleet:
        """Make the intents true; the fleet as it is then."""
        intents = app.intents
        await self._repo.file_releases(intents.releases)
        await self._repo.file_deployments(intents.deployments)
        missing = [each for each in intents.births if each.id not in fleet]
        if missing:
            fleet = await self._make(app, missing, fleet)
        reasons = {each.id: each.reason for each in intents.deaths}
        victims = [
            name for name in reasons if name in fleet and fleet[name].value.wanted is Wanted.RUN
        ]
        return await self.change(
            fleet,
            victims,
            lambda each: doomed(each, reasons[each.id], self._clock.now(), app.direct_until),
        )

    async def change(
        self, fleet: Fleet, names: Iterable[str], how: Callable[[Instance], Change]
    ) -> Fleet:
        """Apply `how` to the instances, anew to those that somebody else changed meanwhile.

        Raises Unavailable when one is being changed all the time; what is done then is done.
        """
        fleet, todo = dict(fleet), list(names)
        for _ in range(TRIES):
            if not todo:
                return fleet
            lost = await self._write(fleet, todo, how)
            if lost:
                fresh = await self._repo.get_instances(lost)
                fleet.update(fresh)
                todo = [name for name in lost if name in fresh]
            else:
                todo = []
        if todo:
            raise Unavailable(f"{len(todo)} instances are being changed all the time")
        return fleet

    async def _write(
        self, fleet: Fleet, names: Sequence[str], how: Callable[[Instance], Change]
    ) -> list[str]:
        """Writes what changes, into the fleet too; the names of those that were refused."""
        now = self._clock.now()
        changed = {name: how(fleet[name].value) for name in names}
        moved = [name for name in names if changed[name][0] is not fleet[name].value]
        writes = []
        for name in moved:
            instance, event = changed[name]
            kept = fleet[name]
            writes.append(_write(kept, instance, event, now))
        results = await self._repo.save_instances(writes)
        self._told(writes, results)
        lost = []
        for name, ok in zip(moved, results, strict=True):
            if ok:
                fleet[name] = Kept(fleet[name].version + 1, changed[name][0])
            else:
                lost.append(name)
        return lost

    async def _make(self, app: App, births: Sequence[Birth], fleet: Fleet) -> Fleet:
        releases = await self.releases(app, {each.release for each in births})
        now = self._clock.now()
        made = {each.id: born(each, app, releases[each.release], now) for each in births}
        writes = [_write(Kept(0, each), each, event, now) for each, event in made.values()]
        results = await self._repo.save_instances(writes)
        self._told(writes, results)
        fleet = dict(fleet)
        there: list[str] = []  # made by another replica, or by us before a crash
        for name, ok in zip(made, results, strict=True):
            if ok:
                fleet[name] = Kept(1, made[name][0])
            else:
                there.append(name)
        if there:
            fleet.update(await self._repo.get_instances(there))
        return fleet

    def _told(self, writes: Sequence[Write], results: Sequence[bool]) -> None:
        done = [write for write, ok in zip(writes, results, strict=True) if ok]
        events = [event for write in done for event in write.events]
        if events:
            self._kick(events)

    async def releases(self, app: App, numbers: Iterable[int]) -> Mapping[int, Release]:
        """The releases, which must exist; their documents follow the app's at once."""
        found: dict[int, Release] = {}
        for number in sorted(set(numbers)):
            release = await self._repo.release(app.id, number)
            if release is None:
                raise Unavailable(f"release {number} of {app.id} is not filed yet")
            found[number] = release
        return found


def _write(kept: Kept[Instance], instance: Instance, event: Event | None, now: float) -> Write:
    events = () if event is None else (event,)
    cause = Cause(traceparent=instance.traceparent, direct_until=instance.direct_until)
    sealed = seal(events, source="deployer", sequence=kept.version + 1, now=now, cause=cause)
    return write_of(instance.id, kept, instance, sealed)
