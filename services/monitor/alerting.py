"""Alerts that are kept, told as events, and mailed once a turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from libs.common.errors import Conflict, Unavailable
from libs.common.runtime import Runtime
from libs.common.waiting import TaskGroup, lasting
from services.monitor import core
from services.monitor.model import Alert, MonitorConfig
from services.monitor.notify import Notifier
from services.monitor.store import MonitorStore

TRIES = 5


class Alerting:
    """What holds and what does not, in the store and in people's mail."""

    def __init__(
        self, rt: Runtime, config: MonitorConfig, store: MonitorStore, notifier: Notifier
    ) -> None:
        self.store = store
        self.relay = rt.relay(store.collections)
        self._rt = rt
        self._log = rt.telemetry.log
        self._config = config
        self._notifier = notifier
        self._queue = rt.queue("alerts", self._settle, workers=4)
        # By alert, the turn (firing, since) that was mailed but could not be saved as such yet.
        self._mailed: dict[str, tuple[bool, float]] = {}
        self._unkept: dict[str, None] = {}  # alerts that were mailed and could not be saved
        self._firing = rt.telemetry.gauge("monitor_alerts_firing", "Alerts that are firing")

    async def run(self) -> None:
        """Publish and mail until cancelled."""
        async with TaskGroup() as group:
            group.create_task(lasting(self.relay.run()))
            group.create_task(lasting(self._queue.run(self._unsettled, self._config.sweep_s)))

    async def set(self, fresh: Alert, holds: bool, summary: str) -> None:
        """Keep whether it holds. Raises Unavailable, or Conflict after TRIES races."""
        for _ in range(TRIES):
            alert = await self.store.alert(fresh.id)
            if alert is None and not holds:
                return
            change = core.condition(alert or fresh, holds, self._rt.clock.now(), summary)
            if await self.save(change):
                return
        raise Conflict(f"alert {fresh.id}: lost {TRIES} races")

    async def tell(self, fresh: Alert, holds: bool, summary: str) -> bool:
        """As `set`; while the store takes nothing, what holds is mailed once at least. True: it is kept."""
        try:
            await self.set(fresh, holds, summary)
            if fresh.id in self._unkept:
                if not holds:  # the store never knew: nobody else would say that it is over
                    await self._notifier.tell(replace(fresh, since=self._rt.clock.now()))
                del self._unkept[fresh.id]
            return True
        except (Unavailable, Conflict) as error:
            self._log.warning("can't keep an alert", alert=fresh.id, holds=holds, error=str(error))
            if holds and fresh.id not in self._unkept:
                await self._mail_at_least(replace(fresh, firing=True, summary=summary))
            return False

    async def _mail_at_least(self, alert: Alert) -> None:
        """The store takes nothing, as on a full disk: people are told once all the same."""
        try:
            await self._notifier.tell(replace(alert, since=self._rt.clock.now()))
            self._unkept[alert.id] = None
        except Unavailable as error:
            self._log.warning("can't mail an alert", alert=alert.id, error=str(error))

    async def save(self, change: core.Change) -> bool:
        """Keep a change; False when somebody else has changed the alert meanwhile. Raises Unavailable."""
        if change.alert is None:
            return True
        if not await self.store.save_alert(change.alert, change.events, self._rt.clock.now()):
            return False
        if change.events:
            self.relay.kick()
            self._log.warning(
                "alert",
                alert=change.alert.id,
                firing=change.alert.firing,
                summary=change.alert.summary,
            )
        self._queue.add(change.alert.id)
        return True

    async def _unsettled(self) -> Iterable[str]:
        unsettled = await self.store.unsettled()
        self._firing.set(sum(alert.firing for alert in unsettled))
        return [alert.id for alert in unsettled]

    async def _settle(self, alert_id: str) -> float | None:
        """Tell people of a change once, and end what time ends."""
        alert = await self.store.alert(alert_id)
        if alert is None:
            self._mailed.pop(alert_id, None)
            return None
        change = core.on_time(alert, self._rt.clock.now(), self._config)
        if change.alert is not None:
            await self.save(change)
            return None
        turn = (alert.firing, alert.since)
        if alert.notified != alert.firing:
            if self._mailed.get(alert_id) != turn:
                await self._notifier.tell(alert)
                self._mailed[alert_id] = turn
            if not await self._keep_told(alert):
                return 0.0  # it turned meanwhile; that is told next
        self._mailed.pop(alert_id, None)
        return None

    async def _keep_told(self, alert: Alert) -> bool:
        """Remember that people know of this turn, however often the alert is counted on meanwhile.

        False when it has turned, or is counted on all the time.
        """
        for _ in range(TRIES):
            current = await self.store.alert(alert.id)
            if current is None or (current.firing, current.since) != (alert.firing, alert.since):
                return False
            told = replace(current, notified=current.firing)
            if await self.store.save_alert(told, (), self._rt.clock.now()):
                return True
        return False
