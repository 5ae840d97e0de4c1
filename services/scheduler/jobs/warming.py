"""Which hosts are told that runs are about to be due, so that a container is ready for them. Pure.

A wish only, and nothing of it is saved: the message may get lost, the executor be gone, the run go elsewhere.
"""

from __future__ import annotations

from libs.common.spec import InstanceSpec, Resources
from libs.common.task import Ahead
from services.scheduler import nodes
from services.scheduler.cluster import Draft
from services.scheduler.jobs import timing
from services.scheduler.jobs.model import Job
from services.scheduler.model import AgentId, Prepare
from services.scheduler.rounds import away_agents, full_agents
from services.scheduler.settings import JobsConfig

MOST = 100
"""So many containers are asked for in one message at most."""


def prepare(draft: Draft, now: float, config: JobsConfig) -> None:
    """Tell the last hosts of jobs that are due in `warm_s` or less, each time once."""
    book = draft.jobs.book
    if config.warm_s <= 0:
        return
    wanted: dict[AgentId, dict[str, Ahead]] = {}
    known, shut, some_closed = draft.volatile.roster.rows.index, None, False
    for name in book.ahead.earliest(now + config.warm_s, config.looks):
        draft.jobs.foreseen[name] = None
        job = draft.jobs.get(name)
        if job is None or job.look is None or not job.home or not shares(job):
            continue
        if job.look - job.home_at < config.warm_after_s:  # most jobs run often, and cost no more
            continue
        target = timing.next_target(job)
        if target is None or not now < target <= now + config.warm_s:
            continue
        if shut is None:
            # A leader that wanted no offers yet knows few of those that are there, nor which of them are closed.
            shut = {*nodes.closed(draft), *full_agents(draft, now), *away_agents(draft)}
            some_closed = nodes.some_closed(draft)
        if job.home in shut or job.running or (some_closed and job.home not in known):
            continue
        ahead = Ahead(bu=job.bu, spec=in_common(book.spec_of(job)))
        asked, key = wanted.setdefault(job.home, {}), ahead.model_dump_json()
        if key in asked or len(asked) < MOST:
            asked[key] = ahead
            draft.jobs.expected[name] = (target, job.home)
    for agent, each in wanted.items():
        draft.act(Prepare(tuple(each.values()), agent))


def shares(job: Job) -> bool:
    """May its runs share a container: those with files of secrets do not."""
    return job.spec.reuse == "shared" and all(ref.file is None for ref in job.spec.secrets)


def in_common(spec: InstanceSpec) -> InstanceSpec:
    """What a container has of a run that may share it: nothing that is secret, nothing that is one run's own."""
    return InstanceSpec(
        image=spec.image,
        network=spec.network,
        resources=Resources(),
        network_options=spec.network_options,
        environment=spec.environment,
        address=spec.address,
        instance_class=spec.instance_class,
        user=spec.user,
        registry_login=spec.registry_login,
    )
