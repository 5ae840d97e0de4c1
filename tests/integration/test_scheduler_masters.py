"""The scheduler's process goes on when Mesos' leading master changes, and when an operator removes its framework."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from libs.common.errors import Conflict
from libs.common.http import call_json
from tests.contract.mesos.cluster import Mesos, minimesos
from tests.integration.scheduler_processes import VIRTUAL, Schedulers, schedulers, until

COUNT = 20
REMOVED = "Mesos: Framework has been removed"


@asynccontextmanager
async def _running(
    directory: Path, *, standby: bool = False
) -> AsyncIterator[tuple[Schedulers, Mesos]]:
    """One scheduler, and an app that runs."""
    flags = {"registry": "replicated_log"}
    urls = (f"sqlite://{directory / 'bus.db'}", f"sqlite://{directory / 'store.db'}")
    async with minimesos(
        directory, master_flags=flags, agent_flags=VIRTUAL, standby=standby
    ) as mesos:
        masters = [mesos.standby_url] if standby else []  # it finds the leader by the other
        async with schedulers(directory, mesos, *urls, masters=masters) as made:
            await made.start(0)
            await made.subscribed()
            await made.want(COUNT)
            await made.running_states(COUNT)
            yield made, mesos


async def test_the_standby_master_takes_over(tmp_path: Path) -> None:
    async with _running(tmp_path, standby=True) as (made, mesos):
        before, known = await made.told(), await made.tasks()

        async def away() -> bool:
            return (await made.status()).get("subscribed") is False

        assert mesos.master is not None
        await mesos.master.kill()
        await until(away, 60)  # nobody leads yet, so no look can come too late
        await mesos.fail_over()
        await made.subscribed()
        await mesos.await_agents(1)
        await made.running_states(COUNT)
        assert (await made.told())["framework"] == before["framework"]
        assert [sorted(each) for each in await made.tasks()] == [sorted(each) for each in known]
        assert made.running[0].returncode is None
        await made.want(COUNT + 5)
        await made.running_states(COUNT + 5)


async def _removed(made: Schedulers) -> bool:
    return bool((await made.status()).get("framework_removed"))


async def test_an_operator_removes_the_framework(tmp_path: Path) -> None:
    """An alarm, nothing lost, no loop; and the way back."""
    async with _running(tmp_path) as (made, mesos):
        framework = (await made.told())["framework"]
        kept = {name: each["attempt"] for name, each in (await made.instances()).items()}
        ask = made.peers
        with pytest.raises(Conflict, match="has not removed"):
            await call_json(ask, "scheduler", "POST", "/v1/framework/reregister")
        async with aiohttp.ClientSession() as session:
            url, body = f"{mesos.master_url}/master/teardown", f"frameworkId={framework}"
            async with session.post(url, data=body) as answer:
                assert answer.status == 200
        await until(lambda: _removed(made), 60)
        made.signal(0, signal.SIGKILL)  # whoever starts after it finds the same
        await made.running[0].wait()
        await made.start(0)
        await until(lambda: _removed(made), 60)
        status = await made.told()
        assert (status["alarm"], status["subscribed"]) == (REMOVED, False)
        assert {name: each["attempt"] for name, each in (await made.instances()).items()} == kept
        refused = made.log_of(0).read_text().count("mesos refuses the framework")
        assert refused == 2, "one a life: it does not try again"
        tasks, _ = await made.tasks()
        assert tasks == []

        anew = await call_json(ask, "scheduler", "POST", "/v1/framework/reregister")
        assert (anew["framework"], anew["framework_removed"]) == ("", False)
        await made.subscribed()
        await made.running_states(COUNT)
        status = await made.told()
        assert status["framework"] not in ("", framework) and status["alarm"] == ""
        attempts = {each["attempt"] for each in (await made.instances()).values()}
        assert attempts == {f"{name}.2" for name in kept}
        tasks, _ = await made.tasks()
        assert set(tasks) == attempts

        async def told() -> bool:
            return all(made.exited[name] == 1 for name in kept)

        await until(told, 60)
