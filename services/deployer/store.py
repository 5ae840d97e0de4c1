"""The deployer's documents: apps (the aggregate), releases, deployments, instances, and the sealed vault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from libs.common.generations import HOSTS_SCHEMA
from libs.common.store.base import (
    Collection,
    CollectionSpec,
    Doc,
    Index,
    Op,
    OutboxEvent,
    Outcome,
    Query,
    Schema,
    Store,
    Where,
    Write,
    eq,
)
from libs.common.store.paging import documents
from libs.common.store.shapes import known_to
from services.deployer.entries import Entry
from services.deployer.model import App, Body, Deployment, Instance, Release

APPS = CollectionSpec(
    "deployer_apps",
    (Index("bu", ("bu",)),),
    Schema(known=lambda body: body_of(App.model_validate(body, extra="ignore"))),
)
RELEASES = CollectionSpec(
    "deployer_releases",
    (Index("app", ("app", "number"), unique=True),),
    Schema(known=known_to(Release)),
)
DEPLOYMENTS = CollectionSpec(
    "deployer_deployments",
    (Index("app", ("app", "created_at")), Index("at", ("created_at",))),
    Schema(known=known_to(Deployment)),
)
INSTANCES = CollectionSpec(
    "deployer_instances", (Index("app", ("app",)),), Schema(known=known_to(Instance))
)
HOSTS = CollectionSpec("deployer_hosts", schema=HOSTS_SCHEMA)
VAULT = CollectionSpec(
    "deployer_vault",
    (Index("bu", ("bu", "kind")), Index("sealed_by", ("sealed_by",))),
    Schema(known=known_to(Entry)),
)
MAX_RELEASES_CACHED = 2000
MAX_INSTANCES_CACHED = 20_000

BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True, slots=True)
class Kept(Generic[BodyT]):
    """A document's content and the version it was read at (0: not stored yet)."""

    version: int
    value: BodyT


def body_of(value: Body) -> dict[str, Any]:
    """What is stored. An app's BU is kept beside it, for the index."""
    body = value.model_dump(mode="json", by_alias=True)
    if isinstance(value, App):
        body["bu"] = value.bu
    return body


def write_of(
    doc_id: str, kept: Kept[BodyT], value: BodyT, events: Sequence[OutboxEvent] = ()
) -> Write:
    """Replace what was read by `value`."""
    return Write(doc_id, kept.version, body_of(value), tuple(events))


def release_id(app: str, number: int) -> str:
    """The id of a release's document."""
    return f"{app}@{number}"


class Repository:
    """Typed access. All methods raise Unavailable or TimedOut when the store can't be reached."""

    def __init__(
        self,
        apps: Collection,
        releases: Collection,
        deployments: Collection,
        instances: Collection,
        vault: Collection,
    ) -> None:
        self.apps = apps
        self.releases = releases
        self.deployments = deployments
        self.instances = instances
        self.vault = vault  # read and written by vault.py alone
        self._release_cache: dict[str, Release] = {}  # they never change
        # A round reads all instances of its app, of which few have changed since the last one.
        self._instance_cache: dict[str, tuple[Mapping[str, Any], Instance]] = {}

    @classmethod
    async def open(cls, store: Store) -> Repository:
        """The collections, made if need be."""
        specs = (APPS, RELEASES, DEPLOYMENTS, INSTANCES, VAULT)
        return cls(*[await store.collection(spec) for spec in specs])

    # -- apps --------------------------------------------------------------------------------------

    async def app(self, app: str) -> Kept[App] | None:
        """An app, or None."""
        return _kept(await self.apps.get(app), App)

    async def app_ids(self) -> list[str]:
        """All apps there are."""
        return [doc.id async for doc in documents(self.apps)]

    async def list_apps(self, bu: str = "") -> list[App]:
        """Apps of a business unit ("" is all), by id."""
        where = (eq("bu", bu),) if bu else ()
        return [App.model_validate(doc.body) async for doc in documents(self.apps, where)]

    async def save_app(
        self, kept: Kept[App], app: App, events: Sequence[OutboxEvent] = ()
    ) -> Kept[App] | None:
        """Replace the app; None when somebody else has changed it."""
        (result,) = await self.apps.replace_many([write_of(app.id, kept, app, events)])
        return Kept(kept.version + 1, app) if result.ok else None

    # -- releases ----------------------------------------------------------------------------------

    async def release(self, app: str, number: int) -> Release | None:
        """A release, or None."""
        doc_id = release_id(app, number)
        cached = self._release_cache.get(doc_id)
        if cached is not None:
            return cached
        doc = await self.releases.get(doc_id)
        if doc is None:
            return None
        if len(self._release_cache) >= MAX_RELEASES_CACHED:
            self._release_cache.clear()
        release = self._release_cache[doc_id] = Release.model_validate(doc.body)
        return release

    async def list_releases(self, app: str, limit: int) -> list[Release]:
        """The newest releases of an app, newest first."""
        query = Query((eq("app", app),), order="number", descending=True, limit=limit)
        page = await self.releases.find(query)
        return [Release.model_validate(doc.body) for doc in page.docs]

    async def forget_releases(self, app: str, below: int, kept: AbstractSet[int]) -> int:
        """Delete the releases of an app with lower numbers, but those of `kept`; how many went."""
        where = (eq("app", app), Where("number", Op.LT, below))
        gone = 0
        async for doc in documents(self.releases, where):
            if doc.body["number"] not in kept:
                gone += (await self.releases.delete(doc.id, doc.version)).ok
                self._release_cache.pop(doc.id, None)
        return gone

    async def file_releases(self, releases: Iterable[Release]) -> None:
        """Insert releases; those that are there stay as they are."""
        writes = [Write(release_id(each.app, each.number), 0, body_of(each)) for each in releases]
        if writes:
            await self.releases.replace_many(writes)

    # -- deployments -------------------------------------------------------------------------------

    async def deployment(self, deployment: str) -> Kept[Deployment] | None:
        """A deployment as it was filed last, or None."""
        return _kept(await self.deployments.get(deployment), Deployment)

    async def list_deployments(self, app: str, limit: int, bu: str = "") -> list[Deployment]:
        """The newest deployments of one app, of a business unit's apps, or ("" and "") of all."""
        where: tuple[Where, ...] = ()
        if app:
            where = (eq("app", app),)
        elif bu:
            after_slash = chr(ord("/") + 1)
            where = (
                Where("app", Op.GE, f"{bu}/"),
                Where("app", Op.LT, f"{bu}{after_slash}"),
            )
        query = Query(where, order="created_at", descending=True, limit=limit)
        page = await self.deployments.find(query)
        return [Deployment.model_validate(doc.body) for doc in page.docs]

    async def file_deployments(self, deployments: Iterable[Deployment]) -> None:
        """Write records of deployments; one that has ended is never changed again."""
        for each in deployments:
            for _ in range(5):
                known = await self.deployment(each.id)
                if known is not None and (known.value.ended_at is not None or known.value == each):
                    break
                write = write_of(each.id, known or Kept(0, each), each)
                (result,) = await self.deployments.replace_many([write])
                if result.ok:
                    break

    async def forget_deployments(self, before: float, limit: int = 500) -> int:
        """Delete records of deployments that began before then and have ended; how many went."""
        old = Query((Where("created_at", Op.LT, before),), order="created_at", limit=limit)
        gone = 0
        for doc in (await self.deployments.find(old)).docs:
            if doc.body["ended_at"] is not None:
                gone += (await self.deployments.delete(doc.id, doc.version)).ok
        return gone

    async def refuse_deployment(self, refused: Deployment, events: Sequence[OutboxEvent]) -> bool:
        """Insert a refused request with its events; False when the deployment is known already."""
        write = Write(refused.id, 0, body_of(refused), tuple(events))
        (result,) = await self.deployments.replace_many([write])
        return result.outcome is Outcome.OK

    # -- instances ---------------------------------------------------------------------------------

    async def instances_of(self, app: str) -> dict[str, Kept[Instance]]:
        """All instances of an app that have a document, by id."""
        docs = [doc async for doc in documents(self.instances, (eq("app", app),))]
        return {doc.id: Kept(doc.version, self._instance(doc)) for doc in docs}

    def _instance(self, doc: Doc) -> Instance:
        """The document's content, read anew only when it differs: comparing costs a tenth of validating."""
        body, instance = self._instance_cache.get(doc.id, (None, None))
        if instance is None or body != doc.body:
            instance = Instance.model_validate(doc.body)
            if len(self._instance_cache) >= MAX_INSTANCES_CACHED:
                self._instance_cache.clear()
            self._instance_cache[doc.id] = (doc.body, instance)
        return instance

    async def list_instances(self, app: str = "", bu: str = "") -> list[Instance]:
        """Instances of an app, of a business unit, or all."""
        where = (eq("app", app),) if app else ()
        docs = [doc async for doc in documents(self.instances, where)]
        found = [Instance.model_validate(doc.body) for doc in docs]
        return [each for each in found if not bu or each.app.startswith(f"{bu}/")]

    async def get_instances(self, instances: Sequence[str]) -> dict[str, Kept[Instance]]:
        """Those of the instances that have a document, by id."""
        docs = await self.instances.get_many(instances)
        return {
            name: Kept(doc.version, Instance.model_validate(doc.body)) for name, doc in docs.items()
        }

    async def save_instances(self, writes: Sequence[Write]) -> list[bool]:
        """Which of the writes took effect."""
        if not writes:
            return []
        return [result.ok for result in await self.instances.replace_many(writes)]


def _kept(doc: Doc | None, model: type[BodyT]) -> Kept[BodyT] | None:
    return None if doc is None else Kept(doc.version, model.model_validate(doc.body))
