"""The scheduler's loop: gather inputs → decide → save → commit → act.

"Load" is the memory, "save" a batch: all inputs that wait are decided on together and saved in one round trip, so
that a store of a few thousand writes a second carries many more tasks. Handlers of events wait until the batch with
their input is saved, and only then is the event's offset committed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.direct import inbox
from libs.common.errors import Fenced, GantryError, Unavailable
from libs.common.events import model as ev
from libs.common.http import HttpApp, call_json
from libs.common.leader import Leadership, leadership
from libs.common.runtime import Runtime
from libs.common.spec import InstanceSpec
from libs.common.waiting import TaskGroup, lasting
from libs.mesos import events as mesos
from services.scheduler import api, standby
from services.scheduler.cluster import ENDED_REMEMBERED, Cluster, Draft
from services.scheduler.core import Input, decide
from services.scheduler.intake import Intake
from services.scheduler.jobs.api import routes as job_routes
from services.scheduler.jobs.intake import JobIntake
from services.scheduler.jobs.upkeep import Upkeep
from services.scheduler.maintenance import Maintenance
from services.scheduler.membership import Membership
from services.scheduler.mesos import OpenDriver, open_driver
from services.scheduler.model import (
    Action,
    Decline,
    InstanceId,
    Launch,
    OfferId,
    Recall,
    Reregister,
    Tick,
    split_attempt,
)
from services.scheduler.networks import pools_of
from services.scheduler.planning import Placed, plan
from services.scheduler.sending import Sender
from services.scheduler.settings import SchedulerConfig
from services.scheduler.store import Framework, Memory, Saved, SchedulerStore
from services.scheduler.tasks import TaskFactory

BATCH = 2000
OFFERS = 1000
"""A decision takes so many inputs, or so many offers: a tenth of a second at most goes by before the next one."""
INBOX = 20_000
FORGET_EVERY_S = 600.0
NETWORKS_WAIT_S = 5.0

T = TypeVar("T")


class Scheduler:
    """One leader's life, from loading its memory until it is fenced or stopped."""

    def __init__(
        self,
        rt: Runtime,
        config: SchedulerConfig,
        store: SchedulerStore,
        framework: Framework,
        cluster: Cluster,
        led: Leadership,
        open_driver: OpenDriver,
    ) -> None:
        self.config = config
        self.cluster = cluster
        self.membership = Membership(
            rt,
            config,
            framework,
            open_driver,
            put=self._from_mesos,
            save=self._save_framework,
            permit=self._must_lead,
        )
        self._rt = rt
        self._log = rt.telemetry.log
        self._store = store
        self._led = led
        self._relay = rt.relay(store.outboxes, mine=[store.instances])
        self.maintenance = Maintenance(
            store.nodes, cluster, self.submit, self._relay.kick, rt.clock, rt.telemetry.log
        )
        self._upkeep = Upkeep(rt, config, cluster, store, self.submit)
        wishes = Intake(cluster, store, self.submit)
        self.subscription = rt.subscription(wishes.handlers, together=wishes.together)
        # Requests of jobs have a group of their own: one may wait for the gateway, or for an image's digest.
        intake = JobIntake.of(rt, config.jobs, store.jobs, self.submit)
        self.asks = rt.subscription({ev.JobRequested: intake.on_job_requested}, "scheduler-asks")
        self._tasks = self._task_factory()
        self._inbox: asyncio.Queue[tuple[Input, asyncio.Future[None] | None]] = asyncio.Queue(INBOX)
        self._sender = Sender(self._do)
        self._strangers: set[InstanceId] = set()  # looked up, and not stored
        self._unanswered: list[OfferId] = []  # offers that Mesos may think we still have
        self._decide_s = rt.telemetry.histogram("scheduler_decide_seconds", "One batch's decision")
        self._launched = rt.telemetry.counter("scheduler_launched_total", "Tasks launched")
        self._instances = rt.telemetry.gauge("scheduler_instances", "Instances not ended")

    async def run(self) -> None:
        """Lead until cancelled. Raises Fenced when a newer leader has taken over."""
        async with TaskGroup() as group:
            for work in (
                self._relay.run(),
                self.subscription.run(),
                self.asks.run(),
                self._upkeep.wake(),
                self._upkeep.clean(),
                self.membership.run(),
                self._tick(),
                self._batches(),
                self._sender.run(),
                self._forget(),
                self._look_at_networks(),
                self.maintenance.run(),
            ):
                group.create_task(lasting(work))

    async def why_not_ready(self) -> str:
        """Why no instance can be placed or changed now; "" when all is well."""
        if self.membership.alarm:
            return self.membership.alarm
        return "" if self.cluster.volatile.subscribed else "not subscribed to Mesos"

    # -- inputs

    async def submit(self, *given: Input) -> None:
        """Hand inputs to the loop; returns when what they lead to is saved."""
        if not given:
            return
        *before, last = given
        for each in before:
            await self._inbox.put((each, None))
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._inbox.put((last, saved))  # decisions are saved in the order of their inputs
        await saved

    async def _tick(self) -> None:
        while True:
            await self._rt.clock.sleep(self.config.tick_s)
            await self._recall()
            await self._inbox.put((Tick(), None))
            if self._unanswered:
                # Nobody else would ever free their resources; declining a used offer does nothing.
                offers, self._unanswered = tuple(self._unanswered), []
                await self._sender.put([Decline(offers, self.config.decline_s)])

    async def _recall(self) -> None:
        """Look up whose the unknown tasks are: of ended instances only the last are in memory."""
        names = map(split_attempt, self.cluster.volatile.unknown)
        unknown = {name[0] for name in names if name is not None}
        self._strangers &= unknown
        wanted = sorted(unknown - self._strangers)
        if not wanted:
            return
        try:
            ended = await self._store.ended_among(wanted)
        except Unavailable as error:
            self._log.warning("unknown tasks wait", count=len(wanted), error=str(error))
            return
        self._strangers.update(each for each in wanted if each not in ended)
        if ended:
            await self._inbox.put((Recall(ended), None))

    async def _from_mesos(self, event: Input) -> None:
        if isinstance(event, mesos.Subscribed):
            self._unanswered.clear()
        for each in in_pieces(event) if isinstance(event, mesos.Offers) else (event,):
            await self._inbox.put((each, None))

    async def _save_framework(self, framework: Framework) -> Framework:
        return await self._retried(partial(self._store.save_framework, framework))

    async def reregister(self) -> None:
        """Begin anew as another framework, once Mesos has removed this one. Raises Conflict when it has not.

        Instances come first: with the new id saved, and them not, they would be taken for running.
        """
        self.membership.must_be_removed()
        await self.submit(Reregister())
        command = self.config.executor_command or self.membership.framework.executor_command
        await self.membership.begin_anew(command)
        self._tasks = self._task_factory()

    def _task_factory(self) -> TaskFactory:
        return TaskFactory(self._rt.common.cluster, self.membership.framework.executor_command)

    async def _look_at_networks(self) -> None:
        """Ask ipam for free addresses. What can't be told limits nothing: hosts ask for their addresses themselves."""
        told = True
        while True:
            try:
                found = await call_json(
                    self._rt.peers, "ipam", "GET", "/v1/networks", timeout_s=NETWORKS_WAIT_S
                )
                await self._inbox.put((pools_of(found), None))
                told = True
            except (GantryError, LookupError, TypeError, ValueError) as error:
                if told:
                    self._log.info("free addresses are not known", error=str(error))
                told = False
            await self._rt.clock.sleep(self.config.pools_every_s)

    def plan(self, app: str, spec: InstanceSpec, count: int, replacing: bool) -> Placed:
        """Where instances would go; nothing changes."""
        now = self._rt.clock.now()
        return plan(self.cluster, app, spec, count, replacing, now, self.config)

    # -- the loop

    async def _batches(self) -> None:
        while True:
            batch = [await self._inbox.get()]
            weight = _weight(batch[0][0])
            while weight < BATCH and not self._inbox.empty():
                batch.append(self._inbox.get_nowait())
                weight += _weight(batch[-1][0])
            started = self._rt.clock.monotonic()
            now = self._rt.clock.now()
            draft = decide(self.cluster, [each for each, _ in batch], now, self.config, self._tasks)
            self._decide_s.observe(self._rt.clock.monotonic() - started)
            saved = await self._save(draft, now) if draft.to_save else Saved({}, {})
            self.cluster.commit(draft, saved.versions)
            self._upkeep.committed(draft)
            if saved.outboxes:
                self._relay.hand(self._store.instances, saved.outboxes)
            if saved.of_jobs:
                self._relay.kick(saved.of_jobs)
            self._instances.set(len(self.cluster.instances))
            for _, waiting in batch:
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)
            if draft.actions:
                await self._sender.put(draft.actions)
            if draft.volatile.more and self._inbox.empty():
                self._inbox.put_nowait(
                    (Tick(), None)
                )  # the next slice; who came meanwhile is first
            await self._rt.clock.sleep(0)  # others have their turn between two decisions

    async def _save(self, draft: Draft, now: float) -> Saved:
        """Nothing of a draft is acted upon, and nothing acknowledged, before this returns."""
        return await self._retried(partial(self._store.save, draft, now))

    async def _retried(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write until it succeeds: nothing may be decided on top of what is not saved."""
        backoff = Backoff()
        failures = 0
        while True:
            try:
                return await write()
            except Unavailable as error:
                failures += 1
                self._log.warning("the store is away", error=str(error), failures=failures)
                await self._rt.clock.sleep(backoff.delay_s(failures, self._rt.rng))

    # -- acting

    def _must_lead(self) -> None:
        """No epoch fences Mesos: who was paused must not act on what it knew before. Raises Fenced."""
        if not self._led.certain():
            raise Fenced("this scheduler may lead no more")

    async def _do(self, action: Action) -> None:
        self._must_lead()
        if isinstance(action, Launch):
            self._launched.inc(len(action.tasks))
        try:
            await self.membership.do(action)
        except GantryError as error:
            kind = type(action).__name__
            self._log.warning("call to Mesos failed", action=kind, error=str(error))
            if isinstance(action, Launch | Decline):
                self._unanswered.extend(action.offers)

    async def _forget(self) -> None:
        """Ended instances are kept for a while, as tombstones for late events and for people who look back."""
        while True:
            await self._rt.clock.sleep(FORGET_EVERY_S)
            try:
                while await self._store.forget_ended(
                    self._rt.clock.now() - self.config.keep_ended_s
                ):
                    pass
            except Unavailable as error:
                self._log.warning("ended instances are kept for now", error=str(error))


def in_pieces(event: mesos.Offers) -> Iterator[mesos.Offers]:
    """The offers, no more at a time than one decision should take in: after a failover all agents offer at once."""
    for at in range(0, len(event.offers), OFFERS):
        yield mesos.Offers(event.offers[at : at + OFFERS])


def _weight(given: Input) -> int:
    return len(given.offers) * BATCH // OFFERS if isinstance(given, mesos.Offers) else 1


async def run(rt: Runtime, open_driver: OpenDriver = open_driver) -> None:
    """The service: wait for leadership, warm; load what has changed since, lead."""
    config = rt.section(SchedulerConfig)
    memory = Memory(min(config.keep_ended_s, config.jobs.keep_deleted_s))
    async with AsyncExitStack() as stack:
        async with standby.warm(rt, memory):
            led = await stack.enter_async_context(
                leadership(rt, "scheduler", config.leader_lease_s)
            )
        await _lead(rt, config, led, open_driver, memory)


async def _lead(
    rt: Runtime, config: SchedulerConfig, led: Leadership, open_driver: OpenDriver, memory: Memory
) -> None:
    async with TaskGroup() as group:
        # From the first: loading may take longer than what elects would wait.
        group.create_task(led.hold())
        scheduler, app = await _loaded(rt, config, led, open_driver, memory)
        async with rt.serve(app):
            await lasting(scheduler.run())


async def _loaded(
    rt: Runtime, config: SchedulerConfig, led: Leadership, open_driver: OpenDriver, memory: Memory
) -> tuple[Scheduler, HttpApp]:
    began = rt.clock.monotonic()
    store = await SchedulerStore.open(rt.store)
    framework = await store.framework()
    if not framework.executor_command:
        command = config.executor_command or _default_command(config)
        given = Framework(framework.id, command, framework.version)
        framework = await store.save_framework(given)
    elif config.executor_command not in ("", framework.executor_command):
        # Mesos takes no other command for an executor id that it has seen.
        kept = framework.executor_command
        rt.telemetry.log.warning("scheduler.executor_command is not taken", kept=kept)
    cluster, read = await load(store, memory, rt.clock)
    took_s = round(rt.clock.monotonic() - began, 3)
    rt.telemetry.log.info("leads", instances=len(cluster.instances), read=read, took_s=took_s)
    scheduler = Scheduler(rt, config, store, framework, cluster, led, open_driver)
    jobs = job_routes(cluster, store.jobs, rt.clock.now, config.jobs.keep_runs)
    routes = (*api.routes(scheduler), *jobs, inbox(rt.service, [scheduler.subscription]))
    return scheduler, rt.http_app(routes, ready=scheduler.why_not_ready)


async def load(store: SchedulerStore, memory: Memory, clock: Clock) -> tuple[Cluster, int]:
    """What a new leader knows, and how many documents it did not have in memory before."""
    read = await store.recall(memory, clock)
    live = memory.instances.values()
    book = await store.book(memory.jobs.values(), live)
    roles = await store.agents.load({each.agent for each in live}, clock.now())
    cluster = Cluster(live, await store.ended(ENDED_REMEMBERED), book, roles)
    cluster.volatile.nodes = await store.nodes.load()
    memory.forget()  # or what the cluster drops would stay
    return cluster, read


def _default_command(config: SchedulerConfig) -> str:
    given = f" --config {config.executor_config}" if config.executor_config else ""
    return f"exec {sys.executable} -m services.executor{given}"
