"""The executor at work: started by a Mesos agent, with a real engine, hostd, Open vSwitch and ipam."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiodocker
import pytest

from infra.provision import Server
from infra.provision.process import free_ports
from libs.common.spec import HealthCheck, Resources
from tests.integration.executor_host import AGENT, SUPERVISOR, WORKER, Cloud, open_cloud
from tests.integration.hostd_host import PORT, Host

HOST_INODE = Path("/proc/self/ns/net").stat().st_ino
HTTP = HealthCheck(port=PORT, path="/health", interval_s=0.5, timeout_s=2, grace_s=20)


# -- a container's life ----------------------------------------------------------------------------


async def test_instances_come_up_with_addresses_and_go(cloud: Cloud) -> None:
    names = ["a.1", "b.1", "c.1"]
    await cloud.launch(*names, health=(HTTP,), stop_grace_s=60.0)
    reports = [await cloud.healthy(each) for each in names]
    assert len({each.address for each in reports}) == 3
    attachments = await cloud.host.attachments()
    first = attachments[cloud.name("a.1")]
    for report in reports:  # from inside the VLAN
        await cloud.host.wait_served(first["namespace"], report.address)
    statuses = cloud.of("a.1")[0]["container_status"]["network_infos"]
    assert statuses[0]["ip_addresses"][0]["ip_address"] == reports[0].address
    await cloud.kill("a.1")
    status = await cloud.reaches("a.1", "TASK_KILLED")
    assert "killed after" not in status["message"]
    await cloud.gone("a.1")
    assert cloud.states("b.1")[-1] == "TASK_RUNNING"


async def test_a_container_is_where_and_what_it_should_be(cloud: Cloud) -> None:
    spec: dict[str, Any] = {
        "resources": Resources(cpus=0.5, mem_mib=64, pids=32),
        "env": {"COLOUR": "red"},
    }
    await cloud.launch("bu-web-1.1", health=(HTTP,), **spec)
    await cloud.healthy("bu-web-1.1")
    content = await cloud.inspect("bu-web-1.1")
    attachment = (await cloud.host.attachments())[cloud.name("bu-web-1.1")]
    pid = content["State"]["Pid"]
    inode = os.stat(f"/proc/{pid}/ns/net").st_ino
    assert inode == attachment["inode"] != HOST_INODE
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    host_config = content["HostConfig"]
    assert host_config["Memory"] == host_config["MemorySwap"] == 64 * 1024 * 1024
    assert (host_config["PidsLimit"], host_config["CpuShares"]) == (32, 512)
    assert host_config["NanoCpus"] == 5 * 10**8
    assert host_config["RestartPolicy"]["Name"] == "no"
    assert host_config["LogConfig"]["Config"]["max-size"] == "10m"
    assert await cloud.inside("bu-web-1.1", "hostname") == "bu-web-1"
    assert (
        await cloud.inside("bu-web-1.1", "cat", "/etc/resolv.conf")
        == "# no name servers are configured"
    )
    hosts = await cloud.inside("bu-web-1.1", "cat", "/etc/hosts")
    assert hosts.splitlines()[-1] == f"{attachment['ip']}\tbu-web-1"
    assert "COLOUR=red" in (await cloud.inside("bu-web-1.1", "env")).splitlines()


async def test_term_then_kill(cloud: Cloud) -> None:
    stubborn = ("/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    await cloud.launch("web.1", command=stubborn, stop_grace_s=1.0)
    await cloud.reaches("web.1", "TASK_RUNNING")
    await cloud.kill("web.1")
    status = await cloud.reaches("web.1", "TASK_KILLED")
    assert "killed after a grace of 1 s" in status["message"]
    await cloud.gone("web.1")


async def test_failures_say_why(cloud: Cloud, samples: dict[str, str]) -> None:
    repository = samples["sample-web:v1"].partition("@")[0]
    await cloud.launch("missing.1", image=f"{repository}@sha256:{'0' * 64}")
    await cloud.launch("crash.1", command=("/bin/sh", "-c", "exit 3"))
    eats = ("/bin/sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done")
    await cloud.launch("eats.1", command=eats, resources=Resources(mem_mib=16))
    await cloud.launch("nothing.1", command=("/no/such/program",))
    await cloud.launch("nowhere.1", network="no-such-network")
    status = await cloud.reaches("missing.1", "TASK_FAILED")
    assert f"{repository}@sha256:{'0' * 64} does not exist" in status["message"]
    status = await cloud.reaches("crash.1", "TASK_FAILED")
    assert (status["message"], cloud.report("crash.1").exit_code) == ("exited with code 3", 3)
    status = await cloud.reaches("eats.1", "TASK_FAILED")
    assert "more than 16 MiB" in status["message"]
    assert status["reason"] == "REASON_CONTAINER_LIMITATION_MEMORY"
    assert cloud.report("eats.1").oom_killed
    status = await cloud.reaches("nothing.1", "TASK_FAILED")
    assert "/no/such/program" in status["message"]
    status = await cloud.reaches("nowhere.1", "TASK_FAILED")
    assert "no-such-network" in status["message"]
    for attempt in ("missing.1", "crash.1", "eats.1", "nothing.1", "nowhere.1"):
        await cloud.gone(attempt)


async def test_an_image_is_pulled_by_digest(cloud: Cloud, samples: dict[str, str]) -> None:
    reference = samples["sample-web:v2"]
    docker = cloud.host.docker
    for name in (reference, "sample-web:v2"):
        await docker.images.delete(name, force=True)
    await cloud.launch("web.1", image=reference, health=(HTTP,))
    await cloud.healthy("web.1")
    assert cloud.states("web.1")[0] == "TASK_STARTING"
    assert "pulling" in cloud.of("web.1")[0]["message"]
    await docker.images.pull(reference)


# -- health ----------------------------------------------------------------------------------------


async def test_health_checks_of_all_kinds(cloud: Cloud, samples: dict[str, str]) -> None:
    # What a check says while the app is not up yet, or when a probe is slow, must not count.
    quick = {"interval_s": 0.2, "timeout_s": 20.0, "grace_s": 1.0}
    slow, patient = {**quick, "grace_s": 5.0}, {**quick, "grace_s": 60.0}
    broken = HealthCheck(port=PORT, path="/health", **slow)
    await cloud.launch("http.1", image=samples["sample-web:v3-broken"], health=(broken,))
    good = (
        HTTP,
        HealthCheck(type="tcp", port=PORT, **patient),
        HealthCheck(type="command", command=("/bin/sh", "-c", "test -x /app"), **patient),
    )
    await cloud.launch("good.1", health=good)
    bad_port = HealthCheck(type="tcp", port=9, **quick)
    await cloud.launch("tcp.1", health=(bad_port,))
    says = HealthCheck(type="command", command=("/bin/sh", "-c", "echo no way; exit 4"), **quick)
    await cloud.launch("command.1", health=(says,))
    hangs = HealthCheck(type="command", command=("sleep", "60"), **{**quick, "timeout_s": 0.5})
    await cloud.launch("hangs.1", health=(hangs,))
    await cloud.healthy("good.1")
    for attempt, said in (
        ("tcp.1", "Connection refused"),
        ("command.1", "exited with code 4: no way"),
        ("hangs.1", "did not end in 0.5 s"),
        ("http.1", "status 500"),
    ):
        status = await cloud.reaches(attempt, "TASK_FAILED")
        assert said in status["message"]
        assert "health check failed" in status["message"]
        assert cloud.of(attempt)[-2]["healthy"] is False
    assert cloud.states("good.1")[-1] == "TASK_RUNNING"


# -- what goes wrong around it ---------------------------------------------------------------------


async def test_nobody_else_starts_our_containers(cloud: Cloud) -> None:
    await cloud.launch("web.1", health=(HTTP,))
    await cloud.healthy("web.1")
    container = cloud.host.docker.containers.container(cloud.name("web.1"))
    await container.kill(signal="KILL")
    with pytest.raises(aiodocker.DockerError):  # gone already, or refused by the shim
        await container.start()
    status = await cloud.reaches("web.1", "TASK_FAILED")
    assert "SIGKILL" in status["message"]
    await cloud.gone("web.1")


async def test_past_the_shim_a_container_lives_for_a_moment_only(host: Host) -> None:
    """The worst case on purpose: a runtime that knows nothing of hostd leaves it in the host's namespace."""
    master, agent = free_ports(2)
    async with open_cloud(host, (master, agent), runtime="runc") as cloud:
        await cloud.launch("web.1", health=(HTTP,))
        status = await cloud.reaches("web.1", "TASK_FAILED")
        assert "network namespace that is not its own" in status["message"]
        assert "TASK_RUNNING" not in cloud.states("web.1")
        await cloud.gone("web.1")


async def test_kill9_of_the_worker_changes_nothing(cloud: Cloud) -> None:
    await cloud.launch("a.1", "b.1", health=(HTTP,))
    await cloud.healthy("a.1")
    await cloud.healthy("b.1")
    pids = [(await cloud.inspect(each))["State"]["Pid"] for each in ("a.1", "b.1")]
    told = len(cloud.statuses)
    supervisor, worker = cloud.pid_of(SUPERVISOR), await cloud.kill9(WORKER)
    await cloud.until(lambda: len(cloud.lines("subscribed")) >= 2, "no new worker")
    assert cloud.pid_of(WORKER) not in (0, worker)
    assert cloud.pid_of(SUPERVISOR) == supervisor
    assert [(await cloud.inspect(each))["State"]["Pid"] for each in ("a.1", "b.1")] == pids
    await cloud.launch("c.1", health=(HTTP,))
    await cloud.healthy("c.1")
    assert {each["task_id"]["value"] for each in cloud.statuses[told:]} == {"c.1"}
    await cloud.kill("a.1")
    await cloud.reaches("a.1", "TASK_KILLED")
    await cloud.gone("a.1")
    assert cloud.failures == []


async def test_a_worker_that_stands_still_is_replaced_and_what_ended_meanwhile_is_told_once(
    host: Host,
) -> None:
    master, agent = free_ports(2)
    async with open_cloud(host, (master, agent), silent_s=5) as cloud:
        await cloud.launch("a.1", "b.1", health=(HTTP,))
        await cloud.healthy("a.1")
        await cloud.healthy("b.1")
        pid = (await cloud.inspect("b.1"))["State"]["Pid"]
        supervisor, worker = cloud.pid_of(SUPERVISOR), cloud.pid_of(WORKER)
        os.kill(worker, signal.SIGSTOP)
        container = cloud.host.docker.containers.container(cloud.name("a.1"))
        await container.kill(signal="TERM")
        assert (await cloud.reaches("a.1", "TASK_FINISHED"))["message"] == "exited with code 0"
        await cloud.gone("a.1")
        assert cloud.pid_of(SUPERVISOR) == supervisor
        assert cloud.pid_of(WORKER) not in (0, worker)
        assert (await cloud.inspect("b.1"))["State"]["Pid"] == pid
        assert "worker is silent: killed" in cloud.log()
        await cloud.kill("b.1")
        await cloud.reaches("b.1", "TASK_KILLED")
        ends = {each["uuid"]: each["state"] for each in cloud.of("a.1")}
        assert list(ends.values()).count("TASK_FINISHED") == 1
        assert cloud.failures == []


async def test_hostd_tells_of_a_worker_that_was_killed_and_of_none_that_ended_in_order(
    cloud: Cloud,
) -> None:
    await cloud.launch("a.1")
    await cloud.reaches("a.1", "TASK_RUNNING")
    log = cloud.host.home / "hostd.log"

    async def told() -> str:
        answer = await cloud.host.call("GET", "/readyz")
        assert not answer["executor_silent"]
        return str(answer["executor_restarted"])

    def begun() -> int:
        return log.read_text().count("an executor lives")

    await cloud.until(lambda: begun() == 1, "hostd has heard of no worker")
    os.kill(cloud.pid_of(WORKER), signal.SIGTERM)
    await cloud.until(lambda: begun() == 2, "the worker did not take itself back")
    assert await told() == ""
    await cloud.kill9(WORKER)
    await cloud.host.until(lambda: _holds(told), "that it was killed is not told")
    assert await told() == (
        f"the worker of {AGENT} had ended without being asked to and was started anew"
    )
    assert cloud.failures == []


async def _holds(told: Callable[[], Awaitable[str]]) -> bool:
    return bool(await told())


async def test_what_ends_while_no_worker_looks_is_told(cloud: Cloud) -> None:
    await cloud.launch("a.1", "b.1", health=(HTTP,))
    await cloud.healthy("a.1")
    await cloud.healthy("b.1")
    await cloud.kill9(WORKER)
    docker = cloud.host.docker
    await docker.containers.container(cloud.name("a.1")).kill(signal="TERM")
    await docker.containers.container(cloud.name("b.1")).delete(force=True)
    assert (await cloud.reaches("a.1", "TASK_FINISHED"))["message"] == "exited with code 0"
    await cloud.reaches("b.1", "TASK_FAILED")
    await cloud.gone("a.1")
    await cloud.gone("b.1")


async def test_after_kill9_of_the_supervisor_its_containers_are_adopted(cloud: Cloud) -> None:
    await cloud.launch("web.1", health=(HTTP,))
    before = await cloud.healthy("web.1")
    pid = (await cloud.inspect("web.1"))["State"]["Pid"]
    await cloud.kill9(SUPERVISOR)
    status = await cloud.reaches("web.1", "TASK_FAILED")
    assert status["reason"] == "REASON_EXECUTOR_TERMINATED"
    assert (await cloud.inspect("web.1"))["State"]["Pid"] == pid
    assert cloud.pid_of(WORKER) == 0, "a worker must not outlive its supervisor"
    await cloud.launch("web.2", health=(HTTP,), adopt=cloud.name("web.1"))
    after = await cloud.healthy("web.2")
    assert (after.container, after.address) == (before.container, before.address)
    assert (await cloud.inspect("web.1"))["State"]["Pid"] == pid
    await cloud.kill("web.2")
    await cloud.reaches("web.2", "TASK_KILLED")
    await cloud.gone("web.1")


async def test_the_agent_may_go_away_and_come_back(cloud: Cloud) -> None:
    await cloud.launch("a.1", "b.1", health=(HTTP,))
    await cloud.healthy("a.1")
    await cloud.healthy("b.1")
    told = {each["uuid"] for each in cloud.statuses}
    await cloud.stop_mesos()
    # Something ends meanwhile; it is told when there is somebody to tell.
    await cloud.host.docker.containers.container(cloud.name("b.1")).kill(signal="KILL")
    await cloud.until(lambda: len(cloud.lines("ended")) == 1, "it was not seen to end")
    await cloud.start_mesos()
    await cloud.reaches("b.1", "TASK_FAILED")
    # What was not acknowledged in time comes once more, and of what is new there is one update, however often it comes.
    fresh = {e["uuid"]: e["state"] for e in cloud.statuses if e["uuid"] not in told}
    assert list(fresh.values()) == ["TASK_FAILED"]
    await cloud.launch("c.1", health=(HTTP,))
    await cloud.healthy("c.1")


async def test_the_engine_may_be_killed_and_started_again(cloud: Cloud) -> None:
    await cloud.launch("a.1", "b.1", health=(HTTP,))
    await cloud.healthy("a.1")
    await cloud.healthy("b.1")
    told = len(cloud.statuses)
    await asyncio.to_thread(restart, cloud.host.engine)
    b_pid = (await cloud.inspect("b.1"))["State"]["Pid"]
    os.kill(b_pid, signal.SIGKILL)
    assert "SIGKILL" in (await cloud.reaches("b.1", "TASK_FAILED"))["message"]
    await cloud.launch("c.1", health=(HTTP,))
    await cloud.healthy("c.1")
    assert {each["task_id"]["value"] for each in cloud.statuses[told:]} == {"b.1", "c.1"}
    await cloud.gone("b.1")


def restart(engine: Server) -> None:
    """kill -9 and start; containers go on."""

    async def work() -> None:
        await engine.kill9()
        await engine.start()

    asyncio.run(work())


async def test_hostd_may_be_restarted(cloud: Cloud) -> None:
    await cloud.launch("a.1", health=(HTTP,))
    await cloud.healthy("a.1")
    await cloud.host.kill_hostd()
    await cloud.launch("b.1", health=(HTTP,))
    await cloud.until(lambda: len(cloud.lines("launching")) == 2, "b.1 did not arrive")
    await cloud.kill("a.1")
    await cloud.reaches("a.1", "TASK_KILLED")
    await cloud.host.start_hostd()
    await cloud.healthy("b.1")
    await cloud.gone("a.1")


async def test_shutdown_stops_all_and_tells(cloud: Cloud) -> None:
    await cloud.launch("a.1", "b.1", health=(HTTP,))
    await cloud.healthy("a.1")
    await cloud.healthy("b.1")
    await cloud.client.shutdown("gantry-executor", cloud.of("a.1")[0]["agent_id"]["value"])
    for attempt in ("a.1", "b.1"):
        status = await cloud.reaches(attempt, "TASK_KILLED")
        assert status["source"] == "SOURCE_EXECUTOR"
        assert "shut down" in status["message"]
        await cloud.gone(attempt)
    await cloud.until(lambda: cloud.pid_of(SUPERVISOR) == cloud.pid_of(WORKER) == 0, "it runs on")


async def test_when_the_framework_is_gone_so_are_its_containers(cloud: Cloud) -> None:
    await cloud.launch("a.1", health=(HTTP,))
    await cloud.healthy("a.1")
    await cloud.client.teardown()
    await cloud.gone("a.1")
    await cloud.until(lambda: cloud.pid_of(SUPERVISOR) == cloud.pid_of(WORKER) == 0, "it runs on")
