"""A scheduler of today and one of the next release lead one after the other, with instances and jobs under way: as an
upgrade has it, back again, and on for good. Nothing is lost, ended or doubled, and what the next release saved stays.

The next release is `tests/versions/next.py`; who pins images is played.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from libs.common.errors import NotFound, Unavailable
from libs.common.events import model as ev
from libs.common.events import seal, to_record
from libs.common.http import call_json
from libs.common.jobs import JobSpec
from libs.common.keys import open_secret
from libs.common.proofs import ServiceProofs
from libs.common.runtime import open_store
from libs.common.store.base import Store
from libs.common.store.bodies import SCHEMA
from tests.contract.bus.worlds import kafka_world_url
from tests.contract.mesos.cluster import minimesos
from tests.contract.store.worlds import mongo_database
from tests.integration.scheduler_processes import SPEC, VIRTUAL, Schedulers, schedulers, until
from tests.integration.test_two_versions import topic
from tests.pins import pins
from tests.versions.next import LATER

FEW, MANY, MORE = 50, 250, 260
COLLECTIONS = ("scheduler_instances", "scheduler_jobs", "scheduler_runs")
LONG, SHORT = "acme/long", "acme/short"
COMMANDS = {LONG: ("serve",), SHORT: ("sh", "-c", "exec sleep 0")}


async def _ask(made: Schedulers, job: str, action: Any, request: str, **more: Any) -> None:
    """As the gateway does for a person."""
    asked = ev.JobRequested(job=job, action=action, actor="ann", request=request, **more)
    proofs = ServiceProofs(open_secret(made.directory / "cluster.secret"))
    sealed = seal([asked], source="gateway", sequence=1, now=made.shared.clock.now())
    await made.shared.bus.publish([proofs.sign(to_record(each)) for each in sealed])


async def _job(made: Schedulers, job: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = await call_json(made.peers, "scheduler", "GET", f"/v1/jobs/{job}")
    return found


async def _runs(made: Schedulers, job: str, states: list[str]) -> list[str]:
    """Wait until its runs are so, newest first; returns their names."""
    runs: list[Mapping[str, Any]] = []

    async def holds() -> bool:
        nonlocal runs
        path = f"/v1/jobs/{job}/runs"
        try:
            runs = (await call_json(made.peers, "scheduler", "GET", path))["runs"]
        except (NotFound, Unavailable):  # the request is on its way
            return False
        return [each["state"] for each in runs] == states

    await until(holds, 90)
    return [each["run"] for each in runs]


async def _stamps(store: Store) -> dict[str, Any]:
    """Of every document that the next release has written: its stamp, and its run's."""
    found: dict[str, Any] = {}
    for name in COLLECTIONS:
        for doc in await store.archive().page(name, "", 2000):
            if SCHEMA in doc.body:
                assert doc.body[SCHEMA] == {"version": 2, "readable": 1}
                found[f"{name}/{doc.id}"] = doc.body["stamp"], doc.body.get("run", {}).get("stamp")
    return found


async def _take_over(made: Schedulers, old: int, *, newer: bool) -> None:
    """The leader is stopped in good order, and the other one leads."""
    made.signal(old, signal.SIGTERM)
    assert await made.running[old].wait() == 0, made.log_of(old).read_text()
    await made.subscribed()
    assert ("since_next" in await made.told()) is newer


async def _same(
    made: Schedulers, framework: str, names: list[str], before: Mapping[str, str]
) -> dict[str, str]:
    """All of them run, each once, under the framework that there was, and what ran `before` in the attempt that it had.

    Returns instances' attempts: what was saved and not launched any more has had a second one.
    """
    await made.running_states(len(names) + 1)
    assert (await made.told())["framework"] == framework
    known = {name: each["attempt"] for name, each in (await made.instances()).items()}
    assert set(names) <= known.keys() and before.items() <= known.items()
    runs, ended = await made.tasks()
    assert sorted(runs) == sorted(known.values())
    assert {each.partition("-")[0] for each in ended} <= {"short"}, "a task was killed, or lost"
    return known


@pytest.mark.timeout(420)
async def test_leaders_of_two_releases_follow_each_other_with_all_under_way(
    kafka_url: str, mongo_url: str, tmp_path: Path
) -> None:
    urls = kafka_world_url(kafka_url), mongo_database(mongo_url)
    flags = {"registry": "replicated_log"}
    async with (
        minimesos(tmp_path, master_flags=flags, agent_flags=VIRTUAL, agents=2) as mesos,
        pins() as deployer,
        schedulers(tmp_path, mesos, *urls) as made,
    ):
        made.settings = {
            **made.settings,
            "GANTRY_COMMON__PEERS": orjson.dumps({"deployer": deployer}).decode(),
            # Documents of runs that are over stay for the length of the test.
            "GANTRY_SCHEDULER__JOBS": orjson.dumps({"keep_instances_s": 86_400}).decode(),
        }
        store = await open_store(urls[1])
        await made.start(0)
        await made.subscribed()
        framework = (await made.told())["framework"]
        for job, command in COMMANDS.items():
            spec = JobSpec(
                image=SPEC.image, network="blue", resources=SPEC.resources, command=command
            ).model_dump(mode="json", by_alias=True)
            await _ask(made, job, "put", f"put-{job}", spec=spec)
            await _ask(made, job, "run", f"run-{job}-1")
        (long,) = await _runs(made, LONG, ["running"])
        await _runs(made, SHORT, ["succeeded"])
        assert await _stamps(store) == {}

        # The upgrade, in the middle of a release.
        attempts = {long: f"{long}.1"}
        names = await made.want(MANY)

        async def begun() -> bool:
            return await made.tasks_launched() >= FEW

        await until(begun, 60)
        await made.stand_by(1, newer=True)
        await _take_over(made, 0, newer=True)
        attempts = await _same(made, framework, names, attempts)
        await _ask(made, SHORT, "run", "run-short-2")
        await _runs(made, SHORT, ["succeeded"] * 2)
        saved = await _stamps(store)
        assert f"scheduler_jobs/{SHORT}" in saved
        assert any(stamp != LATER for stamp, _ in saved.values())

        # It is taken back: code of today goes on with what the next release has saved, and writes over it.
        before = await _job(made, SHORT)
        names = await made.want(MORE)
        await made.stand_by(0, newer=False)
        await _take_over(made, 1, newer=False)
        attempts = await _same(made, framework, names, attempts)
        await _ask(made, SHORT, "run", "run-short-3")
        await _runs(made, SHORT, ["succeeded"] * 3)

        async def counted() -> bool:  # a moment after the run is over
            return bool((await _job(made, SHORT))["counts"]["succeeded"] == 3)

        await until(counted, 60)
        assert (await _job(made, SHORT))["version"] > before["version"]
        kept = await _stamps(store)
        assert {name: kept[name] for name in saved} == saved

        # And on for good: who leads last ends what the first one has begun.
        await made.stand_by(1, newer=True)
        await _take_over(made, 0, newer=True)
        attempts = await _same(made, framework, names, attempts)
        await _ask(made, LONG, "kill", "kill-long", run=long)
        assert await _runs(made, LONG, ["killed"]) == [long]
        await made.running_states(len(names))
        kept = await _stamps(store)
        assert {name: kept[name] for name in saved} == saved
        for group in ("scheduler", "scheduler-asks"):
            assert await topic(made.shared.bus, f"dead.{group}") == []
        await store.close()
