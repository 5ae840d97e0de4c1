"""Hosts that people have closed: cordoned, or drained for maintenance; and what their instances are asked. Pure.

The scheduler knows where instances are and places none on a closed host. Which instances exist, and in what order load
balancer, replacement and stop come, is the deployer's: so an instance on a host that is drained is *asked to move*, an
event and a field of its document, and the deployer replaces it as its app's strategy and budget allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from libs.common.events import model as ev
from services.scheduler.cluster import Cluster, Draft
from services.scheduler.model import AgentId, Door, Instance, Node, NodeSet, State

ASKED, FORCED = "asked", "forced"
"""What `Instance.leaving` says of one that is to move: when its app can spare it, or now."""


def set_node(draft: Draft, given: NodeSet) -> None:
    """A host's door, as it was saved."""
    known = draft.volatile.nodes.get(given.node.hostname)
    if known is None or known.version < given.node.version:
        draft.volatile.nodes[given.node.hostname] = given.node
        ask_to_move(draft)


def some_closed(draft: Draft) -> bool:
    """Is there a host on which nothing new is placed."""
    return any(node.door is not Door.OPEN for node in draft.volatile.nodes.values())


def closed(draft: Draft) -> list[AgentId]:
    """Agents on which nothing new is placed."""
    doors = draft.volatile.nodes
    if not some_closed(draft):
        return []
    rows = draft.volatile.roster.rows
    pairs = zip(rows.ids, rows.hostnames, strict=True)
    return [agent for agent, host in pairs if _door(doors, host) is not Door.OPEN]


def ask_to_move(draft: Draft) -> None:
    """Ask those on drained hosts to move, and those no longer on one to stay. Changes nothing a second time.

    While others of an app make room, none is asked: its deployer hears of these only when they have ended, and would
    take one more than its budget has left.
    """
    doors = draft.volatile.nodes
    draining = {name for name, node in doors.items() if node.door is Door.DRAINING}
    leaving = [draft.get(each) for each in draft.cluster.leaving]
    there = [each for host in draining for each in instances_on(draft.cluster, host)]
    ending = [draft.get(each) for each in draft.cluster.ending] if there else []
    yielding = {each.app for each in ending if each is not None and each.yields_to and each.live}
    for each in (*leaving, *(draft.get(one.id) for one in there)):
        if each is None or each.stop or each.cleanup or each.state is State.ENDED:
            continue
        wish = _wish(doors, each)
        later = wish == ASKED and not each.leaving and each.app in yielding
        if wish != each.leaving and not later:
            draft.put(replace(each, leaving=wish), asked_to_move(each, wish, doors))


def _wish(doors: Mapping[str, Node], instance: Instance) -> str:
    node = doors.get(instance.hostname)
    if node is None or node.door is not Door.DRAINING or instance.state is State.PENDING:
        return ""
    return FORCED if node.overdue_at and node.force else ASKED


def asked_to_move(
    instance: Instance, wish: str, doors: Mapping[str, Node]
) -> ev.InstanceMoveRequested:
    """The event that tells what an instance is asked."""
    node = doors.get(instance.hostname)
    why = f"{instance.hostname} is drained" + (f": {node.reason}" if node and node.reason else "")
    return ev.InstanceMoveRequested(
        instance=instance.id,
        app=instance.app,
        hostname=instance.hostname,
        reason=why if wish else "",
        forced=wish == FORCED,
        withdrawn=not wish,
    )


def instances_on(cluster: Cluster, hostname: str) -> Iterator[Instance]:
    """Instances with a task or a container on a host."""
    for there in cluster.on_agent.values():
        first = next(iter(there), None)
        # All of an agent's are on its host.
        if first is not None and cluster.instances[first].hostname == hostname:
            yield from (cluster.instances[each] for each in there)


def left_on(cluster: Cluster, hostname: str) -> dict[str, int]:
    """How many instances of which app have yet to leave a host."""
    counts: dict[str, int] = {}
    for each in instances_on(cluster, hostname):
        if not each.cleanup:
            counts[each.app] = counts.get(each.app, 0) + 1
    return dict(sorted(counts.items()))


def _door(doors: Mapping[str, Node], hostname: str) -> Door:
    node = doors.get(hostname)
    return node.door if node is not None else Door.OPEN


# -- documents -----------------------------------------------------------------------------------------

_NAMES = tuple(each.name for each in fields(Node) if each.name not in ("hostname", "version"))


def node_body(node: Node) -> dict[str, Any]:
    """The host as a document's body; the document has its name."""
    body = asdict(node)
    return {name: body[name] for name in _NAMES}


def node_of(hostname: str, version: int, body: Mapping[str, Any]) -> Node:
    """The host of a document."""
    known = {name: body[name] for name in _NAMES if name in body and name != "door"}
    return Node(hostname=hostname, version=version, door=Door(body["door"]), **known)
