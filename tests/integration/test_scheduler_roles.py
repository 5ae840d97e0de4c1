"""Hosts reserved for two roles on minimesos: a deploy fills both, and a new leader goes on in each one's role."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from libs.common.bus.base import TopicSpec
from libs.common.events import model as ev
from libs.common.runtime import CommonConfig, Runtime, open_runtime, open_shared
from services.scheduler.service import run
from services.scheduler.settings import SchedulerConfig
from tests.contract.mesos.cluster import Mesos, minimesos
from tests.integration.test_scheduler_driver import APP, SPEC, _publish, _states, _status, _until

THIN, FAT = "gantry", "gantry-fat"
EACH = 4
"""So many instances there is room for in each role."""


def _agent(role: str) -> dict[str, str]:
    """All is reserved for the role, but for what the executor needs."""
    reserved = f"cpus({role}):{EACH * SPEC.resources.cpus};mem({role}):2048"
    rest = "cpus:0.05;mem:40;disk:10000"
    return {"virtual": "true", "resources": f"{rest};{reserved}", "attributes": "class:thin"}


class Leader:
    """One scheduler after the other on one store and bus."""

    def __init__(self, directory: Path, mesos: Mesos) -> None:
        self.mesos = mesos
        self._common = CommonConfig(
            data_dir=directory / "data",
            bus=f"sqlite://{directory}/bus.db",
            store=f"sqlite://{directory}/store.db",
            log_level="error",
        )
        self._sequence = 0

    @asynccontextmanager
    async def leads(self, *roles: str) -> AsyncIterator[Runtime]:
        """Subscribed in these roles. Its end is no end of its tasks."""
        config = SchedulerConfig(
            masters=(self.mesos.master_url,), roles=roles, executor_command="true", tick_s=0.1
        )
        async with open_shared(self._common, {"scheduler": config}) as self._shared:
            topics = (ev.InstanceRequested.TOPIC, ev.InstanceStopRequested.TOPIC)
            await self._shared.bus.ensure_topics([TopicSpec(each) for each in topics])
            async with (
                open_runtime(self._shared, "scheduler") as rt,
                asyncio.TaskGroup() as group,
            ):
                service = group.create_task(run(rt))
                try:

                    async def subscribed() -> bool:
                        return bool((await _status(rt))["subscribed"])

                    await _until(subscribed)
                    yield rt
                finally:
                    service.cancel()

    async def ask(self, wanted: Sequence[str] = (), unwanted: Sequence[str] = ()) -> None:
        """As the deployer."""
        self._sequence += 1
        events = [
            *(
                ev.InstanceRequested(instance=each, app=APP, release=1, deployment="d1", spec=SPEC)
                for each in wanted
            ),
            *(ev.InstanceStopRequested(instance=e, app=APP, reason="enough") for e in unwanted),
        ]
        await _publish(self._shared, events, self._sequence)

    async def tasks(self) -> tuple[dict[str, str], list[str]]:
        """Instances whose tasks run, each with the role that pays; and the states of tasks that ended."""
        _, state = await self.mesos.get("master", "/state")
        (framework,) = state["frameworks"]
        runs = {t["name"]: t["role"] for t in framework["tasks"] if t["state"] == "TASK_RUNNING"}
        return runs, [each["state"] for each in framework["completed_tasks"]]


async def _run_on(rt: Runtime, names: Sequence[str]) -> None:
    async def holds() -> bool:
        return await _states(rt) == dict.fromkeys(names, "running")

    await _until(holds)


async def test_two_roles_are_one_cluster_whoever_leads(tmp_path: Path) -> None:
    names = [f"acme-web-{n}" for n in range(2 * EACH)]
    flags = {"registry": "replicated_log"}
    thin, fat = _agent(THIN), _agent(FAT)
    async with minimesos(
        tmp_path, master_flags=flags, agent_flags=thin, second_agent_flags=fat, agents=2
    ) as mesos:
        made = Leader(tmp_path, mesos)
        async with made.leads(THIN, FAT) as rt:
            await made.ask(wanted=names)
            await _run_on(rt, names)
            runs, _ = await made.tasks()
            assert Counter(runs.values()) == {THIN: EACH, FAT: EACH}
            in_fat = [name for name, role in runs.items() if role == FAT]
            await made.ask(unwanted=in_fat)  # all: its executor is left alone
            await _run_on(rt, [each for each in names if each not in in_fat])
        async with made.leads(FAT, THIN) as rt:
            more = [f"{each}-again" for each in in_fat]
            await made.ask(wanted=more)
            kept = [each for each in names if each not in in_fat]
            await _run_on(rt, kept + more)
            runs, ended = await made.tasks()
            assert {runs[each] for each in more} == {FAT} and {runs[each] for each in kept} == {
                THIN
            }
            assert set(ended) == {"TASK_KILLED"}, "a launch was refused"
        async with made.leads(THIN) as rt:  # the other one is taken away
            await _run_on(rt, kept + more)
            await made.ask(wanted=["late"], unwanted=more[:1])

            async def waits() -> bool:
                return await _states(rt) == {
                    **dict.fromkeys(kept + more[1:], "running"),
                    "late": "pending",
                }

            await _until(waits)
            await made.ask(unwanted=kept[:1])
            await _run_on(rt, [*kept[1:], *more[1:], "late"])
            runs, ended = await made.tasks()
            assert runs["late"] == THIN and set(ended) == {"TASK_KILLED"}
