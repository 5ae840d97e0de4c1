"""Pure: how a shared container is used, and what a payload of its own says of it."""

from __future__ import annotations

from libs.common.spec import InstanceSpec, Resources
from libs.common.task import Ahead, TaskPayload, container_name
from services.executor import moves as m
from services.executor.containers import hostname
from services.executor.model import Attempt, ContainerName
from services.executor.reporting import World, changed


def foretold(ahead: Ahead, cluster: str) -> TaskPayload:
    """A run that may come, as far as its container is concerned."""
    return TaskPayload(
        cluster=cluster,
        app=f"{ahead.bu}/runs",
        instance="",
        attempt="",
        generation=1,
        release=0,
        spec=ahead.spec,
    )


def payload_for(run: TaskPayload, name: str) -> TaskPayload:
    """What a shared container is to hostd and in its labels: an instance of the business unit's, without an app."""
    spec = run.spec
    return TaskPayload(
        cluster=run.cluster,
        app=f"{run.app.partition('/')[0]}/runs",
        instance=name,
        attempt=f"{name}.1",
        generation=1,
        release=0,
        spec=InstanceSpec(
            image=spec.image,
            network=spec.network,
            resources=Resources(),
            network_options=spec.network_options,
            environment=spec.environment,
            instance_class=spec.instance_class,
            user=spec.user,
            stop_grace_s=0.0,
            registry_login=spec.registry_login,
        ),
    )


def hostname_of(container: ContainerName, cluster: str) -> str:
    """What a shared container calls itself; see `payload_for`."""
    attempt = container.removeprefix(container_name(cluster, ""))
    return hostname(attempt.rpartition(".")[0])


def joined(a: Attempt, _move: m.TaskJoined, _world: World) -> m.Step:
    """A run is in it."""
    if a.pool is None:
        return m.Step(a)
    return m.Step(changed(a, pool=a.pool.model_copy(update={"uses": a.pool.uses + 1})))


def left(a: Attempt, move: m.TaskLeft, world: World) -> m.Step:
    """A run has left it."""
    if a.pool is None:
        return m.Step(a)
    pool = a.pool.model_copy(update={"recycle": a.pool.recycle or move.recycle})
    if move.idle:
        pool = pool.model_copy(update={"idle_since": world.now})
    return m.Step(changed(a, pool=pool))
