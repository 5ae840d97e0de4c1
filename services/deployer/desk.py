"""What the HTTP face asks of the deployer: specs are written here, the rest is read or handed to the loop."""

from __future__ import annotations

from libs.common.actor import Actor
from libs.common.clock import Clock
from libs.common.errors import NotFound, Refused, Stale, Unavailable
from libs.common.events import model as ev
from libs.common.events import seal
from libs.common.events.model import DeployAction
from libs.common.outbox import Kick
from libs.common.spec import AppSpec
from services.deployer import asks
from services.deployer.intake import Intake
from services.deployer.ledger import audit_source
from services.deployer.model import App, AppId, Deployment
from services.deployer.plan import Plan, plan
from services.deployer.registry import ImageResolver
from services.deployer.store import Kept, Repository
from services.deployer.vault import Vault

TRIES = 8


class Desk:
    """The operations behind the routes."""

    def __init__(
        self,
        clock: Clock,
        repo: Repository,
        intake: Intake,
        vault: Vault,
        images: ImageResolver,
        kick: Kick,
    ) -> None:
        self.repo = repo
        self.deployments = intake
        self.vault = vault
        self._clock = clock
        self._images = images
        self._kick = kick

    def now(self) -> float:
        """Unix seconds."""
        return self._clock.now()

    async def app(self, app: str) -> App:
        """An app. Raises NotFound."""
        kept = await self.repo.app(app)
        if kept is None:
            raise NotFound(f"there is no app {app!r}")
        return kept.value

    async def app_with(self, app: str, spec: AppSpec) -> App:
        """The app as it would be if `spec` were put, new if there is none. Nothing is written."""
        kept = await self.repo.app(app)
        return self._with_spec(kept.value if kept is not None else None, AppId(app), spec)

    async def put_app(
        self,
        app: str,
        spec: AppSpec,
        actor: Actor,
        must_be: frozenset[int] | None,
        fresh: bool,
        request_id: str = "",
    ) -> tuple[App, bool]:
        """Write the spec whole; the app, and whether it is new. Nothing runs because of it.

        `must_be` are the spec versions that may be replaced (empty: any, but there must be one), `fresh`: there
        must be none. Raises Stale.
        """
        for _ in range(TRIES):
            kept = await self.repo.app(app)
            before = kept.value if kept is not None else None
            _check_version(before, must_be, fresh)
            if before is not None and before.spec == spec:
                return before, False
            after = self._with_spec(before, AppId(app), spec)
            audit = ev.AuditRecorded(
                actor=actor.name,
                action="app.put",
                target=app,
                allowed=True,
                before=_shown(before.spec) if before is not None else None,
                after=_shown(spec),
                request_id=request_id,
            )
            version = kept.version if kept is not None else 0
            events = seal([audit], source=audit_source(app), sequence=version + 1, now=self.now())
            saved = await self.repo.save_app(Kept(version, after), after, events)
            if saved is not None:
                self._kick()
                return after, before is None
        raise Unavailable(f"{app} is being changed all the time")

    def _with_spec(self, before: App | None, app: AppId, spec: AppSpec) -> App:
        now = self.now()
        if before is None:
            return App(id=app, spec=spec, created_at=now, updated_at=now)
        fields = {"spec": spec, "spec_version": before.spec_version + 1, "updated_at": now}
        return before.model_copy(update=fields)

    async def plan(
        self,
        app: App,
        action: DeployAction,
        image: str | None,
        instances: int | None,
        release: int | None,
        force: bool,
    ) -> tuple[str, Plan]:
        """The image by digest ("" when there is none to resolve) and what would be done."""
        request = ev.DeployRequested(
            deployment="plan",
            app=app.id,
            action=action,
            actor="plan",
            image=image,
            instances=instances,
            release=release,
            force=force,
        )
        pinned = ""
        if action is DeployAction.RELEASE:
            reference = image or app.spec.image
            try:
                login = await self.vault.login(app.bu, reference)
                pinned = await self._images.resolve(reference, login)
            except Refused as error:
                return "", Plan(f"image {reference}: {error}")
        facts = await self.deployments.facts(app, request)
        fleet = await self.repo.list_instances(app.id)
        return pinned, plan(app, fleet, request, facts, pinned, self.now())

    async def pause(self, deployment: str, actor: Actor) -> Deployment:
        """Hold it. Raises NotFound, Forbidden, Conflict."""
        now = self.now()
        return await self.deployments.control(
            deployment, actor, "pause", lambda app, each: asks.pause(app, each, actor.name, now)
        )

    async def resume(self, deployment: str, actor: Actor) -> Deployment:
        """Let it go on. Raises NotFound, Forbidden, Conflict."""
        now = self.now()
        return await self.deployments.control(
            deployment, actor, "resume", lambda app, each: asks.resume(app, each, now)
        )

    async def abort(self, deployment: str, actor: Actor) -> Deployment:
        """Turn it back. Raises NotFound, Forbidden, Conflict."""
        now = self.now()
        return await self.deployments.control(
            deployment, actor, "abort", lambda app, each: asks.abort(app, each, actor.name, now)
        )


def _check_version(before: App | None, must_be: frozenset[int] | None, fresh: bool) -> None:
    if fresh and before is not None:
        raise Stale(f"{before.id} exists already, its spec is version {before.spec_version}")
    if must_be is None:
        return
    if before is None:
        raise Stale("there is no spec yet that could be replaced")
    if must_be and before.spec_version not in must_be:
        raise Stale(f"the spec of {before.id} is version {before.spec_version} by now")


def _shown(spec: AppSpec) -> dict[str, object]:
    """A spec for the audit trail: which variables there are, not what is in them."""
    shown = spec.model_dump(mode="json", by_alias=True)
    shown["env"] = dict.fromkeys(spec.env, "***")
    return shown
