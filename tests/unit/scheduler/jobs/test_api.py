"""What readers are told of runs, whatever is being saved just then."""

from __future__ import annotations

from libs.common.store.base import Fence, Write
from libs.common.store.memory import MemoryStore
from services.scheduler.jobs.api import Reader
from services.scheduler.jobs.model import record_body
from services.scheduler.model import InstanceId
from services.scheduler.store import SchedulerStore
from services.scheduler.writing import replace_all
from tests.unit.scheduler.jobs.world import JobDesk


async def test_a_run_that_is_over_is_told_once_though_memory_has_it_under_way() -> None:
    """Its record is saved before memory follows; and it may end while the records are read."""
    desk = JobDesk()
    desk.subscribe()
    desk.took(concurrency="allow")
    (first,) = desk.at(0.0)
    desk.begin(first)
    (second,) = desk.at(60.0)
    job, instance = desk.job(), desk[first]
    desk.end(first)
    desk.cluster.instances[InstanceId(first)] = instance
    store = (await SchedulerStore.open(MemoryStore())).jobs
    written = [Write(first, 0, record_body(desk.records[first]))]
    await replace_all(store.runs, written, Fence("scheduler", 1))
    reader = Reader(desk.cluster, store)
    told = [(second, "pending"), (first, "succeeded")]
    for limit, before, runs in (
        (50, "", told),
        (3, "", told),
        (1, "", told[:1]),
        (2, second, told[1:]),
    ):
        found = await reader.runs(job, limit, before)
        assert [(each["run"], each["state"]) for each in found] == runs
