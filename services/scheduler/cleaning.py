"""Hosts where a container may be left that nobody wants: a task is sent there so that an executor looks after it. Pure.

An executor removes what no task of its own has, after a grace in which it may yet be adopted. But on a host whose
executor died, and where nothing is placed any more, there is none. Such a clean-up is kept, placed, repeated and
reconciled like an instance; it has no container, no events, and ends with its first success.

**Invariant**: only a scheduler that leads, and has given the container's instance up there, makes one; so nothing is
removed because the control plane is away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from libs.common.spec import InstanceSpec, Resources
from services.scheduler.cluster import Draft
from services.scheduler.model import Instance, InstanceId, State

APP = "gantry/cleanup"
PAUSE_S = 60.0  # a host that offers nothing is asked so often…
LOOK_S = 10.0  # …for so long…
GIVE_UP_S = 7 * 86_400.0  # …and after that it is taken for gone

_SPEC = InstanceSpec(image="", network="", resources=Resources(cpus=0.01, mem_mib=32))


def leave_behind(draft: Draft, instance: Instance, now: float) -> None:
    """The instance's container may be left on its host, and is no longer wanted there."""
    host = instance.hostname
    if instance.cleanup or not host or host in draft.cleaning:
        return
    draft.cleaning.add(host)
    known = [draft.get(each) for each, there in draft.cluster.cleanups.items() if there == host]
    if any(each is not None and each.state is State.PENDING for each in known):
        return  # its executor will see all there is
    cleanup = Instance(
        id=InstanceId(f"cleanup-{instance.attempt}"),
        app=APP,
        release=0,
        deployment="",
        spec=_SPEC,
        hostname=host,
        since=now,
        not_before=now,
        cleanup=True,
    )
    if draft.get(cleanup.id) is None and cleanup.id not in draft.cluster.ended:
        draft.put(cleanup)


def put_off(draft: Draft, unplaced: Iterable[Instance], now: float) -> None:
    """Clean-ups that found no offer of their host's for a while wait, and are given up some day."""
    for each in unplaced:
        if not each.cleanup or each.state is not State.PENDING:
            continue
        if now - each.since >= GIVE_UP_S:
            draft.put(replace(each, state=State.ENDED, since=now))
        elif now - each.not_before >= LOOK_S:
            draft.put(replace(each, not_before=now + PAUSE_S))
