"""Brings instances into their load balancers and out of them: `hook.py` decides, this asks the drivers.

Saved before asked: a crash in between repeats a change, and never leaves an endpoint behind that nobody knows of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from libs.common.clock import Clock
from libs.common.errors import GantryError, Unavailable
from libs.common.telemetry import Log
from libs.common.waiting import TaskGroup
from services.deployer import hook
from services.deployer.carry import Carrier, Fleet
from services.deployer.hook import Ask, Step, Verb
from services.deployer.instances import Change as InstanceChange
from services.deployer.instances import asked_to_stop
from services.deployer.loadbalancer.base import Answer, AnswerState, Change, LoadBalancerDriver
from services.deployer.model import HookPhase, Instance, Wanted
from services.deployer.store import Repository

CONCURRENT_ASKS = 16

Balancers = Mapping[str, LoadBalancerDriver]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a driver said of a change, or why it said nothing."""

    change: Change
    answer: Answer | None
    error: str = ""


@dataclass
class Hooks:
    """The load-balancer loop, by app. `on_change` wakes the app's own reconcile."""

    repo: Repository
    carrier: Carrier
    balancers: Balancers
    clock: Clock
    log: Log
    on_change: Callable[[str], None]
    verify_s: float = 5.0
    _verified_at: dict[str, float] = field(default_factory=dict)

    async def reconcile(self, app: str) -> float | None:
        """One round for all instances of an app; seconds until the next, or None."""
        kept = await self.repo.app(app)
        if kept is None:
            return None
        fleet = {
            name: each
            for name, each in (await self.repo.instances_of(app)).items()
            if each.value.hooked
        }
        if not fleet:
            return None
        numbers = {each.value.release for each in fleet.values()}
        releases = await self.carrier.releases(kept.value, numbers)
        before = {name: each.value for name, each in fleet.items()}
        verified = await self._forgotten(app, fleet)
        steps: dict[str, Step] = {}

        def begin(instance: Instance) -> InstanceChange:
            balancer = releases[instance.release].spec.load_balancer
            now = self.clock.now()
            if instance.id in verified:
                instance = hook.forgotten(instance, balancer, now)
            step = steps[instance.id] = hook.next_step(instance, balancer, now)
            return step.instance, None

        fleet = await self.carrier.change(fleet, fleet, begin)
        outcomes = await self._ask_all(steps)
        fleet = await self.carrier.change(fleet, fleet, lambda each: self._end(each, outcomes))
        self._tell(before, fleet)
        return self._wake_s(fleet)

    def _end(self, instance: Instance, outcomes: Mapping[str, Outcome]) -> InstanceChange:
        now = self.clock.now()
        outcome = outcomes.get(instance.id)
        if outcome is not None and outcome.answer is not None:
            instance = hook.answered(instance, outcome.change, outcome.answer, now)
        elif outcome is not None:
            instance = hook.unreachable(instance, outcome.change, outcome.error, now)
        return asked_to_stop(instance, now)

    async def _ask_all(self, steps: Mapping[str, Step]) -> dict[str, Outcome]:
        limit = asyncio.Semaphore(CONCURRENT_ASKS)
        outcomes: dict[str, Outcome] = {}

        async def ask(name: str, step: Step) -> None:
            async with limit:
                for each in step.asks:
                    outcomes[name] = await self._ask(each)

        async with TaskGroup() as group:
            for name, step in steps.items():
                if step.asks:
                    group.create_task(ask(name, step))
        return outcomes

    async def _ask(self, ask: Ask) -> Outcome:
        driver = self.balancers.get(ask.change.endpoint.driver)
        if driver is None:
            text = f"this cluster has no {ask.change.endpoint.driver} configured"
            return Outcome(ask.change, Answer(AnswerState.FAILED, text))
        call = {
            Verb.SUBMIT: driver.submit,
            Verb.POLL: driver.poll,
            Verb.CANCEL: driver.cancel,
        }[ask.verb]
        try:
            return Outcome(ask.change, await call(ask.change))
        except Unavailable as error:
            return Outcome(ask.change, None, str(error))
        except GantryError as error:  # what we ask is wrong; said like any refusal
            return Outcome(ask.change, Answer(AnswerState.FAILED, str(error)))

    async def _forgotten(self, app: str, fleet: Fleet) -> frozenset[str]:
        """Instances that should be in but are not; asked of each backend now and then."""
        now = self.clock.now()
        if now - self._verified_at.get(app, float("-inf")) < self.verify_s:
            return frozenset()
        self._verified_at[app] = now
        inside = {
            name: each.value.hook.endpoint
            for name, each in fleet.items()
            if each.value.hook.phase is HookPhase.ON and each.value.hook.endpoint is not None
        }
        gone: set[str] = set()
        for driver_name, backend in sorted({(e.driver, e.backend) for e in inside.values()}):
            driver = self.balancers.get(driver_name)
            try:
                present = await driver.present(backend) if driver is not None else None
            except GantryError as error:
                self.log.warning("balancer not verified", backend=backend, error=str(error))
                continue
            if present is None:
                continue
            gone |= {
                name
                for name, e in inside.items()
                if (e.driver, e.backend) == (driver_name, backend)
                and (e.address, e.port) not in present
            }
        if gone:
            self.log.warning("the balancer has lost endpoints", app=app, count=len(gone))
        return frozenset(gone)

    def _tell(self, before: Mapping[str, Instance], fleet: Fleet) -> None:
        moved = False
        for name, kept in fleet.items():
            was, now = before[name], kept.value
            moved = moved or (was.hook.phase, was.stop_sent_at) != (
                now.hook.phase,
                now.stop_sent_at,
            )
            if now.stop_sent_at is not None and was.stop_sent_at is None:
                late = now.hook.phase is HookPhase.REMOVING
                say = self.log.warning if late else self.log.info
                say("instance let go", instance=name, reason=now.stop_reason, late=late)
        if moved:
            self.on_change(next(iter(fleet.values())).value.app)

    def _wake_s(self, fleet: Fleet) -> float | None:
        now = self.clock.now()
        waits = [hook.wake_s(each.value, now) for each in fleet.values()]
        due = [each for each in waits if each is not None]
        if any(each.value.wanted is Wanted.RUN for each in fleet.values()):
            due.append(self.verify_s)
        return min(due, default=None)
