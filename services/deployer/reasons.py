"""Why a deployment ended or waits, in one sentence made of what its instances said. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from services.deployer.model import Deployment, Instance, State
from services.deployer.rolling import Tally


def too_many_failures(deployment: Deployment, instances: Iterable[Instance], facts: Tally) -> str:
    """More instances failed than the strategy survives."""
    failed = (
        each
        for each in instances
        if each.failures
        and each.deployment == deployment.id
        and each.rollback == deployment.on_way_back
    )
    last = max(failed, key=lambda each: (each.changed_at, each.id))
    return (
        f"{facts.failures} failures of new instances, {deployment.strategy.max_failures} allowed; "
        f"last {last.id}: {last.last_exit or last.state.value}"
    )


def stuck(deployment: Deployment, facts: Tally) -> str:
    """Nothing moved for the deadline."""
    if facts.counts.ready < deployment.goal.wanted:
        head = f"{facts.counts.ready} of {deployment.goal.wanted} ready"
    else:
        head = f"{facts.left} instances still to be stopped"
    text = f"no progress for {deployment.deadline_s:g} s: {head}"
    waits = [waits_for(each) for each in facts.new if each.id not in facts.ready]
    details = Counter([*waits, *map(stops_on, facts.stopping)])
    most = "; ".join(f"{count} {why}" for why, count in details.most_common(3))
    return f"{text}; {most}" if most else text


def waits_for(instance: Instance) -> str:
    """What an instance that is not ready is waiting for."""
    if instance.waiting:
        return f"not placed: {instance.waiting}"
    if instance.state is State.HEALTHY and instance.hook.message:
        return f"not in the load balancer: {instance.hook.message}"
    if instance.state is State.HEALTHY and not instance.address:
        return "healthy, but nobody has told its address"
    if instance.last_exit:
        return f"{instance.state.value}: {instance.last_exit}"
    return instance.state.value


def stops_on(instance: Instance) -> str:
    """What an instance that should be gone is held by."""
    if instance.stop_sent_at is None:
        return f"held by the load balancer: {instance.hook.message or 'draining'}"
    return "asked to stop, not gone"


def refused_image(image: str, why: str) -> str:
    """The image can't be released."""
    return f"image {image}: {why}"
