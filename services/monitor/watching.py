"""What the monitor looks at by time: components, lag, disks, pools of addresses, jobs. Each makes alerts of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from libs.common.disk import Space
from libs.common.errors import Conflict, GantryError, Unavailable
from libs.common.runtime import Runtime
from libs.common.waiting import TaskGroup, lasting
from services.monitor import core, jobs, pools
from services.monitor.alerting import Alerting
from services.monitor.components import (
    MAX_REASON,
    Watch,
    ask,
    host_probes,
    lags,
    low_disks,
    open_probes,
)
from services.monitor.mesos import Operator
from services.monitor.model import Alert, MonitorConfig, Node
from services.monitor.restarts import Restarts

Measure = Callable[[Path], Space]
Told = tuple[Alert, str, str]
"""An alert, who it is about, and why it holds, "" if it doesn't."""
CONTROL_PLANE = "control-plane"  # the machine that the monitor runs on, among the hosts


class Watching:
    """The watches; `hosts` tells which hosts there are now."""

    def __init__(
        self,
        rt: Runtime,
        config: MonitorConfig,
        alerting: Alerting,
        operator: Operator,
        measure: Measure,
        hosts: Callable[[], Iterable[Node]],
    ) -> None:
        self._config = config
        self._store = alerting.store
        self._rt = rt
        self._log = rt.telemetry.log
        self._alerting = alerting
        self._operator = operator
        self._measure = measure
        self._hosts = hosts
        self.restarts = Restarts()
        self._kept: dict[str, bool] = {}  # alerts by what hosts and services say, as they are kept

    async def run(self) -> None:
        """Watch until cancelled."""
        async with TaskGroup() as group:
            for watch in (
                self._watch_components(),
                self._watch_lag(),
                self._watch_disks(),
                self._watch_pools(),
                self._watch_jobs(),
            ):
                group.create_task(lasting(watch))

    async def _watch_components(self) -> None:
        config = self._config
        watch = Watch(config.probe_misses)
        services: dict[str, Mapping[str, Any]] = {}
        opened = open_probes(self._rt, config, self._store, self._operator, services)
        async with opened as probes:
            while True:
                services.clear()
                heard: dict[str, Mapping[str, Any]] = {}
                asked = {**probes, **host_probes(self._rt.peers, self._hosts(), heard)}
                reasons = await asyncio.gather(
                    *(ask(probe, config.probe_timeout_s) for probe in asked.values())
                )
                for name, reason in zip(asked, reasons, strict=True):
                    down = watch.judge(name, reason)
                    if down is not None:
                        await self._tell_component(name, down, reason)
                await self._tell_said([*self._restarted(services), *_of_hosts(heard)])
                await self._beat()
                await self._rt.clock.sleep(config.probe_s)

    async def _tell_component(self, name: str, down: bool, reason: str) -> None:
        summary = f"{name} does not do its work: {reason}"
        await self._alerting.tell(core.component_alert(name), down, summary)

    def _restarted(self, heard: Mapping[str, Mapping[str, Any]]) -> list[Told]:
        now = self._rt.clock.monotonic()
        for name, said in heard.items():
            run = said.get("run")
            self.restarts.hear(name, run if isinstance(run, str) else "", now)
        return [
            (core.restarted_alert(name), name, self.restarts.why(name, now))
            for name in sorted(heard)
        ]

    async def _tell_said(self, found: Sequence[Told]) -> None:
        """Of many hosts hardly one says anything new: only that is looked up in the store.

        While the store is away, what does not hold is left for later: each would wait for it in vain.
        """
        kept: dict[str, bool] = {}
        is_away = False
        for alert, who, why in found:
            holds, summary = bool(why), f"{who}: {why[:MAX_REASON]}"
            if self._kept.get(alert.id) == holds:
                kept[alert.id] = holds
            elif holds or not is_away:
                done = await self._alerting.tell(alert, holds, summary)
                is_away = not done
                if done:
                    kept[alert.id] = holds
        self._kept = kept

    async def _beat(self) -> None:
        """Somebody watches; that nobody did for long is worth an alert, which is over at once."""
        now = self._rt.clock.now()
        try:
            before = await self._store.beat(now)
            if before is not None and now - before > self._config.blind_after_s:
                summary = f"nobody watched for {now - before:.0f} s: monitor or store was away"
                await self._alerting.set(core.blind_alert(), True, summary)
            else:
                await self._alerting.set(core.blind_alert(), False, "")
        except (Unavailable, Conflict) as error:
            self._log.warning("can't say that somebody watches", error=str(error))

    async def _watch_lag(self) -> None:
        config = self._config
        watch = Watch(config.lag_probes)
        while True:
            await self._rt.clock.sleep(config.lag_s)
            found = await lags(self._rt.peers, self._rt.common.peers, config.probe_timeout_s)
            for service, lag in sorted(found.items()):
                summary = f"{service} is {lag} events behind; its limit is {config.lag_limit}"
                behind = watch.judge(service, summary if lag > config.lag_limit else "")
                if behind is not None:
                    await self._alerting.tell(core.lag_alert(service), behind, summary)

    async def _watch_disks(self) -> None:
        config = self._config
        while True:
            found = await low_disks(self._rt.peers, self._hosts(), config.probe_timeout_s)
            with suppress(Unavailable):
                found[CONTROL_PLANE] = self._measure(self._rt.common.data_dir).lacks(
                    free_pct=config.disk_low_pct, inodes_pct=config.disk_low_pct
                )
            for host, low in sorted(found.items()):
                summary = f"{host} is short of disk: {low}"
                await self._alerting.tell(core.disk_alert(host), bool(low), summary)
            await self._rt.clock.sleep(config.disk_s)

    async def _watch_pools(self) -> None:
        watch = Watch(self._config.pool_probes)
        while True:
            try:
                await self._compare_pools(watch)
            except (Unavailable, Conflict) as error:  # that ipam is away is another alert
                self._log.warning("can't look at the networks", error=str(error))
            await self._rt.clock.sleep(self._config.pool_s)

    async def _compare_pools(self, watch: Watch) -> None:
        found = await pools.ask(self._rt.peers, self._config.probe_timeout_s)
        firing = {each.id: each for each in await self._store.firing()}
        for stock in sorted(found, key=lambda each: each.place):
            alert = core.pool_alert(stock.place)
            reason = pools.why_low(stock, self._config, firing.pop(alert.id, None) is not None)
            low = watch.judge(alert.id, reason)
            if low is not None:
                await self._alerting.tell(alert, low, reason)
        for gone in firing.values():  # their pools were taken away, or others stand in for them now
            if gone.rule == core.POOL_LOW:
                await self._alerting.tell(gone, False, "")

    async def _watch_jobs(self) -> None:
        while True:
            try:
                await self._compare_jobs()
            except GantryError as error:  # away, or of a version without jobs
                self._log.warning("can't look at the jobs", error=str(error))
            await self._rt.clock.sleep(self._config.job_s)

    async def _compare_jobs(self) -> None:
        found = await jobs.ask(self._rt.peers, self._config.probe_timeout_s)
        firing = {each.id: each for each in await self._store.firing()}
        for job, why in sorted(found.items()):
            alert = core.job_alert(job)
            if firing.pop(alert.id, None) is None:
                await self._alerting.tell(alert, True, f"{job}: {why}")
        for over in firing.values():  # they went well again, or are not there any more
            if over.rule == core.JOB_FAILING:
                await self._alerting.tell(over, False, "")


def _of_hosts(heard: Mapping[str, Mapping[str, Any]]) -> list[Told]:
    return [
        (alert, host, why)
        for host, said in sorted(heard.items())
        for alert, why in core.of_executor(host, said)
    ]
