"""The deployer's loop: requests and what is heard of instances wake an app; its reconcile decides and carries out.

load (app, then its instances) → decide → save the app with its intents → carry them out. Who loses the race for the
app's document begins again; what a crash leaves undone, the next round finds in the intents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from libs.common.actor import Actor
from libs.common.consume import Handlers
from libs.common.errors import Conflict, GantryError, NotFound, Unavailable
from libs.common.events import Cause, Envelope, Event, seal
from libs.common.events import model as ev
from libs.common.http import Role
from libs.common.runtime import Runtime
from libs.common.store.base import OutboxEvent
from services.deployer import api, asks
from services.deployer.asks import Facts
from services.deployer.carry import Carrier, Fleet, intended
from services.deployer.core import Decision, Snapshot, decide
from services.deployer.drivers import open_balancers, open_images
from services.deployer.hooks import Balancers, Hooks
from services.deployer.instances import asked_to_stop, is_over, nudge_s, nudged
from services.deployer.model import App, Deployment, DeployerConfig, DeployState, Instance, Release
from services.deployer.observations import Observations
from services.deployer.observe import ObservedEvent
from services.deployer.registry import ImageResolver
from services.deployer.store import Kept, Repository

# Events of a roll come in bursts; an app that waits this long decides once for all of them.
COALESCE_S = 0.02
RESOLVE_AGAIN_S = 1.0
TRIES = 8

Control = Callable[[App, Deployment], Decision]


class Deployer:
    """One replica; any number of them may run."""

    def __init__(
        self,
        rt: Runtime,
        config: DeployerConfig,
        repo: Repository,
        images: ImageResolver,
        balancers: Balancers,
    ) -> None:
        self.rt = rt
        self.config = config
        self.repo = repo
        self.images = images
        self.balancers = balancers
        self.relay = rt.relay([repo.apps, repo.deployments, repo.instances])
        self.queue = rt.queue("apps", self.reconcile)
        self.carrier = Carrier(repo, rt.clock, self.relay.kick)
        self.hooks = Hooks(
            repo,
            self.carrier,
            balancers,
            rt.clock,
            rt.telemetry.log,
            self.wake,
            config.verify_balancer_s,
        )
        self.hook_queue = rt.queue("hooks", self.hooks.reconcile)
        self.observations = Observations(repo, rt.clock, self._on_heard)
        self._ended = rt.telemetry.counter(
            "deployer_deployments_total", "Deployments that ended", "action", "state"
        )
        self._seconds = rt.telemetry.histogram("deployer_reconcile_seconds", "One app's round")

    def wake(self, app: str) -> None:
        """Look at the app soon."""
        self.queue.add(app, COALESCE_S)

    def handlers(self) -> Handlers:
        """What the deployer consumes."""
        return {
            ev.DeployRequested: self.on_deploy_requested,
            ev.OfferAccepted: self.on_observed,
            ev.PlacementDelayed: self.on_observed,
            ev.ContainerStarted: self.on_observed,
            ev.ContainerHealthy: self.on_observed,
            ev.ContainerUnhealthy: self.on_observed,
            ev.ContainerExited: self.on_observed,
            ev.ContainerLost: self.on_observed,
        }

    async def run(self) -> None:
        """Work until cancelled."""
        list_keys = self.repo.app_ids
        sweep_s = self.config.sweep_s
        async with asyncio.TaskGroup() as group:
            group.create_task(self.relay.run())
            group.create_task(self.observations.run())
            group.create_task(self.rt.subscription(self.handlers()).run())
            group.create_task(self.queue.run(list_keys, sweep_s))
            group.create_task(self.hook_queue.run(list_keys, sweep_s))

    # -- what is heard of instances ----------------------------------------------------------------

    async def on_observed(self, event: ObservedEvent, envelope: Envelope) -> None:
        """Into the instance's document, with others of its batch."""
        await self.observations.note(event, envelope.sequence)

    def _on_heard(self, changed: Sequence[Instance]) -> None:
        for app in dict.fromkeys(each.app for each in changed):
            self.wake(app)
        for app in dict.fromkeys(each.app for each in changed if each.hooked):
            self.hook_queue.add(app)

    # -- what is asked for -------------------------------------------------------------------------

    async def on_deploy_requested(self, event: ev.DeployRequested, envelope: Envelope) -> None:
        """Accept or refuse; either is an event, and a record that can be read under the deployment's id."""
        if await self.repo.deployment(event.deployment) is not None:
            self.queue.add(event.app)
            return
        cause = envelope.caused()
        for _ in range(TRIES):
            kept = await self.repo.app(event.app)
            if kept is not None and _knows(kept.value, event.deployment):
                self.queue.add(event.app)
                return
            facts = await self._facts(kept.value if kept else None, event)
            reason = (
                self._distrust(envelope)
                or asks.authorise(event)
                or asks.refuse(kept.value if kept else None, event, facts)
            )
            if reason or kept is None:
                await self._refuse(event, reason, cause)
                return
            decision = asks.accept(kept.value, event, facts, cause, self.rt.clock.now())
            audit = _audit(event, True, "")
            if await self._save(kept, decision, cause, audit) is not None:
                self.queue.add(event.app)
                return
        raise Unavailable(f"{event.app} is being changed all the time")

    def _distrust(self, envelope: Envelope) -> str:
        """Requests of other producers need a signature, which can't be checked yet: they are refused."""
        if envelope.source in self.config.trusted_sources:
            return ""
        return f"{envelope.source} may not ask for deployments: its requests are not signed"

    async def _facts(self, app: App | None, event: ev.DeployRequested) -> Facts:
        numbers = {app.release, event.release, app.previous} if app is not None else set()
        releases: dict[int, Release] = {}
        for number in sorted(each for each in numbers if each):
            release = await self.repo.release(event.app, number)
            if release is not None:
                releases[number] = release
        return Facts(releases, frozenset(self.balancers))

    async def _refuse(self, event: ev.DeployRequested, reason: str, cause: Cause) -> None:
        now = self.rt.clock.now()
        refused = asks.refused(event, reason, now)
        # Not of the app's document, so not of its sequence either: the deployment's own is its source.
        source = f"deployer/deployments/{event.deployment}"
        told: list[Event] = [_refusal(refused), _audit(event, False, reason)]
        events = seal(told, source=source, sequence=1, now=now, cause=cause)
        if await self.repo.refuse_deployment(refused, events):
            self.relay.kick()
            self._count(refused)

    async def control(self, deployment: str, actor: Actor, verb: str, how: Control) -> Deployment:
        """Pause, resume or abort; the deployment afterwards. Raises NotFound, Forbidden, Conflict."""
        for _ in range(TRIES):
            filed = await self.find_deployment(deployment)
            actor.require(filed.app.partition("/")[0], Role.DEPLOYER)
            kept = await self.repo.app(filed.app)
            running = kept.value.deployment if kept is not None else None
            if kept is None or running is None or running.id != deployment:
                raise Conflict(f"deployment {deployment} has ended: {filed.state}")
            decision = how(kept.value, running)
            audit = ev.AuditRecorded(
                actor=actor.name,
                action=f"deployment.{verb}",
                target=f"{filed.app}/deployments/{deployment}",
                allowed=True,
            )
            cause = Cause(running.correlation_id, "", running.traceparent)
            if await self._save(kept, decision, cause, audit) is not None:
                self.queue.add(filed.app)
                return decision.ended or decision.app.deployment or running
        raise Unavailable(f"deployment {deployment} is being changed all the time")

    async def find_deployment(self, deployment: str) -> Deployment:
        """A deployment as it stands now. Raises NotFound."""
        filed = await self.repo.deployment(deployment)
        if filed is None:
            raise NotFound(f"there is no deployment {deployment!r}")
        if filed.value.ended_at is not None:
            return filed.value
        kept = await self.repo.app(filed.value.app)
        return _newest(filed.value, kept.value if kept is not None else None)

    async def list_deployments(self, app: str, limit: int) -> list[Deployment]:
        """The newest deployments as they stand now."""
        filed = await self.repo.list_deployments(app, limit)
        running = {each.app for each in filed if each.ended_at is None}
        apps = {name: await self.repo.app(name) for name in sorted(running)}
        found = []
        for each in filed:
            kept = apps.get(each.app)
            found.append(_newest(each, kept.value if kept is not None else None))
        return found

    # -- reconcile ---------------------------------------------------------------------------------

    async def reconcile(self, app: str) -> float | None:
        """One round for an app; seconds until the next one, or None."""
        started = self.rt.clock.monotonic()
        kept = await self.repo.app(app)
        if kept is None:
            return None
        deployment = kept.value.deployment
        traceparent = deployment.traceparent if deployment else kept.value.traceparent
        with self.rt.telemetry.span("deployer reconcile", traceparent, app=app):
            again_s = await self._round(kept)
        self._seconds.observe(self.rt.clock.monotonic() - started)
        return again_s

    async def _round(self, kept: Kept[App]) -> float | None:
        fleet = await self.repo.instances_of(kept.value.id)
        fleet = await self.carrier.carry_out(kept.value, fleet)
        if _awaits_image(kept.value):
            again = await self._resolve(kept)
            if again is not None:
                return again
        snapshot = Snapshot(kept.value, tuple(each.value for each in fleet.values()))
        decision = decide(snapshot, self.rt.clock.now())
        if decision.make or decision.stop or decision.app is not kept.value:
            deployment = kept.value.deployment
            cause = _cause(deployment, kept.value)
            saved = await self._save(kept, decision, cause, fresh=True)
            if saved is None:
                return 0.0
            fleet = await self.carrier.carry_out(saved.value, fleet)
            self._wake_hooks(fleet)
            kept = saved
        waits = [decision.recheck_s, await self._tend(kept, fleet)]
        return min((each for each in waits if each is not None), default=None)

    async def _resolve(self, kept: Kept[App]) -> float | None:
        """Pin the image of a release to be made; None when only its deadline is left to be looked at."""
        deployment = kept.value.deployment
        assert deployment is not None
        now = self.rt.clock.now()
        releases: tuple[Release, ...] = ()
        try:
            pinned = await self.images.resolve(deployment.image)
        except Unavailable as error:
            if deployment.reason == str(error):
                return None
            waiting = deployment.model_copy(update={"reason": str(error)})
            app = kept.value.model_copy(update={"deployment": waiting})
            decision = Decision(app, recheck_s=RESOLVE_AGAIN_S)
        except GantryError as error:
            decision = asks.unresolvable(kept.value, str(error), now)
        else:
            app, release = asks.released(kept.value, pinned, now)
            decision, releases = Decision(app, recheck_s=0.0), (release,)
        cause = _cause(deployment, kept.value)
        await self._save(kept, decision, cause, fresh=True, releases=releases)
        return decision.recheck_s

    async def _tend(self, kept: Kept[App], fleet: Fleet) -> float | None:
        """Stops that are due, requests that nobody answered, documents that may go."""
        app, now = kept.value, self.rt.clock.now()
        due = [name for name, each in fleet.items() if asked_to_stop(each.value, now)[1]]
        fleet = await self.carrier.change(fleet, due, lambda each: asked_to_stop(each, now))
        waits = {
            name: wait_s
            for name, each in fleet.items()
            if (wait_s := nudge_s(each.value, now)) is not None
        }
        late = [name for name, wait_s in waits.items() if wait_s <= 0]
        if late:
            numbers = {fleet[name].value.release for name in late}
            releases = await self.carrier.releases(app, numbers)
            await self.carrier.change(fleet, late, lambda each: nudged(each, releases, now))
            self.rt.telemetry.log.warning("asked again", app=app.id, instances=len(late))
            return 1.0
        await self._forget(kept, fleet)
        return min(waits.values(), default=None)

    async def _forget(self, kept: Kept[App], fleet: Fleet) -> None:
        """Delete documents of instances long gone, unless a deployment still counts them."""
        now, running = self.rt.clock.now(), kept.value.deployment
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
            if await self._save(kept, cleared, _cause(running, kept.value), fresh=True) is None:
                return
        for each in over:
            await self.repo.instances.delete(each.value.id, each.version)

    def _wake_hooks(self, fleet: Fleet) -> None:
        if any(each.value.hooked for each in fleet.values()):
            self.hook_queue.add(next(iter(fleet.values())).value.app)

    async def _save(
        self,
        kept: Kept[App],
        decision: Decision,
        cause: Cause,
        audit: Event | None = None,
        *,
        fresh: bool = False,
        releases: Sequence[Release] = (),
    ) -> Kept[App] | None:
        """Save the app, its events and intents in one write; None when somebody was faster.

        `fresh`: the intents that were there have been carried out; else they stay.
        """
        before, after = kept.value.deployment, decision.app.deployment
        moved = after is not None and (before is None or before.state is not after.state)
        filed = (after,) if after is not None and (moved or releases) else ()
        app = intended(
            decision,
            self.rt.ids,
            earlier=None if fresh else kept.value.intents,
            releases=releases,
            filed=filed,
        )
        events = self._seal(kept, decision, cause, audit)
        saved = await self.repo.save_app(kept, app, events)
        if saved is None:
            return None
        if events:
            self.relay.kick()
        if decision.ended is not None:
            self._count(decision.ended)
        return saved

    def _seal(
        self, kept: Kept[App], decision: Decision, cause: Cause, audit: Event | None
    ) -> tuple[OutboxEvent, ...]:
        now, sequence = self.rt.clock.now(), kept.version + 1
        events = seal(
            decision.events, source="deployer", sequence=sequence, now=now, cause=cause
        )
        if audit is None:
            return events
        # The subject of an audit line is its actor; the app in the source keeps the ids of two apps apart.
        source = f"deployer/apps/{kept.value.id}"
        return (*events, *seal([audit], source=source, sequence=sequence, now=now, cause=cause))

    def _count(self, deployment: Deployment) -> None:
        self._ended.labels(deployment.action.value, deployment.state.value).inc()
        self.rt.telemetry.log.info(
            "deployment ended",
            deployment=deployment.id,
            app=deployment.app,
            state=deployment.state.value,
            reason=deployment.reason,
        )


def _knows(app: App, deployment: str) -> bool:
    if app.deployment is not None and app.deployment.id == deployment:
        return True
    return any(each.id == deployment for each in app.intents.deployments)


def _newest(filed: Deployment, app: App | None) -> Deployment:
    """What was filed, or the app's own newer state of it."""
    if app is None or filed.ended_at is not None:
        return filed
    known = [*app.intents.deployments, *((app.deployment,) if app.deployment else ())]
    mine = [each for each in known if each.id == filed.id]
    return mine[-1] if mine else filed


def _awaits_image(app: App) -> bool:
    return app.deployment is not None and app.deployment.state is DeployState.ACCEPTED


def _cause(deployment: Deployment | None, app: App) -> Cause:
    if deployment is None:
        return Cause(traceparent=app.traceparent)
    return Cause(deployment.correlation_id, "", deployment.traceparent)


def _refusal(refused: Deployment) -> Event:
    return ev.DeployFailed(
        deployment=refused.id,
        app=refused.app,
        release=refused.release or 0,
        state=refused.state.value,
        counts=refused.counts,
        reason=refused.reason,
    )


def _audit(event: ev.DeployRequested, allowed: bool, detail: str) -> ev.AuditRecorded:
    return ev.AuditRecorded(
        actor=event.actor,
        action=f"deploy.{event.action}",
        target=event.app,
        allowed=allowed,
        detail=detail,
        request_id=event.deployment,
    )


async def run(
    rt: Runtime, *, images: ImageResolver | None = None, balancers: Balancers | None = None
) -> None:
    """Run the deployer until cancelled. Ports that are not given are opened as the configuration says."""
    config = rt.section(DeployerConfig)
    repo = await Repository.open(rt.store)
    async with AsyncExitStack() as stack:
        if images is None:
            images = open_images(config)
            stack.push_async_callback(images.close)
        if balancers is None:
            balancers = await open_balancers(config, rt.clock)
            for each in balancers.values():
                stack.push_async_callback(each.close)
        deployer = Deployer(rt, config, repo, images, balancers)
        async with rt.serve(rt.http_app(api.routes(deployer))):
            await deployer.run()
