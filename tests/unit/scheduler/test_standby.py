"""A standby's head start: what it leads with is what the store holds, whatever was written between its looks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.clock import Clock, SystemClock
from libs.common.errors import Unavailable
from libs.common.store.base import Collection, Fence, Outcome, Store, Write
from libs.common.store.faults import StoreFaults, StorePoint
from libs.common.store.memory import MemoryStore
from services.scheduler import service, standby
from services.scheduler.cluster import Cluster
from services.scheduler.documents import from_body, to_body
from services.scheduler.jobs.model import Job, job_body
from services.scheduler.jobs.run import JobId
from services.scheduler.model import AgentId, Instance, InstanceId, State
from services.scheduler.service import load, run
from services.scheduler.settings import SchedulerConfig
from services.scheduler.store import INSTANCES, JOBS, Memory, SchedulerStore
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.scheduler.jobs.world import job_spec
from tests.unit.scheduler.test_leading import Driver
from tests.unit.scheduler.world import spec

KEEP_S = 1000.0


def _instance(name: str, state: State = State.RUNNING, agent: str = "a1", cpus: float = 0.5) -> Any:
    app = f"acme/app{int(name[1:]) % 3}"
    of = Instance(InstanceId(name), app, 1, "d", spec(cpus), state=state, generation=1)
    since = 100.0 + int(name[1:]) % 4  # some at the same time
    return replace(of, agent=AgentId(agent), hostname=f"h-{agent}", since=since)


def _body(name: str, state: State, agent: str, cpus: float) -> dict[str, Any]:
    return to_body(_instance(name, state, agent, cpus))


def _job(name: str, look: float) -> dict[str, Any]:
    return job_body(Job(JobId(name), job_spec(), "image@sha256:1", look=look)) | {"bu": "acme"}


async def _put(collection: Collection, name: str, body: Mapping[str, Any]) -> None:
    stored = await collection.get(name)
    version = stored.version if stored is not None else 0
    (result,) = await collection.replace_many([Write(name, version, body)])
    assert result.ok


async def _delete(collection: Collection, name: str) -> None:
    stored = await collection.get(name)
    if stored is not None:
        assert (await collection.delete(name, stored.version)).ok


class Late(SystemClock):
    """A clock that can be moved on."""

    late_s = 0.0

    def monotonic(self) -> float:
        """See Clock."""
        return super().monotonic() + self.late_s


def picture(of: Any) -> Any:
    """All that a cluster is, in its order: who waits longest, or is looked at first, is a matter of that."""
    if isinstance(of, Cluster):
        return [(name, picture(value)) for name, value in vars(of).items() if name != "volatile"]
    if isinstance(of, dict):
        return [(key, picture(value)) for key, value in of.items()]
    if hasattr(of, "__dict__") and type(of).__module__.startswith("services."):
        return [(name, picture(value)) for name, value in vars(of).items()]
    if isinstance(of, np.ndarray):
        return of.tolist()
    return of


# -- whatever is written, and whenever -----------------------------------------------------------------


class Busy(MemoryStore):
    """A store in which others do the next thing of `meanwhile` before each of our calls is answered."""

    def __init__(self, faults: StoreFaults | None = None) -> None:
        super().__init__(faults)
        self.meanwhile: deque[Callable[[], Awaitable[None]]] = deque()

    async def call(self, what: str) -> None:
        """See MemoryStore."""
        if self.meanwhile:
            await self.meanwhile.popleft()()
        await super().call(what)


class Failing(StoreFaults):
    """The call after `left` others is refused."""

    left: int | None = None

    def draw(self, point: StorePoint, what: str) -> float:
        """See StoreFaults."""
        if point is not StorePoint.CALL_FAILS or self.left is None:
            return 0.0
        self.left -= 1
        return float(self.left < 0)


NAMES = st.sampled_from([f"i{n}" for n in range(8)])
JOBS_ = st.sampled_from(["acme/one", "acme/two", "acme/three"])
WRITES = st.one_of(
    st.tuples(
        st.just("put"),
        NAMES,
        st.sampled_from([State.PENDING, State.RUNNING, State.UNREACHABLE, State.ENDED]),
        st.sampled_from(["a1", "a2"]),
        st.sampled_from([0.5, 1.0]),
    ),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("job"), JOBS_, st.sampled_from([10.0, 20.0])),
    st.tuples(st.just("no job"), JOBS_),
    st.just(("time",)),
)
LOOK = st.tuples(
    st.just("look"), st.lists(WRITES, max_size=4), st.one_of(st.none(), st.integers(0, 5))
)


@dataclass
class Others:
    """Who writes: anything, but that the name of a deleted document is not used again so soon."""

    instances: Collection
    jobs: Collection
    clock: Late = field(default_factory=Late)
    gone: dict[str, float] = field(default_factory=dict)

    async def write(self, what: str, name: str = "", *to: Any) -> None:
        """Do one of WRITES."""
        if what == "time":
            self.clock.late_s += KEEP_S / 4
            return
        of = self.instances if what in ("put", "delete") else self.jobs
        if what in ("delete", "no job"):
            self.gone[name] = self.clock.monotonic()
            await _delete(of, name)
        elif self.gone.get(name, float("-inf")) + KEEP_S <= self.clock.monotonic():
            await _put(of, name, _body(name, *to) if what == "put" else _job(name, *to))


async def _warm_and_cold(steps: list[Any], page: int) -> tuple[Any, Any, int]:
    faults = Failing()
    busy, memory = Busy(faults), Memory(KEEP_S)
    ours = await Memory.collections(busy)
    others = Others(*await Memory.collections(busy.share()))
    clock = others.clock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("libs.common.store.mirror.LISTED", page)
        patch.setattr("libs.common.store.mirror.READ", page)
        for what, *rest in steps:
            if what != "look":
                await others.write(what, *rest)
                continue
            writes, faults.left = rest
            busy.meanwhile.extend(partial(others.write, *each) for each in writes)
            try:
                await memory.refresh(*ours, clock)
            except Unavailable:
                assert faults.left is not None
            faults.left = None
            while busy.meanwhile:
                await busy.meanwhile.popleft()()
        store = await SchedulerStore.open(busy)
        warm, read = await load(store, memory, clock)
        cold, all_read = await load(store, Memory(KEEP_S), clock)
        assert read <= all_read and not len(memory.instances) and not len(memory.jobs)
    return picture(warm), picture(cold), read


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(WRITES, WRITES, LOOK), max_size=25), st.sampled_from([1, 2, 3, 1000]))
def test_a_warm_standby_leads_with_what_a_cold_one_would(steps: list[Any], page: int) -> None:
    warm, cold, _ = asyncio.run(_warm_and_cold(steps, page))
    assert warm == cold


def test_what_a_standby_knows_is_not_read_again() -> None:
    first = [("put", f"i{n}", State.RUNNING, "a1", 0.5) for n in range(8)]
    look: Any = ("look", [], None)
    job = ("job", "acme/one", 10.0)
    then: list[Any] = [
        ("put", "i1", State.RUNNING, "a2", 1.0),
        ("delete", "i2"),
        ("job", "acme/two", 20.0),
    ]
    _, _, read = asyncio.run(_warm_and_cold([*first, job, look, *then], 3))
    assert read == 2


def test_a_look_that_was_broken_off_is_gone_on_with() -> None:
    first = [("put", f"i{n}", State.RUNNING, "a1", 0.5) for n in range(8)]
    pages_of_versions, page_of_documents = 3, 1
    broken: Any = ("look", [], pages_of_versions + page_of_documents)
    warm, cold, read = asyncio.run(_warm_and_cold([*first, broken], 3))
    assert read == 8 - 3 and warm == cold


def test_who_was_away_for_as_long_as_documents_are_kept_begins_anew() -> None:
    """Another document of the same name could have come to the same version meanwhile."""

    async def main() -> None:
        clock, memory, store = Late(), Memory(KEEP_S), MemoryStore()
        instances, jobs = await Memory.collections(store)
        await _put(instances, "i1", _body("i1", State.RUNNING, "a1", 0.5))
        assert await memory.refresh(instances, jobs, clock) == 1
        clock.late_s = KEEP_S
        await _delete(instances, "i1")
        await _put(instances, "i1", _body("i1", State.RUNNING, "a2", 0.5))
        assert await memory.refresh(instances, jobs, clock) == 1
        assert [each.agent for each in memory.instances.values()] == ["a2"]

    asyncio.run(main())


# -- a standby that comes to lead ----------------------------------------------------------------------


@virtual
async def test_what_changes_until_the_old_leader_is_fenced_is_known_to_the_new_one(
    world: World,
) -> None:
    """And nothing can change after that: the epoch is claimed before the last look."""
    config = SchedulerConfig(leader_lease_s=6.0)
    small = SmallWorld(world.loop, settings={"scheduler": config})
    other: Store = small.store.share()
    instances, jobs = await other.collection(INSTANCES), await other.collection(JOBS)
    for n in range(5):
        await _put(instances, f"i{n}", _body(f"i{n}", State.RUNNING, "a1", 0.5))
    await _put(jobs, "acme/one", _job("acme/one", 1e12))

    others = Others(instances, jobs)

    async def write(*things: Any) -> None:
        for each in things:
            await others.write(*each)

    opened, led = SchedulerStore.open, asyncio.Event()
    old_fence = Fence("scheduler", await other.raise_epoch("scheduler"))
    kept: list[tuple[Cluster, int]] = []

    async def fencing(store: Store) -> SchedulerStore:
        """The last that the old leader writes, just before it is fenced; the next thing, and it is refused."""
        await write(("put", "i1", State.RUNNING, "a2", 1.0), ("put", "i2", State.ENDED, "a1", 0.5))
        await write(("delete", "i3"), ("put", "i7", State.PENDING, "", 0.5))
        await write(("job", "acme/two", 1e12))
        made = await opened(store)
        late = [Write("i0", 1, _body("i0", State.RUNNING, "a3", 0.5))]
        (result,) = await instances.replace_many(late, old_fence)
        assert result.outcome is Outcome.FENCED
        return made

    async def loading(store: SchedulerStore, memory: Memory, clock: Clock) -> Any:
        found = await load(store, memory, clock)
        # Before it is subscribed and changes anything.
        cold, _ = await load(store, Memory(KEEP_S), clock)
        assert picture(found[0]) == picture(cold)
        kept.append(found)
        led.set()
        return found

    driver = Driver(world.clock)
    assert await other.take_lease("scheduler", "another", world.clock.now(), 60.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SchedulerStore, "open", fencing)
        patch.setattr(service, "load", loading)
        running = asyncio.create_task(run(small.runtime("scheduler", "standby"), driver.open))
        await world.clock.sleep(30.0)
        assert (len(kept), driver.subscribed) == (0, 0)
        await write(("put", "i4", State.RUNNING, "a2", 0.5))  # seen by a later look
        await world.clock.sleep(20.0)
        await other.drop_lease("scheduler", "another")
        await led.wait()
        ((cluster, read),) = kept
        assert {name: each.agent for name, each in cluster.instances.items()} == {
            "i0": "a1",
            "i1": "a2",
            "i4": "a2",
            "i7": "",
        }
        assert list(cluster.ended) == ["i2"] and set(cluster.jobs.jobs) == {"acme/one", "acme/two"}
        assert read == 3, "only what has changed since its last look"
        await world.clock.sleep(5.0)
        assert driver.subscribed == 1
    running.cancel()


@virtual
async def test_a_standby_outlives_the_loss_of_its_store(world: World) -> None:
    small = SmallWorld(world.loop)
    rt = small.runtime("scheduler", "standby")
    instances = await small.store.share().collection(INSTANCES)
    await _put(instances, "i1", _body("i1", State.RUNNING, "a1", 0.5))
    memory, faults = Memory(KEEP_S), Failing()
    faulty = replace(rt, store=small.store.share(faults))
    async with standby.warm(faulty, memory):
        await world.clock.sleep(standby.EVERY_S)
        assert len(memory.instances) == 1
        faults.left = 0
        await _put(instances, "i2", _body("i2", State.RUNNING, "a1", 0.5))
        await world.clock.sleep(20 * standby.EVERY_S)
        assert len(memory.instances) == 1
        faults.left = None
        await world.clock.sleep(standby.LONGEST_S)
        assert len(memory.instances) == 2


@virtual
async def test_a_standby_looks_for_no_more_than_a_twentieth_of_the_time(world: World) -> None:
    small = SmallWorld(world.loop)
    rt, memory, looked = small.runtime("scheduler", "standby"), Memory(KEEP_S), [0.0, 0.0]

    async def slowly(*_: Any) -> int:
        looked[0] += 1
        looked[1] += 2.0
        await world.clock.sleep(2.0)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "refresh", slowly)
        async with standby.warm(rt, memory):
            await world.clock.sleep(399.0)
    assert looked[0] == 10 and looked[1] / 400.0 <= 1 / (standby.PAUSES + 1)


# -- specs ---------------------------------------------------------------------------------------------


def test_instances_of_an_app_share_the_spec_that_their_bodies_have() -> None:
    bodies = [
        _body(f"i{n}", State.RUNNING, "a1", cpus) for n, cpus in ((0, 1.0), (3, 1.0), (6, 2.0))
    ]

    async def main() -> list[Instance]:
        store, memory = MemoryStore(), Memory(KEEP_S)
        instances, jobs = await Memory.collections(store)
        for n, body in enumerate(bodies):
            await _put(instances, f"i{3 * n}", body)
        await memory.refresh(instances, jobs, SystemClock())
        return memory.instances.values()

    one, two, other = asyncio.run(main())
    assert one.spec is two.spec and other.spec.resources.cpus == 2.0
    assert [one, two, other] == [from_body(f"i{3 * n}", 1, each) for n, each in enumerate(bodies)]
