"""A job's life on a real cluster: run when asked to and by its schedule, tried again, cut off, paused, removed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import aclosing
from ipaddress import IPv4Address
from typing import Any

import aiohttp
import pytest
import yaml

from infra.local.layout import DEFAULT_VLANS
from infra.local.processes import run
from libs.client.jobs import ENDED, JobView, RunView
from libs.common.errors import NotFound
from libs.common.jobs import JobSpec
from tests.e2e.conftest import Cloud

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(400)]
SOON_S = 60.0
LATE_S = 30.0  # of a run, on a machine that does much else
EVERY_S = 3  # so that runs one after the other keep up
VLAN = DEFAULT_VLANS[0]
ADDRESS = "ip -4 -o addr show scope global"


def spec(cloud: Cloud, script: str, **fields: Any) -> dict[str, Any]:
    """A job's, whose command is this text for the shell."""
    return {
        "image": cloud.story.images["sample-web:v1"].reference,
        "network": VLAN.name,
        "command": ["/bin/sh", "-c", script],
        "resources": {"cpus": 0.05, "mem_mib": 32},
        "retry": {"limit": 0},
        **fields,
    }


async def put(cloud: Cloud, job: str, script: str, **fields: Any) -> None:
    """Make it."""
    made = await cloud.client.jobs.put(job, JobSpec.model_validate(spec(cloud, script, **fields)))
    assert isinstance(made, JobView), made


async def runs(cloud: Cloud, job: str, enough: Callable[[list[RunView]], bool]) -> list[RunView]:
    """The job's runs that have ended, oldest first, once there are enough."""
    deadline = time.monotonic() + SOON_S
    while True:
        found = (await cloud.client.jobs.runs(job)).runs
        ended = [each for each in reversed(found) if each.state in ENDED]
        if enough(ended):
            return ended
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.2)


async def shared_containers(cloud: Cloud) -> list[str]:
    """Names of those that runs share."""
    (socket,) = cloud.stack.engine_sockets()
    labels = (f"label=gantry.cluster={cloud.stack.layout.cluster}", "label=gantry.pool")
    filters = [word for label in labels for word in ("--filter", label)]
    out = await run("docker", "-H", f"unix://{socket}", "ps", *filters, "--format", "{{.Names}}")
    return out.split()


async def test_a_job_s_life(cloud: Cloud) -> None:
    jobs, story = cloud.client.jobs, cloud.story
    file = cloud.stack.layout.root / "hello.yaml"
    hello = {"job": "acme/hello", **spec(cloud, f"echo hello; {ADDRESS}; exit 3")}
    file.write_text(yaml.safe_dump({**hello, "success_codes": [3]}))
    await story.gantry("job", "validate", str(file))
    await story.gantry("job", "put", str(file))
    await story.gantry("job", "run", "acme/hello", "--wait")
    (said,) = await runs(cloud, "acme/hello", lambda ended: len(ended) == 1)
    assert (said.state, said.exit_code, said.cause, said.tries) == ("succeeded", 3, "manual", 1)
    assert said.output.startswith("hello\n")
    assert address(said) in VLAN.cidr

    # Whenever the scheduler looks, every target has its run.
    often: dict[str, Any] = {
        "schedule": f"*/{EVERY_S} * * * * *",
        "concurrency": "queue",
        "queue_limit": 1000,
        "catch_up": {"policy": "all", "limit": 1000},
    }
    await put(cloud, "acme/tick", ADDRESS, **often)
    await put(cloud, "acme/tock", "true", **often)
    await put(cloud, "acme/fails", "echo no; exit 7", retry={"limit": 1, "delay_s": 0.5})
    await put(cloud, "acme/slow", "echo begun; exec sleep 600", timeout_s=5, stop_grace_s=1)
    for name in ("fails", "slow"):
        await jobs.run(f"acme/{name}")

    # What one writes is seen while it is under way, which is until it is killed.
    talking = "trap 'echo over; exit' TERM; sleep 600 & echo begun; wait"
    await put(cloud, "acme/talks", talking)
    talks = await jobs.run("acme/talks")
    assert isinstance(talks, RunView)
    async with asyncio.timeout(SOON_S):
        while (await jobs.one_run(talks.run)).state != "running":
            await asyncio.sleep(0.1)
        async with aclosing(jobs.output("acme/talks", talks.run, follow=True)) as lines:
            first = await anext(lines)
            assert (first["line"], (await jobs.one_run(talks.run)).state) == ("begun", "running")
            await jobs.kill_run(talks.run)
            assert [each["line"] async for each in lines] == ["over"]
    await story.gantry("job", "logs", "-f", "acme/talks")

    # Every three seconds, each target once, none before its time, all in the container of the first.
    ticks = await runs(cloud, "acme/tick", lambda ended: len(ended) >= 3)
    assert {each.state for each in ticks} == {"succeeded"}
    targets = [each.target for each in ticks]
    assert targets == [targets[0] + EVERY_S * n for n in range(len(ticks))]
    assert all(0 <= (each.started or 0.0) - each.target < LATE_S for each in ticks), ticks
    assert {address(each) for each in ticks} == {address(said)}
    assert len(await shared_containers(cloud)) == 1

    (failed,) = await runs(cloud, "acme/fails", lambda ended: len(ended) == 1)
    assert (failed.state, failed.exit_code, failed.tries) == ("failed", 7, 2)
    assert failed.output == "no\n"
    (cut,) = await runs(cloud, "acme/slow", lambda ended: len(ended) == 1)
    assert (cut.state, cut.reason, cut.output) == ("failed", "it took longer than 5 s", "begun\n")

    # The same by command line and console, of the scheduler's own words.
    rows = (await cloud.gantry("job", "history", "acme/fails")).splitlines()
    assert len(rows) == 2 and failed.run in rows[1] and "failed" in rows[1], rows
    assert '"limit": 1' in await cloud.gantry("job", "show", "acme/fails", "-o", "json")
    stats = json.loads(await cloud.gantry("job", "stats", "acme/tick", "-o", "json"))
    assert (
        stats["succeeded"] >= 3 and 0 < stats["duration"]["min"] <= stats["duration"]["median"]
    ), stats
    page = await cloud.page("/jobs/acme/fails")
    assert failed.run in page and "1 failed" in page, page
    await cloud.gantry("job", "pause", "acme/tick")
    async with asyncio.timeout(SOON_S):
        while (await jobs.job("acme/tick")).state != "paused":
            await asyncio.sleep(0.1)
    before = (await jobs.runs("acme/tick", limit=1)).runs[0].target
    newest = (await jobs.runs("acme/tock", limit=1)).runs[0].target
    later = newest + 2 * EVERY_S
    await runs(cloud, "acme/tock", lambda ended: bool(ended) and ended[-1].target >= later)
    assert (await jobs.job("acme/tick")).next is None
    assert (await jobs.runs("acme/tick", limit=1)).runs[0].target == before
    states = (await cloud.gantry("job", "ls", "--state", "paused")).splitlines()
    assert [row.split()[0] for row in states[1:]] == ["acme/tick"], states
    await cloud.gantry("job", "resume", "acme/tick")
    await runs(cloud, "acme/tick", lambda ended: bool(ended) and ended[-1].target >= later)

    names = [each.job for each in (await jobs.jobs("acme")).jobs]
    assert set(names) == {
        f"acme/{name}" for name in ("hello", "tick", "tock", "fails", "slow", "talks")
    }
    await story.gantry("job", "rm", names.pop())
    await asyncio.gather(*map(jobs.remove, names))
    async with asyncio.timeout(SOON_S):
        while (await jobs.jobs("acme")).jobs:
            await asyncio.sleep(0.1)
    with pytest.raises(NotFound):
        await jobs.runs("acme/tick")


def address(run: RunView) -> IPv4Address:
    """The one that it told of itself: `… inet 10.110.0.9/22 …`."""
    words = run.output.split()
    return IPv4Address(words[words.index("inet") + 1].partition("/")[0])


@pytest.mark.parametrize(("root", "version"), [("/scheduler", 2), ("/v1/scheduler", 3)])
async def test_a_client_of_chronos(cloud: Cloud, root: str, version: int) -> None:
    """What it puts runs when it asks for that, and its statistics say so."""
    name = f"Old_report.{version}"
    job = {
        "name": name,
        "schedule": "R0/2030-01-01T00:00:00Z/PT1H",
        "command": "echo from $CHRONOS_JOB_NAME",
        "epsilon": "PT30M",
        "owner": "ops@acme.example",
        "cpus": 0.05,
        "mem": 32,
    }
    headers = {"Authorization": aiohttp.encode_basic_auth("acme", cloud.stack.admin_key())}
    timeout = aiohttp.ClientTimeout(total=SOON_S)
    url = cloud.stack.layout.url
    async with aiohttp.ClientSession(url, headers=headers, timeout=timeout) as client:
        async with client.post(f"{root}/iso8601", json=job) as answer:
            assert answer.status == 204, await answer.text()
        async with client.put(f"{root}/job/{name}") as answer:
            assert answer.status == 204, await answer.text()
        async with asyncio.timeout(SOON_S):
            succeeded = 0
            while not succeeded:
                await asyncio.sleep(0.2)
                async with client.get(f"{root}/jobs") as answer:
                    (told,) = [each for each in await answer.json() if each["name"] == name]
                    succeeded = told["successCount"]
        async with client.get(f"{root}/job/stat/{name}") as answer:
            assert answer.status == 200 and (await answer.json())["histogram"]["count"] == 1
        (ours,) = [each.job for each in (await cloud.client.jobs.jobs("acme")).jobs]
        (ended,) = await runs(cloud, ours, lambda ended: len(ended) == 1)
        assert ended.output == f"from {name}\n"
        async with client.delete(f"{root}/job/{name}") as answer:
            assert answer.status == 204, await answer.text()
        async with client.get(f"{root}/job/{name}") as answer:
            assert answer.status in (400, 404)
