"""What runs of jobs write: of one under way hostd of its host tells it, of others the last is stored."""

from __future__ import annotations

from dataclasses import dataclass

from libs.client.jobs import ENDED, RunView
from libs.common.actor import Actor
from libs.common.errors import Conflict, NotFound
from libs.common.http import Response, Role, reply
from libs.common.serve import segment
from libs.common.task import container_name
from services.gateway.api_streams import NDJSON, NOT_STORED, open_lines
from services.gateway.core import bu_of_target
from services.gateway.jobs import Jobs
from services.gateway.model import KeyId
from services.gateway.parts import Gateway
from services.gateway.peers import SCHEDULER, with_query
from services.gateway.views import Container, container_on

STREAM = "output"
"""Of lines of which nobody knows to which of its outputs a run wrote them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose output is asked for, and what of it: the last `tail` lines (None: all there are), and those to come."""

    job: str
    run: str
    follow: bool
    tail: int | None


async def open_output(
    gateway: Gateway, jobs: Jobs, actor: Actor, key_id: KeyId, asked: Asked
) -> Response:
    """The lines. Raises NotFound, also for another unit's; Conflict when it is to be followed and is not under way.

    What is followed ends with the try that runs now.
    """
    actor.require(bu_of_target(asked.job), Role.VIEWER)
    run = await _run(jobs, actor, asked)
    if run.state not in ENDED:
        try:
            there = await _under_way(gateway, actor, run)
            if there is not None:
                path = _path(gateway.cluster, there, asked)
                return await open_lines(gateway, actor, key_id, there, path)
            if asked.follow:
                raise Conflict(
                    f"{run.run} is not under way: it waits for its host, or its next try"
                )
        except NotFound:  # it has ended since
            run = await _run(jobs, actor, asked)
    # Until its end is known here, what is stored is another try's.
    text = "" if asked.follow and run.state not in ENDED else run.output
    return Response(200, stored_lines(text, asked.tail), NOT_STORED, NDJSON)


async def _run(jobs: Jobs, actor: Actor, asked: Asked) -> RunView:
    run = await jobs.one_run(actor, asked.run)
    if run.job != asked.job:
        raise NotFound(f"{asked.job} has no run {asked.run!r}")
    return run


async def _under_way(gateway: Gateway, actor: Actor, run: RunView) -> Container | None:
    """Where its present try runs; None: nowhere. Raises NotFound when it has ended, Unavailable."""
    if run.state != "running":
        return None
    path = f"/v1/instances/{segment(run.instance)}"
    row = await gateway.peers.get(actor, SCHEDULER, path)
    if not row["container"]:
        return None
    return await container_on(gateway, actor, row["agent"], row["hostname"], row["container"])


def _path(cluster: str, there: Container, asked: Asked) -> str:
    """At hostd: a container of the run's own has a log, one that it shares has a file for each run."""
    query = {"follow": int(asked.follow), "tail": "" if asked.tail is None else asked.tail}
    own = there.name.rpartition(".")[0] == container_name(cluster, asked.run)
    what = "logs" if own else f"runs/{segment(asked.run)}/output"
    return with_query(f"/v1/containers/{segment(there.name)}/{what}", query)


def stored_lines(text: str, tail: int | None) -> bytes:
    """A text as lines of JSON, the last `tail` of them."""
    lines = text.splitlines()
    kept = lines if tail is None else lines[max(0, len(lines) - tail) :]
    told = ({"time": "", "stream": STREAM, "line": line} for line in kept)
    return b"".join(reply(each).body + b"\n" for each in told)
