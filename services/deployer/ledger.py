"""Saves an app: its state, its events and what follows from it, in one write."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.clock import Clock, Ids
from libs.common.events import Cause, Event, seal
from libs.common.outbox import Kick
from libs.common.store.base import OutboxEvent
from libs.common.telemetry import Telemetry
from services.deployer.carry import intended
from services.deployer.core import Decision
from services.deployer.model import App, Deployment, Release
from services.deployer.store import Kept, Repository

SOURCE = "deployer"


class Ledger:
    """The app's documents, written."""

    def __init__(
        self,
        repo: Repository,
        clock: Clock,
        ids: Ids,
        telemetry: Telemetry,
        kick: Kick,
    ) -> None:
        self._repo = repo
        self._clock = clock
        self._ids = ids
        self._log = telemetry.log
        self._kick = kick
        self._ended = telemetry.counter(
            "deployer_deployments_total", "Deployments that ended", "action", "state"
        )

    async def save(
        self,
        kept: Kept[App],
        decision: Decision,
        cause: Cause,
        audit: Event | None = None,
        *,
        carried_out: bool = False,
        releases: Sequence[Release] = (),
    ) -> Kept[App] | None:
        """The app as it is now; None when somebody was faster.

        `carried_out`: the intents that were there are done; else they are kept, before the new ones.
        """
        app = intended(
            decision,
            self._ids,
            earlier=None if carried_out else kept.value.intents,
            releases=releases,
            filed=_to_file(kept.value.deployment, decision.app.deployment, bool(releases)),
        )
        events = self._seal(kept, decision, cause, audit)
        saved = await self._repo.save_app(kept, app, events)
        if saved is None:
            return None
        if events:
            self._kick()
        if decision.ended is not None:
            self.count(decision.ended)
        self._tell_of_glass(kept.value.deployment, app.deployment)
        return saved

    def _seal(
        self, kept: Kept[App], decision: Decision, cause: Cause, audit: Event | None
    ) -> tuple[OutboxEvent, ...]:
        now, sequence = self._clock.now(), kept.version + 1
        events = seal(decision.events, source=SOURCE, sequence=sequence, now=now, cause=cause)
        if audit is None:
            return events
        source = audit_source(kept.value.id)
        return (*events, *seal([audit], source=source, sequence=sequence, now=now, cause=cause))

    def _tell_of_glass(self, before: Deployment | None, after: Deployment | None) -> None:
        if after is None or not after.break_glass or (before and before.id == after.id):
            return
        self._log.warning(
            "glass broken",
            app=after.app,
            deployment=after.id,
            action=after.action.value,
            actor=after.actor,
            reason=after.break_glass,
        )

    def count(self, deployment: Deployment) -> None:
        """Tell log and metrics of an end."""
        self._ended.labels(deployment.action.value, deployment.state.value).inc()
        self._log.info(
            "deployment ended",
            deployment=deployment.id,
            app=deployment.app,
            state=deployment.state.value,
            reason=deployment.reason,
        )


def audit_source(app: str) -> str:
    """The subject of an audit line is its actor; the app in the source keeps the ids of two apps apart."""
    return f"{SOURCE}/apps/{app}"


def cause_of(app: App) -> Cause:
    """What the app's events go on with: the deployment's trace while there is one."""
    deployment = app.deployment
    if deployment is None:
        return Cause(traceparent=app.traceparent)
    return Cause(deployment.correlation_id, "", deployment.traceparent)


def _to_file(
    before: Deployment | None, after: Deployment | None, released: bool
) -> tuple[Deployment, ...]:
    """A deployment is filed when it begins, changes state or gets its release; counts are read from the app."""
    if after is None:
        return ()
    same = before is not None and (before.id, before.state) == (after.id, after.state)
    return () if same and not released else (after,)
