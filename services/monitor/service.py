"""The monitor: follows Mesos' operator stream and Gantry's events, keeps nodes and alerts, tells people."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from libs.common.backoff import Backoff
from libs.common.consume import Handlers
from libs.common.disk import measure
from libs.common.errors import Conflict, GantryError, Unavailable
from libs.common.events import Envelope
from libs.common.events import model as ev
from libs.common.http import call_json
from libs.common.leader import Leadership, LeaseLost, leadership
from libs.common.runtime import Runtime
from libs.common.waiting import TaskGroup, lasting, set_or_due
from services.monitor import api, core
from services.monitor.alerting import TRIES, Alerting
from services.monitor.mesos import OpenOperator, Operator, open_http_operator
from services.monitor.model import Alert, MonitorConfig, Node, NodeState
from services.monitor.notify import Notifier, SmtpNotifier
from services.monitor.store import MonitorStore
from services.monitor.watching import Measure, Watching

FORGET_EVERY_S = 600.0
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
        self.config = config
        self.store = store
        self.live: dict[str, Node] = {}  # what the master said last, with what is in use
        self.seen_at = 0.0
        self._rt = rt
        self._log = rt.telemetry.log
        self._operator = operator
        self._alerting = Alerting(rt, config, store, notifier)
        self._watching = Watching(
            rt, config, self._alerting, operator, measure, lambda: self.live.values()
        )
        self.restarts = self._watching.restarts
        self._look = asyncio.Event()
        self._nodes = rt.telemetry.gauge("monitor_nodes", "Hosts by state", "state")

    async def run(self) -> None:
        """Lead until cancelled."""
        async with TaskGroup() as group:
            for work in (
                self._alerting.run(),
                self._rt.subscription(self._handlers()).run(),
                self._follow(),
                self._poll(),
                self._watching.run(),
                self._forget(),
            ):
                group.create_task(lasting(work))

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
            self._alerting.relay.kick()
        firing = [each.id for each in await self.store.firing()]
        # By what is stored, not by what has just changed: a crash in between must not lose the alert.
        for node, lost in core.node_conditions((await self.store.nodes()).values(), firing):
            summary = f"host {node.hostname} is lost"
            await self._alerting.set(core.node_alert(node), lost, summary)
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
        await self._alerting.set(alert, bool(status["breaker_open"]), summary)
        late = status.get("overdue_drains", [])
        summary = f"not empty at the deadline of its drain: {', '.join(late)}; see gantry nodes"
        overdue = Alert(core.DRAIN_OVERDUE, core.DRAIN_OVERDUE, "warning")
        await self._alerting.set(overdue, bool(late), summary)
        alert = Alert(core.FRAMEWORK_REMOVED, core.FRAMEWORK_REMOVED, "critical")
        summary = (
            f"Mesos has removed the framework {status['framework']} and killed its tasks:"
            " gantry scheduler reregister places everything anew"
        )
        await self._alerting.set(alert, bool(status.get("framework_removed")), summary)

    async def _forget(self) -> None:
        """Hosts that are lost for good, and alerts that are long over."""
        while True:
            await self._rt.clock.sleep(FORGET_EVERY_S)
            now = self._rt.clock.now()
            try:
                for node in (await self.store.nodes()).values():
                    lost = node.state is NodeState.LOST
                    if lost and now - node.since >= self.config.keep_lost_s:
                        await self._alerting.set(core.node_alert(node), False, "")
                        if node.hostname not in {each.hostname for each in self.live.values()}:
                            for alert in core.host_alerts(node.hostname):
                                await self._alerting.set(alert, False, "")
                        await self.store.forget_node(node)
                while await self.store.forget_alerts(now - self.config.keep_alerts_s):
                    pass
            except (Unavailable, Conflict) as error:
                self._log.warning("old hosts and alerts are kept", error=str(error))

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
            if await self._alerting.save(change):
                return
        raise Unavailable(f"alert of {event.app}: lost {TRIES} races")


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
            group.create_task(_lead(rt, led, store, told))
            group.create_task(lasting(monitor.run()))


async def _lead(rt: Runtime, led: Leadership, store: MonitorStore, notifier: Notifier) -> None:
    """Lead. Without what elects nobody does, and no alert is kept: that at least is mailed, unless it was already."""
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
            if not await _is_known(store, lost):
                await notifier.tell(lost)
        except Unavailable as failed:
            rt.telemetry.log.warning("can't mail that nobody leads", error=str(failed))
        raise


async def _is_known(store: MonitorStore, alert: Alert) -> bool:
    """Have people been mailed that it fires? Where the store says nothing of it, they may not."""
    try:
        kept = await store.alert(alert.id)
    except Unavailable:
        return False
    return kept is not None and kept.firing and kept.notified is True
