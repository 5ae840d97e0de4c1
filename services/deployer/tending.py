"""What a round does besides deciding: stops that are due, requests made again, missed events, old documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote

from pydantic import ValidationError

from libs.common.clock import Clock
from libs.common.errors import GantryError
from libs.common.http import ServiceClient, call_json
from libs.common.telemetry import Log
from services.deployer import resync
from services.deployer.carry import Carrier, Fleet
from services.deployer.core import Decision
from services.deployer.instances import NUDGE_AFTER_S, asked_to_stop, is_over, nudge_s, nudged
from services.deployer.ledger import Ledger, cause_of
from services.deployer.model import App, DeployerConfig, Instance, State, Wanted
from services.deployer.resync import Row
from services.deployer.store import Kept, Repository

RESYNC_CALM_S = 300.0
RESYNC_BUSY_S = 30.0
FORGET_EVERY_S = 600.0
RESYNC_DIRECT_S = (
    3.0  # while a deployment does not wait for the bus: that may hold back what happened before
)


@dataclass
class Tending:
    """Keeps an app's instances tidy."""

    repo: Repository
    carrier: Carrier
    ledger: Ledger
    peers: ServiceClient
    clock: Clock
    log: Log
    config: DeployerConfig
    _forgot_at: dict[str, float] = field(default_factory=dict)
    _resynced_at: dict[str, float] = field(default_factory=dict)

    async def tend(self, kept: Kept[App], fleet: Fleet) -> float | None:
        """One round; seconds until the next is due, or None."""
        now = self.clock.now()
        direct_until = kept.value.direct_until
        fleet, changed = await self._resync(kept.value, fleet)
        if changed:
            return 0.0  # what was missed may change the decision
        due = [name for name, each in fleet.items() if asked_to_stop(each.value, now)[1]]
        fleet = await self.carrier.change(fleet, due, lambda each: asked_to_stop(each, now))
        wait_s = await self._nudge(kept.value, fleet)
        await self._forget(kept, fleet)
        await self._forget_releases(kept.value, fleet)
        if direct_until > now:
            return RESYNC_DIRECT_S if wait_s is None else min(wait_s, RESYNC_DIRECT_S)
        return wait_s

    async def _nudge(self, app: App, fleet: Fleet) -> float | None:
        now, direct_until = self.clock.now(), app.direct_until
        waits = {
            name: wait_s
            for name, each in fleet.items()
            if (wait_s := nudge_s(each.value, now, direct_until)) is not None
        }
        late = [name for name, wait_s in waits.items() if wait_s <= 0]
        if not late:
            return min(waits.values(), default=None)
        releases = await self.carrier.releases(app, {fleet[name].value.release for name in late})
        await self.carrier.change(
            fleet, late, lambda each: nudged(each, releases, now, direct_until)
        )
        self.log.warning("asked again", app=app.id, instances=len(late))
        return 1.0

    async def _resync(self, asking: App, fleet: Fleet) -> tuple[Fleet, bool]:
        """Ask the scheduler for what no event told: at times, and sooner while something hangs."""
        app, now = asking.id, self.clock.now()
        hangs = any(
            now - each.value.changed_at > RESYNC_BUSY_S and not _is_well(each.value)
            for each in fleet.values()
            if each.value.state is not State.GONE
        )
        pause_s = RESYNC_BUSY_S if hangs else RESYNC_CALM_S
        if asking.direct_until > now:
            pause_s = RESYNC_DIRECT_S
        if now - self._resynced_at.setdefault(app, now) < pause_s:
            return fleet, False
        self._resynced_at[app] = now
        rows = await self._rows(app)
        if rows is None:
            return fleet, False
        instances = [each.value for each in fleet.values()]
        gone = set(resync.unlisted(instances, rows, NUDGE_AFTER_S, now))
        names = [name for name in fleet if name in gone or name in rows]
        after = await self.carrier.change(
            fleet,
            names,
            lambda each: (
                resync.ended(each, now)
                if each.id in gone
                else resync.caught_up(each, rows[each.id], now),
                None,
            ),
        )
        changed = sum(after[name].value is not fleet[name].value for name in names if name in after)
        if changed:
            self.log.warning("caught up with the scheduler", app=app, instances=changed)
        return after, changed > 0

    async def _rows(self, app: str) -> dict[str, Row] | None:
        """The scheduler's instances of an app; None when it can't be asked now."""
        try:
            path = f"/v1/instances?app={quote(app, safe='')}"
            content = await call_json(self.peers, "scheduler", "GET", path)
            rows = [Row.model_validate(each) for each in content["instances"]]
        except (GantryError, ValidationError, KeyError, TypeError) as error:
            self.log.info("the scheduler was not asked", app=app, error=type(error).__name__)
            return None
        return {each.instance: each for each in rows}

    async def _forget_releases(self, app: App, fleet: Fleet) -> None:
        """Delete old releases; nobody can go back to them any more. What exists in one, or may yet, keeps it."""
        below = app.last_release - self.config.keep_releases + 1
        now = self.clock.now()
        if below <= 1 or now - self._forgot_at.get(app.id, 0.0) < FORGET_EVERY_S:
            return
        self._forgot_at[app.id] = now
        running = app.deployment
        of_use = {app.release, app.previous, *(each.value.release for each in fleet.values())}
        of_use |= {each.release for each in app.intents.births}
        of_use |= {each.number for each in app.intents.releases}
        if running is not None:
            of_use |= {running.release, running.goal.release, running.before.release}
        kept = {each for each in of_use if each is not None}
        gone = await self.repo.forget_releases(app.id, below, kept)
        if gone:
            self.log.info("old releases forgotten", app=app.id, below=below, count=gone)

    async def _forget(self, kept: Kept[App], fleet: Fleet) -> None:
        """Delete documents of instances long gone, unless a deployment still counts them."""
        now, running = self.clock.now(), kept.value.deployment
        over = [
            each
            for each in fleet.values()
            if is_over(each.value, self.config.keep_gone_s, now)
            and (running is None or each.value.deployment != running.id)
        ]
        if not over:
            return
        if kept.value.intents:
            # An intent that outlived its instance would make it anew.
            cleared = Decision(kept.value)
            cause = cause_of(kept.value)
            if await self.ledger.save(kept, cleared, cause, carried_out=True) is None:
                return
        for each in over:
            await self.repo.instances.delete(each.value.id, each.version)


def _is_well(instance: Instance) -> bool:
    """Is it as it should be, and known where."""
    return (
        instance.wanted is Wanted.RUN and instance.state is State.HEALTHY and instance.address != ""
    )
