"""Inside the machine of `machine.sh`: set up, start, use and stop Gantry as docs/operations.md says."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml

from infra.compose.credentials import place
from infra.images.build import build_images
from infra.local.processes import end
from libs.client.api import GantryClient
from libs.client.hostfiles import HostFiles
from libs.common.keys import fingerprint, read_secrets
from tests.compose.doors import loose_logins, open_doors

REPOSITORY = Path(__file__).parents[2]
SECRETS = Path("/etc/gantry/secrets")
OF_HOST = SECRETS / "host"
CONTROL, HOST = "10.98.0.1", "10.98.0.2"
HOST_NAME = "host-1"
ENVIRONMENT = {
    "CONTROL_ADDRESS": CONTROL,
    "HOST_NAME": HOST_NAME,
    "HOST_ADDRESS": HOST,
    "HOST_UPLINK": "trunk0",
    "HOST_RESOURCES": "cpus:8;mem:8192;disk:20000",
    "HOST_ATTRIBUTES": "zone:a;class:thin",
}
GATEWAY = "http://127.0.0.1:8080"
APP, INSTANCES, PORT = "acme/web", 3, 8080
REGISTRY, USER = f"{CONTROL}:5000", "acme"
KILLED = ("scheduler-1", "ipam-1", "gateway-2")
VSCTL = ("ovs-vsctl", "--timeout=20")
READY_S, CALL_S = 240.0, 120.0
COMPOSE = ("/usr/bin/docker-compose", "--ansi", "never")
CONTROL_PLANE = (*COMPOSE, "-p", "gantry")
ON_HOST = (
    *COMPOSE,
    "-p",
    "gantry-host",
    "-f",
    "infra/compose/host.yml",
    "-f",
    "tests/compose/host-machine.yml",
)
AT_HOST = (
    *("docker", "run", "--rm", "-i", "--user", "0:0", "--network", "host"),
    *("--volume", f"{OF_HOST}:{OF_HOST}", "gantry:0.1.0"),
)


class TrialFailed(Exception):
    """Something did not hold."""


def run(*command: str, timeout_s: float = CALL_S, fed: str | None = None) -> str:
    """Standard output. Raises TrialFailed."""
    done = subprocess.run(
        command,
        input=fed,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=REPOSITORY,
        env={**os.environ, **ENVIRONMENT},
        check=False,
    )
    if done.returncode:
        raise TrialFailed(f"{' '.join(command)} exits {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def say(text: str) -> None:
    """A line with the time since the start."""
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


STARTED = time.monotonic()


# -- the machine


async def start_engine() -> subprocess.Popen[bytes]:
    """The machine's own Docker, configured as the guide says."""
    data = Path(os.environ["DATA_ROOT"])
    driver = (data.parent / "storage-driver").read_text().strip()
    with (data.parent / "trial.log").open("ab") as log:
        command = ("dockerd", "--data-root", str(data), "--storage-driver", driver)
        engine = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + READY_S
    while subprocess.run(("docker", "version"), capture_output=True, check=False).returncode:
        if engine.poll() is not None or time.monotonic() > deadline:
            raise TrialFailed((data.parent / "trial.log").read_text()[-2000:])
        await asyncio.sleep(0.2)
    return engine


async def all_healthy(project: str, count: int) -> None:
    """Wait until that many containers of a project run, each healthy; what has ended well does not count."""
    ask = ("docker", "ps", "--all", "--filter", f"label=com.docker.compose.project={project}")
    deadline = time.monotonic() + READY_S
    while True:
        lines = run(*ask, "--format", "{{.Names}} {{.Status}}").splitlines()
        lines = [line for line in lines if "Exited (0)" not in line]
        unwell = [line for line in lines if "(healthy)" not in line]
        if len(lines) == count and not unwell:
            return
        if time.monotonic() > deadline:
            reasons = (f"{line}\n{why(line.split()[0])}" for line in unwell)
            raise TrialFailed(
                "\n".join((f"{len(lines)} of {count} containers are there", *reasons))
            )
        await asyncio.sleep(1.0)


def why(container: str) -> str:
    """What its health check and its log said last."""
    health = run("docker", "inspect", "--format", "{{json .State.Health}}", container)
    logs = ("docker", "logs", "--tail=10", container)
    said = subprocess.run(logs, capture_output=True, text=True, check=False)
    return f"{health[-600:]}{said.stdout[-1500:]}{said.stderr[-1500:]}"


# -- the guide


async def control_plane() -> str:
    """Set the control plane up; returns the first admin key."""
    run(sys.executable, "-m", "infra.compose.credentials", "cluster", str(SECRETS))
    run(*CONTROL_PLANE, "up", "-d", timeout_s=READY_S)
    services = control_services()
    await all_healthy("gantry", len(services))
    say(f"{len(services)} containers of the control plane are healthy")
    show = ("exec", "-T", "gateway-1", "cat", "/var/lib/gantry/admin.key")
    return run(*CONTROL_PLANE, *show).strip()


def control_services() -> list[str]:
    """The names of the control plane's containers."""
    return [*yaml.safe_load(run(*CONTROL_PLANE, "config"))["services"]]


async def host(
    engine: subprocess.Popen[bytes], client: GantryClient, key_file: Path
) -> subprocess.Popen[bytes]:
    """Set a host up; returns its engine, which was restarted on the way."""
    token = gantry(key_file, "host", "token", HOST_NAME).split()[-1]
    enrol = ("libs.cli.main", "host", "enrol", "--name", HOST_NAME, "--url", GATEWAY)
    run(*AT_HOST, *enrol, fed=f"{token}\n")
    say("the host has enrolled")
    run(*ON_HOST, "up", "install", timeout_s=READY_S)
    await end([engine.pid])
    engine.wait()
    engine = await start_engine()  # so that it knows the runtime
    run(*ON_HOST, "up", "-d", timeout_s=READY_S)
    await all_healthy("gantry-host", 2)
    for each in ("hostd", "mesos-agent"):  # this machine has the cluster's, too
        seen = run(*ON_HOST, "exec", "-T", each, "ls", "-A", str(SECRETS)).split()
        if seen != [OF_HOST.name]:
            raise TrialFailed(f"{each} has {', '.join(seen)} among its secrets")
    await until("the host among the nodes", lambda: joined(client))
    say("the host has joined")
    return engine


def gantry(key_file: Path, *arguments: str, fed: str | None = None) -> str:
    """The CLI, on the control machine; `fed` is its standard input."""
    settings = (f"GANTRY_URL={GATEWAY}", f"GANTRY_KEY_FILE={key_file}")
    command = str(Path(sys.executable).with_name("gantry"))
    return run("env", *settings, command, *arguments, fed=fed)


async def joined(client: GantryClient) -> bool:
    """Is the host there for placement."""
    nodes = (await client.nodes()).nodes
    return any(each.hostname == HOST_NAME and each.state == "up" for each in nodes)


async def until(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition. Raises TrialFailed."""
    deadline = time.monotonic() + CALL_S
    while not await holds():
        if time.monotonic() > deadline:
            raise TrialFailed(f"not in {CALL_S:g} s: {what}")
        await asyncio.sleep(0.5)


async def closed_doors() -> None:
    """Strangers are turned away everywhere."""
    if found := [each async for each in open_doors(CONTROL, HOST)]:
        raise TrialFailed("\n".join(found))
    say("every port asks who is there")


async def rotation(key_file: Path) -> None:
    """The cluster's secret and the host's keys are replaced as docs/secrets.md says, and nothing is started anew."""
    secret, mine = place(SECRETS, "cluster_secret"), HostFiles(OF_HOST).host_key
    there = run("docker", "ps", "--format", "{{.Image}} {{.Names}}").splitlines()
    names = sorted(line.split()[1] for line in there if line.startswith("gantry:0.1.0 "))
    started = ("docker", "inspect", "--format", "{{.State.StartedAt}}", *names)
    before = run(*started)
    renew = ("libs.cli.main", "host", "renew", "--name", HOST_NAME, "--url", GATEWAY)
    services = [each for each in names if "hostd" not in each]
    for verb in ("add", "retire"):
        gantry(key_file, "secret", verb, str(secret))
        await taken_up(secret, services)
        run(*AT_HOST, *renew)
        await taken_up(mine, [each for each in names if "hostd" in each])
    if run(*started) != before:
        raise TrialFailed("a container was started anew")
    say("the cluster's secret and the host's key are others, and nothing was started anew")


async def taken_up(file: Path, containers: list[str]) -> None:
    """Wait until each has logged that it has what the file says now."""
    prints = json.dumps([fingerprint(each) for each in read_secrets(file)])

    async def logged() -> bool:
        for each in containers:
            lines = logs(each).splitlines()
            found = [line for line in lines if '"secrets taken up"' in line]
            if not found or json.dumps(json.loads(found[-1])["fingerprints"]) != prints:
                return False
        return True

    await until(f"what {file.name} says now in {', '.join(containers)}", logged)


def logs(container: str) -> str:
    """What a container wrote."""
    command = ("docker", "logs", container)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=CALL_S)
    return done.stdout + done.stderr


async def an_app(client: GantryClient, key_file: Path) -> None:
    """Release, ask the instances at their own addresses over the trunk, and again beside what was killed."""
    login = ("infra.compose.credentials", "login", str(SECRETS), USER)
    password = run(sys.executable, "-m", *login).strip()
    gantry(key_file, "--bu", "acme", "bu-registry", "put", REGISTRY, USER, fed=f"{password}\n")
    built = await build_images("unix:///run/docker.sock", REGISTRY, login=(USER, password))
    if found := [each async for each in loose_logins(REGISTRY, USER, password, built[0].reference)]:
        raise TrialFailed("\n".join(found))
    images = {each.name.rpartition("/")[2]: each.reference for each in built}
    join_the_trunk()
    await release(client, key_file, "v1", images["sample-web:v1"])
    run(*CONTROL_PLANE, "kill", "-s", "KILL", *KILLED)
    say(f"killed {', '.join(KILLED)}")
    await release(client, key_file, "v2", images["sample-web:v2"])
    await client.stop(APP)
    await until("the app's stop", lambda: gone(client))
    say("the app is stopped")


def join_the_trunk() -> None:
    """An interface of the app's VLAN at the other end of the host's uplink."""
    datapath = ("--", "set", "bridge", "outside", "datapath_type=netdev")
    run(*VSCTL, "add-br", "outside", *datapath)
    run(*VSCTL, "add-port", "outside", "trunk1")
    internal = ("--", "set", "interface", "vlan101", "type=internal")
    run(*VSCTL, "add-port", "outside", "vlan101", "tag=101", *internal)
    run("ip", "addr", "add", "10.101.0.1/22", "dev", "vlan101")
    run("ip", "link", "set", "vlan101", "up")


async def release(client: GantryClient, key_file: Path, version: str, reference: str) -> None:
    """`gantry deploy`, and every instance answers with that version."""
    spec = SECRETS.parent / "web.json"
    spec.write_text(json.dumps(app(reference)))
    say(gantry(key_file, "deploy", str(spec)).splitlines()[-1])
    addresses = [each.address for each in (await client.instances(APP)).instances if each.healthy]
    ask = (sys.executable, "-m", "infra.demo.ask", str(PORT), *addresses)
    answers = json.loads(run(*ask))
    if answers != {version: INSTANCES}:
        raise TrialFailed(f"{version} was released, and {answers} answer")
    say(f"{version} answers at {', '.join(addresses)}, over the trunk")


async def gone(client: GantryClient) -> bool:
    """No instance is left."""
    return not (await client.instances(APP)).instances


def app(reference: str) -> dict[str, Any]:
    """The sample app."""
    health = {"type": "http", "port": PORT, "path": "/health", "interval_s": 1.0, "grace_s": 10.0}
    return {
        "app": APP,
        "image": reference,
        "instances": INSTANCES,
        "network": "web",
        "resources": {"cpus": 0.1, "mem_mib": 32},
        "health": [health],
    }


def status() -> str:
    """What the scheduler says, asked as the guide says."""
    ask = (*CONTROL_PLANE, "exec", "-T", "deployer-1", "python", "-")
    script = (REPOSITORY / "infra/compose/ask.py").read_text()
    return run(*ask, "scheduler", "GET", "/v1/status", fed=script).strip()


async def main() -> None:
    """All of it. Raises TrialFailed."""
    engine = await start_engine()
    say("a machine of its own is up")
    try:
        key = await control_plane()
        key_file = SECRETS.parent / "admin.key"
        key_file.write_text(key)
        async with GantryClient.open(GATEWAY, key) as client:
            engine = await host(engine, client, key_file)
            await closed_doors()
            await rotation(key_file)
            await an_app(client, key_file)
        say(f"the scheduler says {status()}")
        run(*ON_HOST, "down", "-v", timeout_s=READY_S)
        run(*CONTROL_PLANE, "down", "-v", timeout_s=READY_S)
        say("all is down again")
    finally:
        # What a failure has left: the engine would keep it alive.
        if left := run("docker", "ps", "--all", "--quiet").split():
            run("docker", "rm", "--force", *left)
        engine.terminate()
        engine.wait(30)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except TrialFailed as failure:
        sys.exit(f"compose: {failure}")
