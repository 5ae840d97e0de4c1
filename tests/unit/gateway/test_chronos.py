"""Chronos' API over HTTP, in both versions, with a gateway in memory: what its clients send, and what they get."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from libs.common.http import Response
from services.gateway.chronos.names import our_name
from services.gateway.chronos.telling import moment
from services.gateway.model import ChronosConfig
from tests.fakes.gateway import GENEROUS, World, gateway_world

CHRONOS = ChronosConfig(networks={"acme": "blue"}, image="debian:12")
JOB: dict[str, Any] = {
    "name": "etl",
    "command": "date",
    "owner": "ops@acme.test",
    "disabled": False,
    "schedule": "R/2100-01-01T00:00:00Z/PT1H",
}
V2, V3 = "/scheduler", "/v1/scheduler"
both = pytest.mark.parametrize("at", [V2, V3])


@pytest.fixture
async def chronos(tmp_path: Path) -> AsyncIterator[Chronos]:
    config = GENEROUS.model_copy(update={"chronos": CHRONOS})
    async with gateway_world(tmp_path, config) as world:
        yield Chronos(world)


class Chronos:
    """Asks as Chronos' clients do: HTTP Basic, the business unit as user."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.key, self.user = world.admin_key, "acme"

    async def __call__(
        self, method: str, path: str, content: Any = None, **headers: str
    ) -> Response:
        pair = base64.b64encode(f"{self.user}:{self.key}".encode()).decode()
        sent = {"Authorization": f"Basic {pair}", "Host": "c:4400", **headers}
        body = b"" if content is None else orjson.dumps(content)
        if body:
            sent.setdefault("Content-Type", "application/json")
        return await self.world.app.dispatch(method, path, sent, body)

    async def put(self, at: str, **fields: Any) -> Response:
        path = "dependency" if "parents" in fields else "iso8601"
        job = {k: v for k, v in {**JOB, **fields}.items() if v is not None}
        if "parents" in fields:
            job.pop("schedule", None)
        return await self("POST", f"{at}/{path}", job)

    async def put_all(self, at: str, *names: str) -> None:
        for name in names:
            assert (await self.put(at, name=name)).status == 204

    async def get(self, path: str) -> Any:
        response = await self("GET", path)
        assert response.status == 200, response.body
        return response.json()

    def spec(self, name: str) -> dict[str, Any]:
        return dict(self.world.jobs.jobs[f"acme/{our_name(name)}"]["spec"])


# -- put and get -----------------------------------------------------------------------------------


@both
async def test_a_job_is_put_and_got(chronos: Chronos, at: str) -> None:
    response = await chronos.put(at)
    assert (response.status, response.body) == (204, b"")
    (job,) = await chronos.get(f"{at}/jobs")
    expected = {
        **JOB,
        "shell": True, "executor": "", "executorFlags": "", "taskInfoData": "", "retries": 2, "ownerName": "",
        "description": "", "successCount": 0, "errorCount": 0, "lastSuccess": "", "lastError": "", "cpus": 0.1,
        "disk": 256.0, "mem": 128.0, "softError": False, "dataProcessingJobType": False,
        "errorsSinceLastSuccess": 0, "fetch": [], "uris": [], "environmentVariables": [], "arguments": [],
        "highPriority": False, "runAsUser": "root", "constraints": [], "scheduleTimeZone": "",
        **({"epsilon": "PT60S", "async": False} if at == V2 else {"concurrent": False}),
    }  # fmt: skip
    assert job == expected
    assert await chronos.get(f"{at}/job/etl") == expected
    assert chronos.spec("etl")["schedule"] == JOB["schedule"]


@both
async def test_put_replaces_and_repeats(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl")
    for method, command in (("POST", "date -u"), ("PUT", "date -R")):
        response = await chronos(method, f"{at}/iso8601", {**JOB, "command": command})
        assert response.status == 204
        assert (await chronos.get(f"{at}/job/etl"))["command"] == command
    assert len(chronos.world.jobs.jobs) == 1
    # What was got can be put again as it is, and is the same then.
    job = await chronos.get(f"{at}/job/etl")
    before = chronos.spec("etl")
    assert (await chronos("POST", f"{at}/iso8601", job)).status == 204
    assert chronos.spec("etl") == before


@both
async def test_a_container_comes_back_as_each_version_writes_it(chronos: Chronos, at: str) -> None:
    given = {"type": "DOCKER", "image": "a/b:1", "forcePullImage": True}
    response = await chronos.put(at, container=given)
    assert response.status == 204
    assert "forcePullImage" in response.headers["X-Gantry-Notes"]
    (job,) = await chronos.get(f"{at}/jobs")
    own: dict[str, Any] = {"type": "docker"} if at == V2 else {"networkInfos": []}
    told = {"network": "HOST", "volumes": [], "parameters": []}
    assert job["container"] == {**given, **told, **own}


async def test_jobs_of_our_own_api_are_told_in_both_versions(chronos: Chronos) -> None:
    spec = {"image": "a:1", "network": "blue", "command": ["/run"], "schedule": "@daily"}
    await chronos.world.call("PUT", "/v1/jobs/acme/own", spec)
    (old,), (new,) = await chronos.get(f"{V2}/jobs"), await chronos.get(f"{V3}/jobs")
    assert old["container"]["network"] == "BRIDGE" and "networkName" not in old["container"]
    assert new["container"]["network"] == "USER" and new["container"]["networkName"] == "blue"
    for job in (old, new):
        assert (job["command"], job["shell"], job["schedule"]) == ("/run", False, "@daily")


@both
async def test_no_values_of_variables_get_into_the_audit_trail(chronos: Chronos, at: str) -> None:
    twice = [{"name": "A", "value": "s3cret"}, {"name": "A", "value": "s3cret-2"}]
    container = {"image": "a", "parameters": [{"key": "env", "value": "B=s3cret-3"}]}
    response = await chronos.put(at, environmentVariables=twice, container=container)
    assert response.status == 204
    assert (await chronos.get(f"{at}/job/etl"))["environmentVariables"] == twice

    async def trail() -> str:
        answer = await chronos.world.call("GET", "/v1/audit")
        return answer.body.decode() if "job.put" in answer.body.decode() else ""

    assert "s3cret" not in await chronos.world.eventually(trail)


async def test_names_of_each_version(chronos: Chronos) -> None:
    assert (await chronos.put(V3, name="job with spaces")).status == 400
    await chronos.put_all(V2, "job with spaces", "Job", "job")
    names = [job["name"] for job in await chronos.get(f"{V3}/jobs")]
    assert names == ["Job", "job", "job with spaces"]
    assert (await chronos.get(f"{V3}/job/job%20with%20spaces"))["name"] == "job with spaces"
    # One that is there may be changed by either version.
    assert (await chronos.put(V3, name="job with spaces", command="x")).status == 204
    assert (await chronos("DELETE", f"{V2}/job/job%20with%20spaces")).status == 204
    assert [job["name"] for job in await chronos.get(f"{V2}/jobs")] == ["Job", "job"]


@both
async def test_without_schedule_and_parents_it_runs_once_at_once(chronos: Chronos, at: str) -> None:
    assert (await chronos.put(at, schedule=None)).status == 204
    told = chronos.spec("etl")["schedule"]
    assert re.fullmatch(r"R1/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/PT24H", told)
    job = await chronos.get(f"{at}/job/etl")
    assert job["schedule"] == told
    # What is got goes on; what has no start begins again.
    assert (await chronos("POST", f"{at}/iso8601", job)).status == 204
    assert chronos.spec("etl")["schedule"] == told
    empty = await chronos.put(at, schedule="")
    assert empty.status == 400 and "Cannot parse schedule ''" in message(at, empty)


@both
async def test_a_schedule_of_our_own_api_is_put_again_as_it_is(chronos: Chronos, at: str) -> None:
    spec = {"image": "a:1", "network": "blue", "command": ["/run"]}
    timing = {"schedule": "H 3 * * *", "time_zone": "Europe/Berlin"}
    await chronos.world.call("PUT", "/v1/jobs/acme/own", {**spec, **timing})
    job = await chronos.get(f"{at}/job/own")
    for more, status in (
        ({"command": "/other"}, 204),
        ({"scheduleTimeZone": "PST"}, 400),
        ({"schedule": "* * * * *"}, 400),
    ):
        assert (await chronos("POST", f"{at}/iso8601", {**job, **more})).status == status
    told = chronos.spec("own")
    assert (told["command"], {name: told[name] for name in timing}) == (["/other"], timing)


@both
async def test_what_is_wrong_in_a_job(chronos: Chronos, at: str) -> None:
    for fields, said in (
        ({"schedule": "* * * * *"}, "Cannot parse schedule '* * * * *'"),
        ({"name": "a/b"}, "the job's name is invalid"),
        ({"container": {"image": "a", "volumes": [{"containerPath": "/v"}]}}, "container.volumes"),
        ({"cpus": 10_000}, "cpus"),
        ({"parents": []}, "parent does not exist"),
        ({"parents": ["nobody"]}, "there is no job 'nobody'"),
    ):
        response = await chronos.put(at, **fields)
        assert response.status == 400, fields
        assert said in message(at, response)
    contents: tuple[Any, ...] = ([], "x", {}, 1)
    for content in contents:
        response = await chronos("POST", f"{at}/iso8601", content)
        assert response.status == 400 and message(at, response)
    wrong = await chronos("POST", f"{at}/iso8601", {**JOB, "parents": ["etl"]})
    assert wrong.status == 400 and "dependent" in message(at, wrong)
    for kind in ("text/plain", "application/x-www-form-urlencoded"):  # as a foreign page can send
        for path in ("iso8601", "dependency"):
            response = await chronos("POST", f"{at}/{path}", JOB, **{"Content-Type": kind})
            assert response.status == 415 and "application/json" in message(at, response)
    assert not chronos.world.jobs.jobs


def message(at: str, response: Response) -> str:
    """What an error says, in the form of its version."""
    if at == V2:
        assert response.content_type.startswith("text/plain")
        return response.body.decode()
    assert set(response.json()) == {"status", "message"}
    return str(response.json()["message"])


# -- dependencies ----------------------------------------------------------------------------------


@both
async def test_dependent_jobs(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "Parent.1", "other")
    assert (await chronos.put(at, name="child", parents=["Parent.1", "other"])).status == 204
    child = await chronos.get(f"{at}/job/child")
    assert child["parents"] == ["Parent.1", "other"] and "schedule" not in child
    assert chronos.spec("child")["parents"] == [our_name("Parent.1"), "other"]
    # A schedule in place of parents, and back.
    assert (await chronos.put(at, name="child")).status == 204
    assert "parents" not in await chronos.get(f"{at}/job/child")
    job = {**JOB, "name": "child", "parents": ["other"]}
    assert (await chronos("PUT", f"{at}/dependency", job)).status == 204
    assert (await chronos.get(f"{at}/job/child"))["parents"] == ["other"]


@both
async def test_children_of_a_deleted_job(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "Root", "other")
    for name, parents in (("Mid", ["Root"]), ("leaf", ["Mid"]), ("two", ["Root", "other"])):
        assert (await chronos.put(at, name=name, parents=parents, ownerName="me")).status == 204
    assert (await chronos("DELETE", f"{at}/job/Mid")).status == 204
    assert (await chronos.get(f"{at}/job/leaf"))["parents"] == ["Root"]
    assert (await chronos("DELETE", f"{at}/job/Root", **{"Idempotency-Key": "k1"})).status == 204
    assert (await chronos("DELETE", f"{at}/job/Root", **{"Idempotency-Key": "k1"})).status == 400
    leaf, two = await chronos.get(f"{at}/job/leaf"), await chronos.get(f"{at}/job/two")
    assert leaf["schedule"] == JOB["schedule"] and "parents" not in leaf
    assert leaf["ownerName"] == "me" and two["parents"] == ["other"]
    assert [job["name"] for job in await chronos.get(f"{at}/jobs")] == ["leaf", "other", "two"]


@both
async def test_graphs(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "a b" if at == V2 else "a.b", "c")
    first = "a b" if at == V2 else "a.b"
    assert (await chronos.put(at, name="d", parents=[first, "c"])).status == 204
    run = chronos.world.jobs.begin("acme/c")
    csv = await chronos("GET", f"{at}/graph/csv")
    assert csv.content_type.startswith("text/plain")
    assert csv.body.decode().splitlines() == [
        f"node,{first},fresh,idle", "node,c,fresh,1 running", "node,d,fresh,idle",
        f"link,{first},d", "link,c,d",
    ]  # fmt: skip
    chronos.world.jobs.end(run)
    dot = await chronos("GET", f"{at}/graph/dot")
    assert dot.body.decode().splitlines() == [
        "digraph G {", f'  1 [ label="{first}" ];', '  2 [ label="c" ];', '  3 [ label="d" ];',
        "  1 -> 3;", "  2 -> 3;", "}",
    ]  # fmt: skip


# -- searches and summaries ------------------------------------------------------------------------


@both
async def test_search(chronos: Chronos, at: str) -> None:
    for name, command in (("Alpha", "run one"), ("beta", "run two"), ("gamma", "other")):
        assert (await chronos.put(at, name=name, command=command)).status == 204

    async def names(query: str) -> list[str]:
        return [job["name"] for job in await chronos.get(f"{at}/jobs/search?{query}")]

    assert await names("") == ["Alpha", "beta", "gamma"]
    assert await names("name=ALPHA") == ["Alpha"]
    assert await names("command=RUN&name=b") == ["beta"]
    assert await names("any=run") == ["Alpha", "beta"]
    assert await names("name=gamma&any=two&_=1") == ["beta", "gamma"]
    assert await names("limit=1&offset=1") == ["beta"]
    assert await names("limit=0") == []
    await chronos.put_all(at, *(f"more-{number}" for number in range(9)))
    assert len(await names("")) == 10
    assert (await chronos("GET", f"{at}/jobs/search?limit=x")).status == 400


@both
async def test_summary(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl")
    await chronos.put(at, name="child", parents=["etl"], disabled=True)
    jobs = chronos.world.jobs
    jobs.end(jobs.begin("acme/etl"))
    run = jobs.begin("acme/etl")
    jobs.runs[run]["state"] = "pending"
    csv = (await chronos("GET", f"{at}/graph/csv")).body.decode()
    assert "node,etl,success,queued\n" in csv
    jobs.runs[run]["state"] = "running"
    summary = await chronos.get(f"{at}/jobs/summary")
    assert summary == {
        "jobs": [
            {"name": "child", "status": "fresh", "state": "idle", "schedule": "", "parents": ["etl"],
             "disabled": True},
            {"name": "etl", "status": "success", "state": "1 running", "schedule": JOB["schedule"],
             "parents": [], "disabled": False},
        ]
    }  # fmt: skip


# -- runs ------------------------------------------------------------------------------------------


@both
async def test_run_kill_and_their_traces(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl")
    jobs = chronos.world.jobs
    response = await chronos("PUT", f"{at}/job/etl")
    assert (response.status, response.body) == (204, b"")
    (run,) = jobs.runs
    history = (await chronos.get(f"{at}/job/stat/etl"))["taskStatHistory"]
    assert history[0]["status"] == "Running" and history[0]["endTime"] == "N/A"
    assert (await chronos("DELETE", f"{at}/task/kill/etl")).status == 204
    assert jobs.runs[run]["state"] == "killed"
    jobs.end(jobs.begin("acme/etl"))
    jobs.end(jobs.begin("acme/etl"), "failed", exit_code=1)
    job = await chronos.get(f"{at}/job/etl")
    assert (job["successCount"], job["errorCount"], job["errorsSinceLastSuccess"]) == (1, 1, 1)
    assert job["lastError"] >= job["lastSuccess"] > "2020" and job["lastError"].endswith("Z")


@both
async def test_a_job_that_is_late_already_runs_once(chronos: Chronos, at: str) -> None:
    jobs, now = chronos.world.jobs, chronos.world.clock.now()
    late = f"R/{moment(now - 20)}/PT1H"
    for command in ("one", "two"):  # another command is no other schedule
        assert (await chronos.put(at, schedule=late, command=command)).status == 204
        assert [run["cause"] for run in jobs.runs.values()] == ["manual"]
    assert (await chronos.put(at, schedule=f"R/{moment(now - 10)}/PT1H")).status == 204
    assert len(jobs.runs) == 2
    assert (
        await chronos.put(at, name="old", schedule=f"R5/{moment(now - 900)}/PT1H")
    ).status == 204
    assert len(jobs.runs) == (2 if at == V2 else 3)


@both
async def test_a_run_with_arguments(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl")
    assert (await chronos("PUT", f"{at}/job/etl?arguments=-u%20-R;rm")).status == 204
    assert list(chronos.world.jobs.commands.values()) == [("/bin/sh", "-c", "date -u -Rrm")]
    assert (await chronos("PUT", f"{at}/job/etl?arguments=%20")).status == 204
    assert len(chronos.world.jobs.runs) == 2 and len(chronos.world.jobs.commands) == 1
    assert chronos.spec("etl")["command"] == ["/bin/sh", "-c", "date"]


@both
async def test_a_job_is_marked_as_successful(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl")
    assert (await chronos.put(at, name="child", parents=["etl"])).status == 204
    response = await chronos("PUT", f"{at}/job/success/etl")
    assert (response.status, response.body) == (200, b"marked job etl as successful: true")
    assert (await chronos.get(f"{at}/job/etl"))["successCount"] == 1
    assert [run["job"] for run in chronos.world.jobs.runs.values()] == ["acme/child"]
    response = await chronos("PUT", f"{at}/job/success/nobody")
    assert (response.status, response.body) == (200, b"marked job nobody as successful: false")


@both
async def test_a_run_that_is_refused_is_so_in_a_note(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl")
    chronos.world.jobs.refusing = "a run →\nis under way"
    response = await chronos("PUT", f"{at}/job/etl")
    assert response.status == 204 and response.headers["X-Gantry-Notes"] == "a run ? is under way"


@both
async def test_statistics(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl", "idle")
    stat = await chronos.get(f"{at}/job/stat/etl")
    zeros = {"75thPercentile": 0.0, "95thPercentile": 0.0, "98thPercentile": 0.0, "99thPercentile": 0.0,
             "median": 0.0, "mean": 0.0, "count": 0}  # fmt: skip
    assert stat == {"histogram": zeros, "taskStatHistory": []}
    jobs = chronos.world.jobs
    run = jobs.begin("acme/etl")
    jobs.runs[run] |= {"started": 1_700_000_000.0, "target": 1_699_999_999.5}
    jobs.end(run)
    jobs.runs[run] |= {"ended": 1_700_003_725.0, "duration_s": 3725.0}
    stat = await chronos.get(f"{at}/job/stat/etl")
    assert stat["histogram"]["median"] == 3_725_000.0 and stat["histogram"]["count"] == 1
    assert stat["taskStatHistory"] == [
        {"taskId": "ct:1699999999500:0:etl:", "jobName": "etl", "slaveId": "host-1", "status": "Success",
         "startTime": "11/14/23 22:13:20", "endTime": "11/14/23 23:15:25", "duration": "1h2m5s"}
    ]  # fmt: skip
    assert await chronos.get(f"{at}/stats/median") == [
        {"jobNameLabel": "etl", "time": 3725.0},
        {"jobNameLabel": "idle", "time": 0.0},
    ]
    for figure in ("99thPercentile", "98thPercentile", "95thPercentile", "75thPercentile", "mean"):
        assert len(await chronos.get(f"{at}/stats/{figure}")) == 2
    assert await chronos.get(f"{at}/stats/nonsense") == []


@both
async def test_progress_is_taken_and_not_counted(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl")
    path = f"{at}/job/etl/task/ct%3A1428515194358%3A0%3Aetl%3A/progress"
    body = {"numAdditionalElementsProcessed": 5}
    assert "not enabled" in message(at, await chronos("POST", path, body))
    assert (await chronos.put(at, dataProcessingJobType=True)).status == 204
    assert (await chronos("POST", path, body)).status == 204
    assert (await chronos("POST", path, {"numAdditionalElementsProcessed": -1})).status == 400
    assert (await chronos("POST", f"{at}/job/etl/task/x/progress", body)).status == 400


async def test_how_a_task_ended_is_told(chronos: Chronos) -> None:
    assert (await chronos.put(V2, name="a b", **{"async": True})).status == 204
    assert (await chronos("PUT", f"{V2}/job/a%20b")).status == 204
    (run,) = chronos.world.jobs.jobs[f"acme/{our_name('a b')}"]["running"]
    due_ms = round(chronos.world.jobs.runs[run]["target"] * 1000)

    async def tell(task: str, content: Any = None) -> Response:
        return await chronos(
            "PUT", f"{V2}/task/{quote(task, safe='')}", content or {"statusCode": 0}
        )

    for wrong in ("x", f"ct:{due_ms + 1}:0:a b:", f"ct:{due_ms}:0:other:"):
        response = await tell(wrong)
        assert (response.status, response.body) == (204, b"") and response.headers["X-Gantry-Notes"]
    assert chronos.world.jobs.heard[-1].action == "run", "nothing comes of those, as with Chronos"
    for bad in ({"statusCode": "x"}, [1]):
        assert (await tell(f"ct:{due_ms}:0:a b:", bad)).status == 400
    plain = await chronos("PUT", f"{V2}/task/x", {}, **{"Content-Type": "text/plain"})
    assert plain.status == 415
    response = await tell(f"ct:{due_ms}:3:a b:arg/u ments", {"statusCode": 7, "more": 1})
    assert response.status == 204 and "X-Gantry-Notes" not in response.headers
    heard = chronos.world.jobs.heard[-1]
    assert (heard.action, heard.run, heard.tries, heard.status) == ("report", run, 3, 7)


async def test_three_knows_no_such_tasks(chronos: Chronos) -> None:
    response = await chronos("PUT", f"{V3}/task/ct:1:0:a:", {"statusCode": 0})
    assert response.status == 404


async def test_only_deployers_tell_how_a_task_ended(chronos: Chronos) -> None:
    chronos.key = await chronos.world.key("acme", "viewer")
    response = await chronos("PUT", f"{V2}/task/ct:1:0:a:", {"statusCode": 0})
    assert response.status == 403


@both
async def test_a_job_that_there_is_not(chronos: Chronos, at: str) -> None:
    for method, path in (
        ("GET", "/job/nobody"),
        ("PUT", "/job/nobody"),
        ("DELETE", "/job/nobody"),
        ("GET", "/job/stat/nobody"),
        ("DELETE", "/task/kill/nobody"),
    ):
        response = await chronos(method, at + path)
        assert response.status == 400, path
        assert message(at, response) == "Job 'nobody' not found"


@both
async def test_what_the_scheduler_refuses_or_has_not_done(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl")
    chronos.world.jobs.refusing = "too many jobs"
    response = await chronos.put(at, name="another")
    assert response.status == 400 and message(at, response) == "too many jobs"
    chronos.world.jobs.away = True
    response = await chronos("GET", f"{at}/jobs")
    assert response.status == 503 and message(at, response)


# -- who asks --------------------------------------------------------------------------------------


@both
async def test_who_may_what(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl")
    world = chronos.world
    chronos.key, chronos.user = await world.key("acme", "viewer"), "anything at all"
    assert len(await chronos.get(f"{at}/jobs")) == 1
    assert (await chronos.put(at)).status == 403
    assert (await chronos("PUT", f"{at}/job/etl")).status == 403
    chronos.key = await world.key("other", "admin")
    assert await chronos.get(f"{at}/jobs") == []
    assert (await chronos("GET", f"{at}/job/etl")).status == 400
    assert (await chronos("DELETE", f"{at}/job/etl", **{"X-Gantry-BU": "acme"})).status == 400
    assert list(world.jobs.jobs) == ["acme/etl"]


@both
async def test_the_business_unit_of_a_key_for_all(chronos: Chronos, at: str) -> None:
    await chronos.put_all(at, "etl")
    chronos.user = ""
    response = await chronos("GET", f"{at}/jobs")
    assert response.status == 400 and "X-Gantry-BU" in message(at, response)
    chronos.user = "other"
    assert await chronos.get(f"{at}/jobs") == []
    bearer = {"X-Gantry-BU": "acme"}
    response = await chronos.world.call("GET", f"{at}/jobs", headers=bearer)
    assert len(response.json()) == 1


@both
async def test_without_a_key_it_asks_for_basic(chronos: Chronos, at: str) -> None:
    for given in ("", "Basic !", "Basic YTpi"):
        headers = {"Authorization": given} if given else {}
        response = await chronos.world.app.dispatch("GET", f"{at}/jobs", headers)
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == 'Basic realm="chronos"'
        assert message(at, response)
    # Our own API stays as it is.
    response = await chronos("GET", "/v1/jobs")
    assert response.status == 401 and response.headers["WWW-Authenticate"].startswith("Bearer")


# -- the rest --------------------------------------------------------------------------------------


async def test_ping_leader_and_metrics(chronos: Chronos) -> None:
    ping = await chronos.world.app.dispatch("GET", "/ping", {})
    assert (ping.status, ping.body) == (200, b"pong\n")
    head = await chronos.world.app.dispatch("HEAD", "/ping", {})
    assert (head.status, head.body) == (200, b"")
    assert (await chronos("HEAD", f"{V3}/jobs")).status == 200
    assert (await chronos("HEAD", f"{V2}/job/nobody")).status == 400
    assert (await chronos("HEAD", "/v1/apps")).status == 405
    for path in ("/leader", f"{V2}/leader", f"{V3}/leader"):
        assert await chronos.get(path) == {"leader": "c:4400"}
        chronos.user = ""
        assert await chronos.get(path) == {"leader": "c:4400"}
    chronos.user = "acme"
    await chronos.put_all(V3, "etl")
    jobs = chronos.world.jobs
    jobs.end(jobs.begin("acme/etl"))
    metrics = await chronos.get("/metrics")
    assert metrics["version"] == "3.0.0" and metrics["gauges"] == {}
    assert metrics["counters"]["jobs.run.success.etl"] == {"count": 1}
    assert metrics["histograms"]["jobs.run.time.etl"]["count"] == 1
    response = await chronos.world.app.dispatch("GET", "/metrics", {})
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="gantry", Basic realm="chronos"'


async def test_paths_as_jersey_takes_them_and_those_that_are_ours(chronos: Chronos) -> None:
    assert await chronos.get(f"{V2}/jobs/") == []
    assert (await chronos("GET", f"{V2}/nothing")).status == 404
    response = await chronos("PATCH", f"{V3}/jobs")
    assert response.status == 405 and "GET" in response.headers["Allow"]
    ours = await chronos.world.call("GET", "/v1/scheduler")
    assert ours.status == 200 and "framework" in ours.json()
    wrong = await chronos.world.call("GET", "/v1/scheduler/reregister")
    assert wrong.status == 405 and wrong.json()["type"].startswith("urn:gantry:problem")


@pytest.mark.parametrize("versions", [(), (2,), (3,)])
async def test_only_the_versions_that_are_configured(
    tmp_path: Path, versions: tuple[Any, ...]
) -> None:
    chronos = CHRONOS.model_copy(update={"versions": versions, "bu": "acme"})
    config = GENEROUS.model_copy(update={"chronos": chronos})
    async with gateway_world(tmp_path, config) as world:
        asked = Chronos(world)
        asked.user = ""
        for version, path in ((2, f"{V2}/jobs"), (3, f"{V3}/jobs")):
            status = (await asked("GET", path)).status
            assert status == 200 if version in versions else status in (401, 404)
        for path in ("/ping", "/leader"):
            status = (await asked("GET", path)).status
            assert status == 200 if versions else status in (401, 404)
        assert (await world.call("GET", "/metrics")).status == 403
