"""The scheduler's documents: one an instance, one a host that people closed, one about the framework, and jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from libs.common.clock import Clock
from libs.common.errors import Fenced
from libs.common.events.base import Cause, seal
from libs.common.events.model import AuditRecorded
from libs.common.gathering import Gathering
from libs.common.store.base import (
    Collection,
    CollectionSpec,
    Fence,
    Index,
    OutboxEvent,
    Query,
    Schema,
    Store,
    Write,
    eq,
    is_in,
)
from libs.common.store.mirror import Mirror
from libs.common.store.paging import documents
from libs.common.store.shapes import fields
from services.scheduler.agent_store import AgentStore
from services.scheduler.cluster import Draft
from services.scheduler.documents import LOST, SEEN, SharedSpecs, from_body, to_body
from services.scheduler.jobs.book import JobBook
from services.scheduler.jobs.loading import book_of
from services.scheduler.jobs.model import Job, job_of
from services.scheduler.jobs.store import JOBS as JOBS
from services.scheduler.jobs.store import REQUESTS as REQUESTS
from services.scheduler.jobs.store import RUNS as RUNS
from services.scheduler.jobs.store import JobStore
from services.scheduler.model import Instance, InstanceId
from services.scheduler.node_store import NodeStore
from services.scheduler.nodes import node_body, node_of
from services.scheduler.writing import delete_all, is_same, replace_all

INSTANCES = CollectionSpec(
    "scheduler_instances",
    (
        Index("ended", ("ended", "since")),
        Index("there", ("ended",), by_id=True),  # those that have not, a page at a time
        Index("over", ("over", "since")),
    ),
    Schema(known=lambda body: to_body(from_body("", 0, body))),
)
FRAMEWORK = CollectionSpec(
    "scheduler_framework", schema=Schema(known=fields("id", "executor_command"))
)
NODES = CollectionSpec(
    "scheduler_nodes", schema=Schema(known=lambda body: node_body(node_of("", 0, body)))
)
AGENTS = CollectionSpec("scheduler_agents", schema=Schema(known=fields("role", "since")))
_PAGE = 2000
_FRAMEWORK_DOC = "framework"


@dataclass(frozen=True, slots=True)
class Framework:
    """What must outlive the process: our id at Mesos, and the executor's command, which may never change."""

    id: str = ""
    executor_command: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """The new versions of instances and the events in their outboxes, and the events of jobs."""

    versions: dict[InstanceId, int]
    outboxes: Mapping[str, Sequence[OutboxEvent]]
    of_jobs: Sequence[OutboxEvent] = ()


class Memory:
    """What is known of the documents that there are most of: nothing, or what a standby has read.

    Of its instances a Cluster makes its own: a memory is used for one. `keep_s`: a document is deleted so long after
    its end, and its name not used again before (a run's never is). Who has been away for that long knows nothing any
    more: there could be another document of that name and version.
    """

    def __init__(self, keep_s: float) -> None:
        specs = SharedSpecs()
        self._keep_s = keep_s
        self._asked = float("-inf")  # nothing is known from before
        self.instances = Mirror(
            lambda doc: from_body(doc.id, doc.version, doc.body, specs), (eq("ended", False),)
        )
        self.jobs = Mirror(lambda doc: job_of(doc.id, doc.version, doc.body))

    def forget(self) -> None:
        """Know nothing."""
        self.instances.forget()
        self.jobs.forget()

    @staticmethod
    async def collections(store: Store) -> tuple[Collection, Collection]:
        """Of instances and of jobs, for who does not lead."""
        return await store.collection(INSTANCES), await store.collection(JOBS)

    async def refresh(self, instances: Collection, jobs: Collection, clock: Clock) -> int:
        """Be as the store is; how many documents were read. Raises Unavailable. See Mirror."""
        now = clock.monotonic()
        if now - self._asked > self._keep_s / 2:
            self.forget()
            self._asked = now
        read = await self.instances.refresh(instances) + await self.jobs.refresh(jobs)
        self._asked = now
        return read


class SchedulerStore:
    """Typed access; every write carries the leader's fence."""

    def __init__(
        self,
        instances: Collection,
        framework: Collection,
        nodes: Collection,
        agents: Collection,
        jobs: JobStore,
        fence: Fence,
    ) -> None:
        self.instances = instances
        self._framework = framework
        self._fence = fence
        self._reading = Gathering(instances.get_many)
        self.nodes = NodeStore(nodes, fence)
        self.agents = AgentStore(agents, fence)
        self.jobs = jobs

    @classmethod
    async def open(cls, store: Store) -> SchedulerStore:
        """Open the collections and begin a new epoch: whoever led before is refused from now on."""
        instances = await store.collection(INSTANCES)
        framework = await store.collection(FRAMEWORK)
        nodes, agents = await store.collection(NODES), await store.collection(AGENTS)
        jobs, runs = await store.collection(JOBS), await store.collection(RUNS)
        requests = await store.collection(REQUESTS)
        fence = Fence("scheduler", await store.raise_epoch("scheduler"))
        of_jobs = JobStore(jobs, runs, requests, fence)
        return cls(instances, framework, nodes, agents, of_jobs, fence)

    @property
    def outboxes(self) -> Sequence[Collection]:
        """Where events may wait."""
        return (self.instances, self.nodes.collection, self.jobs.jobs, self.jobs.requests)

    async def recall(self, memory: Memory, clock: Clock) -> int:
        """Have in memory all instances that have not ended, and all jobs; how many had to be read.

        Exactly those: this leader's epoch keeps everybody else from writing, and began before.
        """
        return await memory.refresh(self.instances, self.jobs.jobs, clock)

    async def ended(self, limit: int) -> dict[InstanceId, int]:
        """The instances that ended last, oldest first, with their versions: their tasks may still turn up."""
        query = Query((eq("ended", True),), order="since", descending=True, limit=limit)
        page = await self.instances.versions(query)
        return {InstanceId(each): version for each, version in reversed(page.of.items())}

    async def ended_among(self, instances: Sequence[InstanceId]) -> dict[InstanceId, int]:
        """Those of the instances that are stored as ended, with their versions; of runs, a record will do."""
        found = await self.instances.get_many(instances)
        ended = {InstanceId(doc.id): doc.version for doc in found.values() if doc.body["ended"]}
        records = await self.jobs.records([each for each in instances if each not in found])
        return {**ended, **dict.fromkeys(map(InstanceId, records), 0)}

    async def get(self, instance: str) -> Instance | None:
        """One instance, ended or not."""
        doc = await self._reading.get(instance)
        return from_body(doc.id, doc.version, doc.body) if doc else None

    async def get_many(self, instances: Sequence[str]) -> dict[str, Instance]:
        """Those of the instances that are stored, ended or not."""
        found = await self.instances.get_many(instances)
        return {doc.id: from_body(doc.id, doc.version, doc.body) for doc in found.values()}

    async def save(self, draft: Draft, now: float) -> Saved:
        """Save all changes of a draft with their events: roles of agents, instances, then what jobs make of these.

        May be repeated after Unavailable: what is already there is recognised. Raises Fenced when
        somebody else has written, which only a newer leader does.
        """
        await self.agents.save(draft.roles, now)
        writes = [_write(each, draft, now) for each in draft.changed.values()]
        await replace_all(self.instances, writes, self._fence)
        told = await self.jobs.save(draft.jobs, now)
        return Saved(
            {InstanceId(write.id): write.version + 1 for write in writes},
            {write.id: write.events for write in writes if write.events},
            told,
        )

    async def book(self, jobs: Sequence[Job], live: Sequence[Instance]) -> JobBook:
        """The jobs, with what who led before could not save of them any more."""
        over = [
            from_body(doc.id, doc.version, doc.body)
            async for doc in documents(self.instances, (is_in("over", (SEEN, LOST)),), _PAGE)
        ]
        records = await self.jobs.records([each.id for each in over])
        newest = await self.jobs.newest()
        return book_of(jobs, live, over, {**newest, **records})

    async def framework(self) -> Framework:
        """The framework document, or an empty one."""
        doc = await self._framework.get(_FRAMEWORK_DOC)
        if doc is None:
            return Framework()
        return Framework(doc.body["id"], doc.body["executor_command"], doc.version)

    async def save_framework(self, framework: Framework) -> Framework:
        """Save it; returns it with its new version. Raises Fenced."""
        body: dict[str, Any] = {
            "id": framework.id,
            "executor_command": framework.executor_command,
        }
        write = Write(_FRAMEWORK_DOC, framework.version, body)
        (result,) = await self._framework.replace_many([write], self._fence)
        stored = None if result.ok else await self._framework.get(_FRAMEWORK_DOC)
        if not result.ok and not is_same(write, stored):
            raise Fenced("the framework document was written by somebody else")
        return Framework(framework.id, framework.executor_command, framework.version + 1)

    async def forget_runs(self, before: float, limit: int = 500) -> int:
        """Delete instances of runs that were seen to end before that time; how many. Their records stay."""
        query = Query((eq("over", SEEN),), order="since", limit=limit)
        page = await self.instances.find(query)
        old = [doc for doc in page.docs if doc.body["since"] < before]
        return await delete_all(self.instances, old, self._fence)

    async def forget_ended(self, before: float, limit: int = 500) -> int:
        """Delete instances that ended before that time; returns how many."""
        page = await self.instances.find(Query((eq("ended", True),), order="since", limit=limit))
        old = [doc for doc in page.docs if doc.body["since"] < before]
        return await delete_all(self.instances, old, self._fence)


def _write(instance: Instance, draft: Draft, now: float) -> Write:
    events = draft.events.get(instance.id)
    if not events:
        return Write(instance.id, instance.version, to_body(instance))
    cause = Cause(instance.correlation, "", instance.traceparent, instance.direct_until)
    told = [each for each in events if not isinstance(each, AuditRecorded)]
    sealer = partial(seal, source="scheduler", sequence=instance.version + 1, now=now, cause=cause)
    sealed = sealer(told)
    if len(told) < len(events):
        audits = [each for each in events if isinstance(each, AuditRecorded)]
        # All audits speak about one subject, their actor: the instance keeps their ids apart.
        sealed += sealer(audits, aggregate=instance.id)
    return Write(instance.id, instance.version, to_body(instance), sealed)
