"""The monitor: follows Mesos' operator stream and Gantry's events, keeps nodes and alerts, tells people."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from libs.common.backoff import Backoff
from libs.common.consume import Handlers
from libs.common.disk import Space, measure
from libs.common.errors import Conflict, GantryError, Unavailable
from libs.common.events import Envelope
from libs.common.events import model as ev
from libs.common.http import call_json
from libs.common.leader import Leadership, LeaseLost, leadership
from libs.common.runtime import Runtime
from libs.common.waiting import TaskGroup, lasting, set_or_due
from services.monitor import api, core, jobs, pools
from services.monitor.components import (
    Watch,
    ask,
    host_probes,
    lags,
    low_disks,
    open_probes,
)
from services.monitor.mesos import OpenOperator, Operator, open_http_operator
from services.monitor.model import Alert, MonitorConfig, Node, NodeState
from services.monitor.notify import Notifier, SmtpNotifier
from services.monitor.store import MonitorStore

Measure = Callable[[Path], Space]
FORGET_EVERY_S = 600.0
TRIES = 5
CONTROL_PLANE = "control-plane"  # the machine that the monitor runs on, among the hosts
NEVER_BEGUN = "TASK_DROPPED"  # the host would not have it: no container has ended


class Monitor:
    """One leader's life."""

    def __init__(
        self,
        rt: Runtime,
        config: MonitorConfig,
        store: MonitorStore,
        operator: Operator,
        notifier: Notifier,
        measure: Measure,
    ) -> None:
        self._measure = measure
        self.config = config
        self.store = store
        self.live: dict[str, Node] = {}  # what the master said last, with what is in use
        self.seen_at = 0.0
        self._rt = rt
        self._log = rt.telemetry.log
        self._operator = operator
        self._notifier = notifier
        self._relay = rt.relay(store.collections)
        self._queue = rt.queue("alerts", self._settle, workers=4)
        self._look = asyncio.Event()
        # By alert, the turn (firing, since) that was mailed but could not be saved as such yet.
        self._mailed: dict[str, tuple[bool, float]] = {}
        self._unkept: dict[str, None] = {}  # alerts that were mailed and could not be saved
        self._firing = rt.telemetry.gauge("monitor_alerts_firing", "Alerts that are firing")
        self._nodes = rt.telemetry.gauge("monitor_nodes", "Hosts by state", "state")

    async def run(self) -> None:
        """Lead until cancelled."""
        async with TaskGroup() as group:
            group.create_task(lasting(self._relay.run()))
            group.create_task(lasting(self._rt.subscription(self._handlers()).run()))
            group.create_task(lasting(self._queue.run(self._unsettled, self.config.sweep_s)))
            group.create_task(lasting(self._follow()))
            group.create_task(lasting(self._poll()))
            group.create_task(lasting(self._watch_components()))
            group.create_task(lasting(self._watch_lag()))
            group.create_task(lasting(self._watch_disks()))
            group.create_task(lasting(self._watch_pools()))
            group.create_task(lasting(self._watch_jobs()))
            group.create_task(lasting(self._forget()))

    # -- hosts

    async def _follow(self) -> None:
        async for _ in self._operator.changes():
            self._look.set()

    async def _poll(self) -> None:
        """Look when the stream says so, and now and then anyway: Mesos does not tell of unreachable agents."""
        backoff = Backoff(0.5, 30.0)
        failures = 0
        while True:
            self._look.clear()
            try:
                await self._compare()
                await self._check_scheduler()
                failures = 0
                wait_s = self.config.node_poll_s
            except GantryError as error:
                failures += 1
                wait_s = backoff.delay_s(failures, self._rt.rng)
                self._log.warning("can't look at the hosts", error=str(error))
            await set_or_due(self._look, wait_s)

    async def _compare(self) -> None:
        seen = await self._operator.nodes()
        now = self._rt.clock.now()
        self.live = {node.id: node for node in seen}
        self.seen_at = now
        known = await self.store.nodes()
        for change in core.nodes(known, seen, now):
            await self.store.save_node(change.node, change.events, now)
            self._relay.kick()
        firing = [each.id for each in await self.store.firing()]
        # By what is stored, not by what has just changed: a crash in between must not lose the alert.
        for node, lost in core.node_conditions((await self.store.nodes()).values(), firing):
            summary = f"host {node.hostname} is lost"
            await self._set_condition(core.node_alert(node), lost, summary)
        for state in NodeState:
            self._nodes.labels(state.value).set(sum(node.state is state for node in seen))

    async def _check_scheduler(self) -> None:
        """What the scheduler waits for people to look at: held kills, late drains, a framework that is no more."""
        try:
            status = await call_json(self._rt.peers, "scheduler", "GET", "/v1/status", timeout_s=2)
        except GantryError:
            return  # its own absence is not this rule's business
        unknown = len(status["unknown_tasks"])
        alert = Alert(core.BREAKER_OPEN, core.BREAKER_OPEN, "critical")
        summary = (
            f"the scheduler holds {unknown} unknown tasks back: gantry breaker release kills them"
        )
        await self._set_condition(alert, bool(status["breaker_open"]), summary)
        late = status.get("overdue_drains", [])
        summary = f"not empty at the deadline of its drain: {', '.join(late)}; see gantry nodes"
        overdue = Alert(core.DRAIN_OVERDUE, core.DRAIN_OVERDUE, "warning")
        await self._set_condition(overdue, bool(late), summary)
        alert = Alert(core.FRAMEWORK_REMOVED, core.FRAMEWORK_REMOVED, "critical")
        summary = (
            f"Mesos has removed the framework {status['framework']} and killed its tasks:"
            " gantry scheduler reregister places everything anew"
        )
        await self._set_condition(alert, bool(status.get("framework_removed")), summary)

    async def _set_condition(self, fresh: Alert, holds: bool, summary: str) -> None:
        for _ in range(TRIES):
            alert = await self.store.alert(fresh.id)
            if alert is None and not holds:
                return
            change = core.condition(alert or fresh, holds, self._rt.clock.now(), summary)
            if await self._save(change):
                return
        raise Conflict(f"alert {fresh.id}: lost {TRIES} races")

    # -- components

    async def _watch_components(self) -> None:
        config = self.config
        watch = Watch(config.probe_misses)
        opened = open_probes(self._rt, config, self.store, self._operator)
        async with opened as probes:
            while True:
                asked = {**probes, **host_probes(self._rt.peers, self.live.values())}
                reasons = await asyncio.gather(
                    *(ask(probe, config.probe_timeout_s) for probe in asked.values())
                )
                for name, reason in zip(asked, reasons, strict=True):
                    down = watch.judge(name, reason)
                    if down is not None:
                        await self._tell_component(name, down, reason)
                await self._beat()
                await self._rt.clock.sleep(config.probe_s)

    async def _tell_component(self, name: str, down: bool, reason: str) -> None:
        summary = f"{name} does not do its work: {reason}"
        await self._tell_condition(core.component_alert(name), down, summary)

    async def _tell_condition(self, fresh: Alert, holds: bool, summary: str) -> None:
        try:
            await self._set_condition(fresh, holds, summary)
            if fresh.id in self._unkept:
                del self._unkept[fresh.id]
                if not holds:  # the store never knew: nobody else would say that it is over
                    await self._notifier.tell(replace(fresh, since=self._rt.clock.now()))
        except (Unavailable, Conflict) as error:
            self._log.warning("can't keep an alert", alert=fresh.id, holds=holds, error=str(error))
            if holds and fresh.id not in self._unkept:
                await self._mail_at_least(replace(fresh, firing=True, summary=summary))

    async def _mail_at_least(self, alert: Alert) -> None:
        """The store takes nothing, as on a full disk: people are told once all the same."""
        try:
            await self._notifier.tell(replace(alert, since=self._rt.clock.now()))
            self._unkept[alert.id] = None
        except Unavailable as error:
            self._log.warning("can't mail an alert", alert=alert.id, error=str(error))

    async def _watch_lag(self) -> None:
        config = self.config
        watch = Watch(config.lag_probes)
        while True:
            await self._rt.clock.sleep(config.lag_s)
            found = await lags(self._rt.peers, self._rt.common.peers, config.probe_timeout_s)
            for service, lag in sorted(found.items()):
                summary = f"{service} is {lag} events behind; its limit is {config.lag_limit}"
                behind = watch.judge(service, summary if lag > config.lag_limit else "")
                if behind is not None:
                    await self._tell_condition(core.lag_alert(service), behind, summary)

    async def _watch_disks(self) -> None:
        config = self.config
        while True:
            found = await low_disks(self._rt.peers, self.live.values(), config.probe_timeout_s)
            with suppress(Unavailable):
                found[CONTROL_PLANE] = self._measure(self._rt.common.data_dir).lacks(
                    free_pct=config.disk_low_pct, inodes_pct=config.disk_low_pct
                )
            for host, low in sorted(found.items()):
                summary = f"{host} is short of disk: {low}"
                await self._tell_condition(core.disk_alert(host), bool(low), summary)
            await self._rt.clock.sleep(config.disk_s)

    async def _watch_pools(self) -> None:
        watch = Watch(self.config.pool_probes)
        while True:
            try:
                await self._compare_pools(watch)
            except (Unavailable, Conflict) as error:  # that ipam is away is another alert
                self._log.warning("can't look at the networks", error=str(error))
            await self._rt.clock.sleep(self.config.pool_s)

    async def _compare_pools(self, watch: Watch) -> None:
        found = await pools.ask(self._rt.peers, self.config.probe_timeout_s)
        firing = {each.id: each for each in await self.store.firing()}
        for stock in sorted(found, key=lambda each: each.place):
            alert = core.pool_alert(stock.place)
            reason = pools.why_low(stock, self.config, firing.pop(alert.id, None) is not None)
            low = watch.judge(alert.id, reason)
            if low is not None:
                await self._tell_condition(alert, low, reason)
        for gone in firing.values():  # their pools were taken away, or others stand in for them now
            if gone.rule == core.POOL_LOW:
                await self._tell_condition(gone, False, "")

    async def _watch_jobs(self) -> None:
        while True:
            try:
                await self._compare_jobs()
            except GantryError as error:  # away, or of a version without jobs
                self._log.warning("can't look at the jobs", error=str(error))
            await self._rt.clock.sleep(self.config.job_s)

    async def _compare_jobs(self) -> None:
        found = await jobs.ask(self._rt.peers, self.config.probe_timeout_s)
        firing = {each.id: each for each in await self.store.firing()}
        for job, why in sorted(found.items()):
            alert = core.job_alert(job)
            if firing.pop(alert.id, None) is None:
                await self._tell_condition(alert, True, f"{job}: {why}")
        for over in firing.values():  # they went well again, or are not there any more
            if over.rule == core.JOB_FAILING:
                await self._tell_condition(over, False, "")

    async def _forget(self) -> None:
        """Hosts that are lost for good, and alerts that are long over."""
        while True:
            await self._rt.clock.sleep(FORGET_EVERY_S)
            now = self._rt.clock.now()
            try:
                for node in (await self.store.nodes()).values():
                    lost = node.state is NodeState.LOST
                    if lost and now - node.since >= self.config.keep_lost_s:
                        await self._set_condition(core.node_alert(node), False, "")
                        if node.hostname not in {each.hostname for each in self.live.values()}:
                            await self._set_condition(core.disk_alert(node.hostname), False, "")
                        await self.store.forget_node(node)
                while await self.store.forget_alerts(now - self.config.keep_alerts_s):
                    pass
            except (Unavailable, Conflict) as error:
                self._log.warning("old hosts and alerts are kept", error=str(error))

    async def _beat(self) -> None:
        """Somebody watches; that nobody did for long is worth an alert, which is over at once."""
        now = self._rt.clock.now()
        try:
            before = await self.store.beat(now)
            if before is not None and now - before > self.config.blind_after_s:
                summary = f"nobody watched for {now - before:.0f} s: monitor or store was away"
                await self._set_condition(core.blind_alert(), True, summary)
            else:
                await self._set_condition(core.blind_alert(), False, "")
        except (Unavailable, Conflict) as error:
            self._log.warning("can't say that somebody watches", error=str(error))

    # -- events

    def _handlers(self) -> Handlers:
        return {ev.ContainerExited: self._on_exited}

    async def _on_exited(self, event: ev.ContainerExited, envelope: Envelope) -> None:
        if event.wanted or event.state == NEVER_BEGUN:
            return
        for _ in range(TRIES):
            alert = await self.store.alert(f"{core.APP_CRASHING}:{event.app}")
            message = event.message or event.reason or event.state
            ended, now = (envelope.time, envelope.id), self._rt.clock.now()
            change = core.on_exit(alert, event.app, ended, message, now, self.config)
            if await self._save(change):
                return
        raise Unavailable(f"alert of {event.app}: lost {TRIES} races")

    # -- alerts

    async def _save(self, change: core.Change) -> bool:
        if change.alert is None:
            return True
        if not await self.store.save_alert(change.alert, change.events, self._rt.clock.now()):
            return False
        if change.events:
            self._relay.kick()
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
            return None
        change = core.on_time(alert, self._rt.clock.now(), self.config)
        if change.alert is not None:
            await self._save(change)
            return None
        if alert.notified != alert.firing:
            turn = (alert.firing, alert.since)
            if self._mailed.get(alert_id) != turn:
                await self._notifier.tell(alert)
                self._mailed[alert_id] = turn
            await self._told(alert)
        return None

    async def _told(self, alert: Alert) -> None:
        """Remember what people know, however often the alert is counted on meanwhile: nobody is told twice."""
        for _ in range(TRIES):
            current = await self.store.alert(alert.id)
            if current is None or (current.firing, current.since) != (alert.firing, alert.since):
                break  # it turned meanwhile; that is told next
            told = replace(current, notified=current.firing)
            if await self.store.save_alert(told, (), self._rt.clock.now()):
                self._mailed.pop(alert.id, None)
                return
        self._queue.add(alert.id)


async def run(
    rt: Runtime,
    open_operator: OpenOperator = open_http_operator,
    notifier: Notifier | None = None,
    measure: Measure = measure,
) -> None:
    """The service: wait for leadership, then watch. `notifier` None: mail, as configured."""
    config = rt.section(MonitorConfig)
    told = notifier or SmtpNotifier(config.smtp, rt.common.cluster)
    async with leadership(rt, "monitor", config.leader_lease_s) as led:
        await _watch(rt, config, led, open_operator, told, measure)


async def _watch(
    rt: Runtime,
    config: MonitorConfig,
    led: Leadership,
    open_operator: OpenOperator,
    told: Notifier,
    measure: Measure,
) -> None:
    store = await MonitorStore.open(rt.store)
    async with open_operator(rt, config) as operator:
        monitor = Monitor(rt, config, store, operator, told, measure)
        app = rt.http_app(api.routes(monitor))
        async with rt.serve(app), TaskGroup() as group:
            group.create_task(_lead(rt, led, told))
            group.create_task(lasting(monitor.run()))


async def _lead(rt: Runtime, led: Leadership, notifier: Notifier) -> None:
    """Lead. Without what elects nobody does, and no alert is kept: that at least is mailed."""
    try:
        await led.hold()
    except LeaseLost as error:
        lost = replace(
            core.component_alert(error.electorate),
            firing=True,
            since=rt.clock.now(),
            summary=str(error),
        )
        try:
            await notifier.tell(lost)
        except Unavailable as failed:
            rt.telemetry.log.warning("can't mail that nobody leads", error=str(failed))
        raise
