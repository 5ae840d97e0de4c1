"""The deployer's loop: requests and what is heard of instances wake an app; its reconcile decides and carries out.

load (app, then its instances) → decide → save the app with its intents → carry them out. Who loses the race for the
app's document begins again; what a crash leaves undone, the next round finds in the intents.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from libs.common.consume import Handlers
from libs.common.direct import inbox
from libs.common.errors import GantryError, Unavailable
from libs.common.events import Envelope
from libs.common.events import model as ev
from libs.common.generations import ASK_EVERY_S, KnownHosts, all_hosts
from libs.common.producers import ProducerKeys
from libs.common.runtime import Runtime
from libs.common.sealing import Sealer
from libs.common.tokens import TokenVerifier
from libs.common.trust import Writers
from libs.common.waiting import TaskGroup, lasting
from services.deployer import api, api_images, api_vault, asks
from services.deployer.carry import Carrier, Fleet
from services.deployer.core import Decision, Snapshot, decide
from services.deployer.delivery import Deliveries
from services.deployer.desk import Desk
from services.deployer.drivers import open_balancers, open_images
from services.deployer.hooks import Balancers, Hooks
from services.deployer.intake import Intake
from services.deployer.ledger import Ledger, cause_of
from services.deployer.model import App, DeployerConfig, DeployState, Instance, Release
from services.deployer.observations import Observations
from services.deployer.observe import ObservedEvent
from services.deployer.registry import ImageResolver
from services.deployer.store import HOSTS, Kept, Repository
from services.deployer.tending import Tending
from services.deployer.trust import Trust
from services.deployer.vault import PURPOSE, Vault

# Events of a roll come in bursts; an app that waits this long decides once for all of them. A large app's rounds
# cost more, so they wait for more: an app takes at most a fifth of the time, up to a bound that a person doesn't feel.
COALESCE_S = 0.02
FORGET_EVERY_S = 600.0
COALESCE_ROUNDS = 4.0
COALESCE_MAX_S = 0.4


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
        self._rt = rt
        self._sweep_s = config.sweep_s
        self._keep_s = config.keep_deployments_s
        self._repo = repo
        self._images = images
        log, clock = rt.telemetry.log, rt.clock
        self.relay = rt.relay([repo.apps, repo.deployments, repo.instances, repo.vault])
        kick = self.relay.kick
        sealer = Sealer(rt.secret, PURPOSE, rt.rng)
        self.vault = Vault(repo.vault, sealer, clock, rt.telemetry, kick, config.default_registry)
        self._vault_queue = rt.queue("vault", self.vault.tend, workers=1)
        self._queue = rt.queue("apps", self.reconcile)
        self._carrier = Carrier(repo, clock, kick)
        self._ledger = Ledger(repo, clock, rt.ids, rt.telemetry, kick)
        verify_s = config.verify_balancer_s
        hooks = Hooks(repo, self._carrier, balancers, clock, log, self.wake, verify_s)
        self._hook_queue = rt.queue("hooks", hooks.reconcile)
        self._observations = Observations(repo, clock, self._on_heard)
        self._tending = Tending(repo, self._carrier, self._ledger, rt.peers, clock, log, config)
        self.intake = Intake(
            repo,
            self.vault,
            self._ledger,
            clock,
            self._queue.add,
            kick,
            balancers=balancers,
            trust=Trust(
                Writers(rt.secret, config.trusted_sources, ProducerKeys(rt.peers, rt.clock))
            ),
            publish=rt.bus.publish,
        )
        self._seconds = rt.telemetry.histogram("deployer_reconcile_seconds", "One app's round")
        self._round_s: dict[str, float] = {}  # how long an app's last round took
        # Requests have a group of their own: one may wait for the gateway to tell whose key signed it, and what is
        # heard of instances must not wait with it.
        self.subscriptions = (
            rt.subscription({ev.DeployRequested: self.intake.on_deploy_requested}, "deployer-asks"),
            rt.subscription(self.handlers()),
        )

    def wake(self, app: str) -> None:
        """Look at the app soon."""
        wait_s = COALESCE_ROUNDS * self._round_s.get(app, 0.0)
        self._queue.add(app, min(max(wait_s, COALESCE_S), COALESCE_MAX_S))

    def handlers(self) -> Handlers:
        """What the deployer hears of instances."""
        return {
            ev.OfferAccepted: self.on_observed,
            ev.PlacementDelayed: self.on_observed,
            ev.ContainerStarted: self.on_observed,
            ev.ContainerHealthy: self.on_observed,
            ev.ContainerUnhealthy: self.on_observed,
            ev.ContainerExited: self.on_observed,
            ev.ContainerLost: self.on_observed,
            ev.InstanceMoveRequested: self.on_observed,
        }

    async def run(self) -> None:
        """Work until cancelled."""
        list_keys, sweep_s = self._repo.app_ids, self._sweep_s
        async with TaskGroup() as group:
            group.create_task(lasting(self.relay.run()))
            group.create_task(lasting(self._observations.run()))
            for subscription in self.subscriptions:
                group.create_task(lasting(subscription.run()))
            group.create_task(lasting(self._queue.run(list_keys, sweep_s)))
            group.create_task(lasting(self._hook_queue.run(list_keys, sweep_s)))
            group.create_task(lasting(self._vault_queue.run(_once, sweep_s)))
            group.create_task(lasting(self._forget()))

    async def _forget(self) -> None:
        """Old deployments: also those that were refused to apps that never were."""
        while True:
            await self._rt.clock.sleep(FORGET_EVERY_S)
            try:
                while await self._repo.forget_deployments(self._rt.clock.now() - self._keep_s):
                    pass
            except Unavailable as error:
                self._rt.telemetry.log.warning("old deployments are kept", error=str(error))

    async def on_observed(self, event: ObservedEvent, envelope: Envelope) -> None:
        """Into the instance's document, with others of its batch."""
        await self._observations.note(event, envelope.sequence)

    def _on_heard(self, changed: Sequence[Instance]) -> None:
        for app in dict.fromkeys(each.app for each in changed):
            self.wake(app)
        for app in dict.fromkeys(each.app for each in changed if each.hooked):
            self._hook_queue.add(app)

    # -- reconcile ---------------------------------------------------------------------------------

    async def reconcile(self, app: str) -> float | None:
        """One round for an app; seconds until the next one, or None."""
        started = self._rt.clock.monotonic()
        kept = await self._repo.app(app)
        if kept is None:
            self._round_s.pop(app, None)
            return None
        traceparent = cause_of(kept.value).traceparent
        with self._rt.telemetry.span("deployer reconcile", traceparent, app=app):
            again_s = await self._round(kept)
        took_s = self._round_s[app] = self._rt.clock.monotonic() - started
        self._seconds.observe(took_s)
        return again_s

    async def _round(self, kept: Kept[App]) -> float | None:
        fleet = await self._repo.instances_of(kept.value.id)
        fleet = await self._carrier.carry_out(kept.value, fleet)
        if _awaits_image(kept.value):
            return await self._resolve(kept)
        snapshot = Snapshot(kept.value, tuple(each.value for each in fleet.values()))
        decision = decide(snapshot, self._rt.clock.now())
        if decision.make or decision.stop or decision.app is not kept.value:
            cause = cause_of(kept.value)
            saved = await self._ledger.save(kept, decision, cause, carried_out=True)
            if saved is None:
                return 0.0
            kept = saved
            fleet = await self._carrier.carry_out(kept.value, fleet)
            self._wake_hooks(kept.value, fleet)
        waits = [decision.recheck_s, await self._tending.tend(kept, fleet)]
        return min((each for each in waits if each is not None), default=None)

    async def _resolve(self, kept: Kept[App]) -> float | None:
        """Pin the image of a release to be made."""
        app, now = kept.value, self._rt.clock.now()
        assert app.deployment is not None
        releases: tuple[Release, ...] = ()
        try:
            login = await self.vault.login(app.bu, app.deployment.image)
            pinned = await self._images.resolve(app.deployment.image, login)
        except Unavailable as error:
            decision = asks.unresolved(app, str(error), now)
        except GantryError as error:
            decision = asks.unresolvable(app, str(error), now)
        else:
            rolling, release = asks.released(app, pinned, now, login=login is not None)
            decision, releases = Decision(rolling, recheck_s=0.0), (release,)
        if decision.app is not app:
            cause = cause_of(app)
            await self._ledger.save(kept, decision, cause, carried_out=True, releases=releases)
        return decision.recheck_s

    def _wake_hooks(self, app: App, fleet: Fleet) -> None:
        if any(each.value.hooked for each in fleet.values()):
            self._hook_queue.add(app.id)


async def _once() -> Sequence[str]:
    return ("all",)


def _awaits_image(app: App) -> bool:
    return app.deployment is not None and app.deployment.state is DeployState.ACCEPTED


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
        vault, log = deployer.vault, rt.telemetry.log
        desk = Desk(rt.clock, repo, deployer.intake, vault, images, deployer.relay.kick)
        taking = inbox(rt.service, deployer.subscriptions)
        hosts = await KnownHosts.open(rt.peers, rt.store, HOSTS)
        deliveries = Deliveries(repo, vault, rt.peers, rt.secret, hosts.generations, rt.rng, log)
        routes = (
            *api.routes(desk),
            *api_images.routes(vault, images),
            *api_vault.routes(repo, vault, rt.peers),
            *api_vault.host_routes(deliveries),
            taking,
        )
        verify = TokenVerifier(rt.secret, rt.clock, hosts.generations)
        asking = rt.queue("hosts", hosts.ask, workers=1)
        async with rt.serve(rt.http_app(routes, authenticate=verify)), TaskGroup() as group:
            group.create_task(deployer.run())
            group.create_task(asking.run(all_hosts, ASK_EVERY_S))
