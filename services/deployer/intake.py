"""What is asked of deployments: accepted or refused, paused, resumed, aborted, looked up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace

from libs.common.actor import Actor
from libs.common.bus.base import Record
from libs.common.clock import Clock
from libs.common.errors import Conflict, Forbidden, NotFound, Unavailable
from libs.common.events import Cause, Envelope, Event, seal, to_record
from libs.common.events import model as ev
from libs.common.http import Role
from libs.common.outbox import Kick
from services.deployer import asks
from services.deployer.asks import Facts
from services.deployer.core import Decision
from services.deployer.ledger import SOURCE, Ledger, cause_of
from services.deployer.model import App, Deployment, Release
from services.deployer.store import Repository
from services.deployer.trust import Trust
from services.deployer.vault import Vault

TRIES = 8
NAME_CHARS = 200  # of a stranger's words, so much is passed on
REASON_CHARS = 500

Control = Callable[[App, Deployment], Decision]


class Intake:
    """Requests, by event and by hand."""

    def __init__(
        self,
        repo: Repository,
        vault: Vault,
        ledger: Ledger,
        clock: Clock,
        wake: Callable[[str], None],
        kick: Kick,
        *,
        balancers: Collection[str],
        trust: Trust,
        publish: Callable[[Sequence[Record]], Awaitable[None]],
    ) -> None:
        self._repo = repo
        self._vault = vault
        self._ledger = ledger
        self._clock = clock
        self._wake = wake
        self._kick = kick
        self._balancers = frozenset(balancers)
        self._trust = trust
        self._publish = publish

    async def on_deploy_requested(self, event: ev.DeployRequested, envelope: Envelope) -> None:
        """Accept or refuse; either is an event, and a record that can be read under the deployment's id.

        Of a request that is not its true author's, or not the author's to make, only the audit trail hears.
        """
        try:
            event = await self._trust.admit(event, envelope)
        except Forbidden as error:
            await self._turn_away(event, envelope, str(error))
            return
        if await self._repo.deployment(event.deployment) is not None:
            self._wake(event.app)
            return
        # Until when what comes of it goes directly, nobody but we may say.
        cause = replace(envelope.caused(), direct_until=0.0)
        for _ in range(TRIES):
            kept = await self._repo.app(event.app)
            if kept is not None and _knows(kept.value, event.deployment):
                self._wake(event.app)
                return
            app = kept.value if kept is not None else None
            facts = await self.facts(app, event)
            reason = (
                asks.authorise(event)
                or asks.overtaken(app, envelope.time)
                or asks.refuse(app, event, facts)
            )
            if reason or kept is None:
                await self._refuse(event, reason, cause)
                return
            now = self._clock.now()
            decision = asks.accept(kept.value, event, facts, cause, now, envelope.time)
            audit = _audit(event, True, "")
            if await self._ledger.save(kept, decision, cause, audit) is not None:
                self._wake(event.app)
                return
        raise Unavailable(f"{event.app} is being changed all the time")

    async def _turn_away(self, event: ev.DeployRequested, envelope: Envelope, reason: str) -> None:
        """Tell the audit trail. No record under the deployment's id, and no event of the app: both are its owner's."""
        audit = ev.AuditRecorded(
            actor=f"unproven:{event.actor}"[:NAME_CHARS],
            action=f"deploy.{event.action}",
            target=event.app[:NAME_CHARS],
            allowed=False,
            detail=f"{reason} (ce_source {envelope.source[:NAME_CHARS]})",
            request_id=event.deployment[:NAME_CHARS],
        )
        now = self._clock.now()
        # No document changes, so no outbox can carry it: it is published before the request's offset is committed.
        about = f"{envelope.id} {event.deployment}"
        sealed = seal(
            [audit],
            source=f"{SOURCE}/refusals",
            sequence=1,
            now=now,
            cause=envelope.caused(),
            aggregate=about,
        )
        await self._publish([to_record(each) for each in sealed])

    async def facts(self, app: App | None, event: ev.DeployRequested) -> Facts:
        """What a request is judged by: the releases it may name, the load balancers and the secrets there are."""
        numbers = {app.release, event.release, app.previous} if app is not None else set()
        releases: dict[int, Release] = {}
        for number in sorted(each for each in numbers if each):
            release = await self._repo.release(event.app, number)
            if release is not None:
                releases[number] = release
        specs = [app.spec] if app is not None else []
        specs += [each.spec for each in releases.values()]
        names = {ref.name for spec in specs for ref in spec.secrets}
        known = await self._vault.known(app.bu, names) if app is not None and names else {}
        return Facts(releases, self._balancers, known)

    async def _refuse(self, event: ev.DeployRequested, reason: str, cause: Cause) -> None:
        now = self._clock.now()
        refused = asks.refused(event, reason, now)
        # Not of the app's document, so not of its sequence either: the deployment's own is its source.
        source = f"{SOURCE}/deployments/{event.deployment}"
        told: list[Event] = [_refusal(refused), _audit(event, False, reason)]
        events = seal(told, source=source, sequence=1, now=now, cause=cause)
        if await self._repo.refuse_deployment(refused, events):
            self._kick()
            self._ledger.count(refused)

    async def control(self, deployment: str, actor: Actor, verb: str, how: Control) -> Deployment:
        """Pause, resume or abort; the deployment afterwards. Raises NotFound, Forbidden, Conflict."""
        for _ in range(TRIES):
            filed = await self.find(deployment)
            actor.require(filed.app.partition("/")[0], Role.DEPLOYER)
            kept = await self._repo.app(filed.app)
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
            cause = cause_of(kept.value)
            if await self._ledger.save(kept, decision, cause, audit) is not None:
                self._wake(filed.app)
                return decision.ended or decision.app.deployment or running
        raise Unavailable(f"deployment {deployment} is being changed all the time")

    async def find(self, deployment: str) -> Deployment:
        """A deployment as it stands now. Raises NotFound."""
        filed = await self._repo.deployment(deployment)
        if filed is None:
            raise NotFound(f"there is no deployment {deployment!r}")
        if filed.value.ended_at is not None:
            return filed.value
        kept = await self._repo.app(filed.value.app)
        return _newest(filed.value, kept.value if kept is not None else None)

    async def list(self, app: str, limit: int, bu: str = "") -> list[Deployment]:
        """The newest deployments (of an app, of a business unit, or of all) as they stand now."""
        filed = await self._repo.list_deployments(app, limit, bu)
        running = sorted({each.app for each in filed if each.ended_at is None})
        apps = {name: await self._repo.app(name) for name in running}
        found = []
        for each in filed:
            kept = apps.get(each.app)
            found.append(_newest(each, kept.value if kept is not None else None))
        return found


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
    glass = f"BREAK GLASS: {event.break_glass[:REASON_CHARS]}" if event.break_glass else ""
    return ev.AuditRecorded(
        actor=event.actor,
        action=f"deploy.{event.action}",
        target=event.app,
        allowed=allowed,
        detail="; ".join(each for each in (glass, detail) if each),
        request_id=event.deployment,
    )
