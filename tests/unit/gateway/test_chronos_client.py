"""A client library of Chronos' that is not ours (chronos-python), over HTTP, on the real gateway and scheduler.

It sends no credentials before it is challenged, quotes paths in its own way, and decodes what it gets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import chronos
import pytest

from libs.common.serve import serve
from tests.unit.gateway.test_chronos_scheduler import Cluster, cluster

__all__ = ["cluster"]
JOB: dict[str, Any] = {
    "name": "DB_export.1",
    "command": "date",
    "owner": "öps@acme.test",
    "disabled": False,
    "async": False,
    "schedule": "R/2100-01-01T00:00:00Z/PT1H",
}
VERSIONS = pytest.mark.parametrize("version", ["v1", None])
"""As the library names them: 3.x, and what was before."""


@dataclass
class Client:
    """The library, each call in a thread: it blocks."""

    cluster: Cluster
    address: str

    def of(self, version: str | None, password: str = "", user: str = "acme") -> Any:
        """One of its clients."""
        key = password or self.cluster.chronos.key
        return chronos.connect(
            self.address, username=user, password=key, scheduler_api_version=version
        )

    async def call(self, what: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """What it makes of the answer."""
        return await asyncio.to_thread(what, *args, **named)


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with serve(cluster.chronos.world.app, "127.0.0.1:0") as url:
        yield Client(cluster, url.removeprefix("http://"))


@VERSIONS
async def test_a_job_is_put_listed_changed_run_and_deleted(
    client: Client, version: str | None
) -> None:
    of = client.of(version)
    name = "DB_export.1" if version else "DB export #1"
    job = {**JOB, "name": name}
    assert await client.call(of.add, job) is None
    child = {k: v for k, v in job.items() if k != "schedule"}
    child |= {"name": "child", "command": "after", "parents": [name]}
    assert await client.call(of.add, child) is None
    listed = await client.call(of.list)
    assert [each["name"] for each in listed] == [name, "child"]
    assert listed[0]["owner"] == JOB["owner"] and listed[1]["parents"] == [name]
    assert await client.call(of.update, {**listed[0], "command": "date -u"}) is None
    (found,) = await client.call(of.search, name="export", command="date -U")
    assert (found["name"], found["command"]) == (name, "date -u")
    assert await client.call(of.run, name) is None
    await client.cluster.ran("date -u", "after")
    path = "/v1/scheduler" if version else "/scheduler"
    await client.cluster.job(f"{path}/job/child", successCount=1)
    stat = await client.call(of.job_stat, name)
    assert stat["histogram"]["count"] == 1 and stat["taskStatHistory"][0]["jobName"] == name
    graph = await client.call(of.scheduler_graph)
    assert f"link,{name},child\n" in graph
    assert await client.call(of.delete_tasks, name) is None
    assert await client.call(of.delete, "child") is None
    assert await client.call(of.delete, name) is None
    assert await client.call(of.list) == []


@VERSIONS
async def test_figures(client: Client, version: str | None) -> None:
    of = client.of(version)
    assert await client.call(of.add, {**JOB, "schedule": "R1//PT1H"}) is None
    await client.cluster.ran("date")
    path = "/v1/scheduler" if version else "/scheduler"
    await client.cluster.job(f"{path}/job/{JOB['name']}", successCount=1)
    for figure in ("99th", "98th", "95th", "75th", "median", "mean"):
        (one,) = await client.call(getattr(of, f"scheduler_stat_{figure}"))
        assert (one["jobNameLabel"], one["time"]) == (JOB["name"], 2.5)
    metrics = await client.call(of.metrics)
    assert metrics["counters"][f"jobs.run.success.{JOB['name']}"] == {"count": 1}


@VERSIONS
async def test_what_is_wrong_is_an_error_of_its(client: Client, version: str | None) -> None:
    of = client.of(version)
    for wrong in ({**JOB, "schedule": "* * * * *"}, {**JOB, "schedule": ""}):
        with pytest.raises(chronos.ChronosAPIError):
            await client.call(of.add, wrong)
    with pytest.raises(chronos.ChronosAPIError):
        await client.call(of.delete, "nobody")
    for stranger in (client.of(version, "wrong"), client.of(version, "gk_x.y", "other")):
        # It has a name for this, and then says of any refusal that there is no server left to try.
        with pytest.raises(chronos.ChronosAPIError):
            await client.call(stranger.list)
        with pytest.raises(chronos.ChronosAPIError):
            await client.call(stranger.add, JOB)
    assert await client.call(of.list) == []
