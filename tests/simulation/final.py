"""After the faults and a quiet time: nothing promised is lost, nothing hangs, and what is there is what is wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from services.executor.model import LABEL_INSTANCE, LABEL_POOL
from tests.simulation.cloud import Cloud
from tests.simulation.invariants import ENDED_DEPLOYMENT, Invariants
from tests.simulation.promises import Promises
from tests.simulation.workload import APPS, User


async def check_end(
    cloud: Cloud,
    users: Sequence[User],
    promises: Promises,
    invariants: Invariants,
    outcomes: Counter[str],
    last: Sequence[str | None],
) -> None:
    """All checks that make sense only when everything has come to rest."""
    acked = promises.acked
    promises.check()
    by_app = {user.app: user for user in users}
    for deployment, app in acked.deployments.items():
        state = await by_app[app].state(deployment)
        outcomes[str(state["state"])] += 1
        if state["state"] not in ENDED_DEPLOYMENT:
            invariants.fail(f"{app}: deployment {deployment} never ended: {state}")
        elif state["state"] != "succeeded" and not state["reason"]:
            invariants.fail(f"{app}: deployment {deployment} ended without a reason: {state}")
        elif deployment in last and state["state"] != "succeeded":
            invariants.fail(f"{app}: a good release after all faults are over: {state}")
    for app, mark in acked.markers.items():
        response = await by_app[app].call("GET", f"/v1/apps/{app}")
        spec = response.json()["spec"]
        if spec["env"].get("MARK") != mark:
            invariants.fail(f"{app}: the spec that was put last is lost: {spec['env']} not {mark}")
        if spec["instances"] not in acked.numbers(app):
            invariants.fail(
                f"{app}: scaled to {acked.numbers(app)}, but its spec has {spec['instances']}"
            )
        body = cloud.store.body("deployer_apps", app)
        if last and body is not None and body["wanted"] != spec["instances"]:
            invariants.fail(f"{app}: released, but {body['wanted']} are wanted: {spec}")
    for doc in cloud.store.spoiled():
        invariants.fail(f"{doc}: a reader changed what is stored")
    _desired_is_actual(cloud, invariants)
    _nothing_leaks(cloud, invariants)
    _balancer(cloud, invariants)


def _desired_is_actual(cloud: Cloud, invariants: Invariants) -> None:
    running = Counter(
        each.spec.labels[LABEL_INSTANCE]
        for host in cloud.hosts
        for each in host.docker.containers.values()
        if each.running
    )
    wanted: set[str] = set()
    for app in APPS:
        body = cloud.store.body("deployer_apps", app)
        if body is None:
            invariants.fail(f"{app} does not exist")
            continue
        mine = _instances(cloud, app)
        run = {name for name, each in mine.items() if each["wanted"] == "run"}
        left = {
            name
            for name, each in mine.items()
            if each["wanted"] != "run" and each["state"] != "gone"
        }
        wanted |= run
        if len(run) != body["wanted"] and body["release"] is not None:
            invariants.fail(f"{app}: {body['wanted']} wanted, {len(run)} instances: {mine}")
        if left:
            invariants.fail(f"{app}: never stopped: {[(n, mine[n]) for n in sorted(left)]}")
        for name in sorted(run):
            if running[name] != 1:
                told = cloud.store.body("scheduler_instances", name)
                invariants.fail(f"{app}: {name} runs {running[name]} times; scheduler: {told}")
            elif mine[name]["state"] != "healthy":
                invariants.fail(f"{app}: {name} runs, but the deployer says {mine[name]}")
    for name, told in cloud.store.bodies("scheduler_instances").items():
        if told.get("leaving") and told["state"] != "ended":
            invariants.fail(f"{name} is still asked to move, though all hosts are open")
    for name in sorted(set(running) - wanted - _idle_pools(cloud, invariants)):
        invariants.fail(f"{name} runs, and nobody wants it")


def _idle_pools(cloud: Cloud, invariants: Invariants) -> set[str]:
    """Shared containers that may yet be there: nothing runs in them, and did until lately."""
    found = set()
    for host in cloud.hosts:
        for each in host.docker.containers.values():
            if each.running and LABEL_POOL in each.spec.labels:
                found.add(each.spec.labels[LABEL_INSTANCE])
                if each.tasks:
                    invariants.fail(f"{each.name} on {host.name} has tasks: {each.tasks}")
    return found


def _instances(cloud: Cloud, app: str) -> dict[str, Mapping[str, Any]]:
    every = cloud.store.bodies("deployer_instances")
    return {
        name: each for name, each in every.items() if each["app"] == app and each["state"] != "gone"
    }


def _nothing_leaks(cloud: Cloud, invariants: Invariants) -> None:
    containers: set[str] = set()
    attached: set[str] = set()
    for host in cloud.hosts:
        for each in host.docker.containers.values():
            containers.add(each.name)
            if not each.running:
                invariants.fail(f"{host.name}: container {each.name} is left over")
        if host.docker.leftovers:
            invariants.fail(f"{host.name}: the engine knows nothing of {host.docker.leftovers}")
        kernel = host.kernel
        parked = {key for key, each in kernel.attachments.items() if each.parked_at is not None}
        names = {a.container for key, a in kernel.attachments.items() if key not in parked}
        here = {each.name for each in host.docker.containers.values()}
        if names != here:
            invariants.fail(f"{host.name}: attachments {names - here}, containers {here - names}")
        attached |= {a.ipam_key for key, a in kernel.attachments.items() if key not in parked}
        for what, found in (
            ("namespaces", set(kernel.namespaces)),
            ("ports", {port.attachment for port in kernel.ports.values()}),
        ):
            if found != set(kernel.attachments):
                invariants.fail(f"{host.name}: {what} {found} for {set(kernel.attachments)}")
        if kernel.releases:
            invariants.fail(f"{host.name}: releases that ipam never heard of: {kernel.releases}")
        if kernel.registrations:
            invariants.fail(f"{host.name}: registrations are left: {kernel.registrations}")
    held = {
        str(body["attachment"])
        for body in cloud.store.bodies("ipam_addresses").values()
        if body["state"] == "allocated"
    }
    if held != attached:
        invariants.fail(f"addresses leaked: {held - attached}; missing: {attached - held}")


def _balancer(cloud: Cloud, invariants: Invariants) -> None:
    for app, spec in APPS.items():
        if "load_balancer" not in spec:
            continue
        serving = cloud.balancer.inner.serving.get(app.replace("/", "-"), {})
        healthy = {
            (str(each["address"]), int(spec["load_balancer"]["port"]))
            for each in _instances(cloud, app).values()
            if each["state"] == "healthy"
        }
        if set(serving) != healthy:
            invariants.fail(f"{app}: the load balancer has {set(serving)}, healthy are {healthy}")
