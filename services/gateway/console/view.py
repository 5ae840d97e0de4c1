"""What the console's page shows, as data. Pure: from the API's answers to cards, cells, rows and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from libs.client.model import AppView, InstanceView, NodeView

REASONS = 3
"""So many are told of one app, the most frequent first."""

IN_PROGRESS = frozenset({"accepted", "rolling", "rolling_back", "paused"})

# Deployer's and scheduler's instance states → colour class and the word beside it.
LOOKS: Mapping[str, tuple[str, str]] = {
    "healthy": ("ok", "healthy"),
    "running": ("ok", "running"),
    "started": ("starting", "starting"),
    "starting": ("starting", "starting"),
    "launching": ("starting", "starting"),
    "staging": ("starting", "starting"),
    "placed": ("starting", "placed"),
    "requested": ("waiting", "waiting"),
    "pending": ("waiting", "waiting"),
    "unhealthy": ("bad", "unhealthy"),
    "exited": ("bad", "exited, restarting"),
    "gone": ("gone", "gone"),
    "ended": ("gone", "gone"),
    "lost": ("lost", "host lost"),
    "unreachable": ("lost", "host lost"),
    "orphaned": ("lost", "being adopted"),
    "draining": ("leaving", "draining"),
    "stopping": ("leaving", "stopping"),
}
_ALIVE = frozenset({"ok", "starting", "waiting", "bad", "lost"})
_SHOWN = _ALIVE | {"leaving"}


class Word(StrEnum):
    """The state of an app in one word."""

    RUNNING = "Running"
    DEPLOYING = "Deploying"
    SUSPENDED = "Suspended"
    WAITING = "Waiting"
    DELAYED = "Delayed"


@dataclass(frozen=True, slots=True)
class Gauge:
    """Something reserved of a total. `percent` is 0 to 100."""

    label: str
    text: str
    percent: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One instance."""

    instance: str
    app: str
    short: str
    release: str
    address: str
    look: str
    word: str
    detail: str


@dataclass(frozen=True, slots=True)
class Host:
    """One host with its instances."""

    agent: str
    name: str
    zone: str
    state: str
    maintenance: str
    gauges: tuple[Gauge, ...]
    cells: tuple[Cell, ...]

    @property
    def is_up(self) -> bool:
        """It takes part."""
        return self.state in ("", "active", "up", "joined", "healthy")


@dataclass(frozen=True, slots=True)
class AppRow:
    """One app."""

    app: str
    word: Word
    why: str
    release: str
    healthy: int
    wanted: int
    image: str


@dataclass(frozen=True, slots=True)
class Page:
    """The page."""

    hosts: tuple[Host, ...]
    homeless: tuple[Cell, ...]
    apps: tuple[AppRow, ...]
    incomplete: tuple[str, ...]

    @property
    def totals(self) -> Mapping[str, int]:
        """Instances by the look of their cells."""
        totals: dict[str, int] = {}
        for cell in (*self.homeless, *(cell for host in self.hosts for cell in host.cells)):
            totals[cell.look] = totals.get(cell.look, 0) + 1
        return totals


def page(
    nodes: Sequence[NodeView],
    instances: Sequence[InstanceView],
    apps: Sequence[AppView],
    incomplete: Sequence[str],
) -> Page:
    """The page of what there is."""
    by_agent: dict[str, list[InstanceView]] = {}
    for each in instances:
        if look_of(each)[0] in _SHOWN:
            by_agent.setdefault(each.agent, []).append(each)
    hosts = tuple(host(node, by_agent.pop(node.agent, [])) for node in nodes)
    homeless = [cell(each) for agent in sorted(by_agent) for each in by_agent[agent]]
    by_app: dict[str, list[InstanceView]] = {}
    for each in instances:
        by_app.setdefault(each.app, []).append(each)
    rows = tuple(app_row(app, by_app.get(app.app, [])) for app in apps)
    return Page(hosts, tuple(homeless), rows, tuple(dict.fromkeys(incomplete)))


def look_of(instance: InstanceView) -> tuple[str, str]:
    """Colour class and word of an instance."""
    if instance.state in ("running", "started") and instance.healthy is not None:
        return LOOKS["healthy" if instance.healthy else "unhealthy"]
    return LOOKS.get(instance.state, ("waiting", instance.state or "unknown"))


def cell(instance: InstanceView) -> Cell:
    """An instance as a cell."""
    look, word = look_of(instance)
    name = instance.app.partition("/")[2] or instance.app
    detail = _why(instance) if instance.waiting else str(_extra(instance, "last_exit") or "")
    return Cell(
        instance=instance.instance,
        app=instance.app,
        short=name,
        release="" if instance.release is None else f"r{instance.release}",
        address=instance.address,
        look=look,
        word=word,
        detail=detail,
    )


def host(node: NodeView, instances: Sequence[InstanceView]) -> Host:
    """A host as a card."""
    cells = sorted((cell(each) for each in instances), key=lambda c: (c.app, c.instance))
    return Host(
        agent=node.agent,
        name=node.hostname or node.agent,
        zone=str(node.attributes.get("zone", "")),
        state=node.state.lower(),
        maintenance=node.maintenance,
        gauges=(
            _gauge("CPU", "cores", *_cpus(node, instances)),
            _gauge("Memory", "MiB", *_mem_mib(node, instances)),
        ),
        cells=tuple(cells),
    )


def _cpus(node: NodeView, instances: Sequence[InstanceView]) -> tuple[float, float]:
    """Cores reserved and in all: as scheduler and monitor say, or summed over the instances."""
    reserved = node.reserved_cpus if node.reserved_cpus is not None else node.used_cpus
    if reserved is None:
        reserved = sum(_number(_extra(each, "cpus")) or 0.0 for each in instances)
    offered = _number(_extra(node, "offered_cpus")) or 0.0
    return reserved, node.cpus if node.cpus is not None else reserved + offered


def _mem_mib(node: NodeView, instances: Sequence[InstanceView]) -> tuple[float, float]:
    """The same for memory, MiB."""
    reserved = node.reserved_mem_mib if node.reserved_mem_mib is not None else node.used_mem_mib
    if reserved is None:
        reserved = sum(_number(_extra(each, "mem_mib")) or 0.0 for each in instances)
    offered = _number(_extra(node, "offered_mem_mib")) or 0.0
    return reserved, node.mem_mib if node.mem_mib is not None else reserved + offered


def _gauge(label: str, unit: str, reserved: float, total: float) -> Gauge:
    percent = min(100.0, 100.0 * reserved / total) if total > 0 else 0.0
    text = f"{reserved:,.3g} of {total:,.3g} {unit}"
    if unit == "MiB":
        text = f"{reserved:,.0f} of {total:,.0f} {unit}"
    return Gauge(label, text, round(percent, 1))


def app_row(app: AppView, instances: Sequence[InstanceView]) -> AppRow:
    """An app as a row."""
    word, why = word_of(app, instances)
    release = _extra(app, "release")
    return AppRow(
        app=app.app,
        word=word,
        why=why,
        release="" if release is None else f"r{release}",
        healthy=sum(look_of(each)[0] == "ok" for each in instances),
        wanted=_wanted(app, instances),
        image=str(app.spec.get("image", "")),
    )


def _wanted(app: AppView, instances: Sequence[InstanceView]) -> int:
    """How many there shall be: by the deployment under way, else as it was last, else as many as there are."""
    deployment = _extra(app, "deployment")
    coming = deployment.get("wanted") if isinstance(deployment, Mapping) else None
    for wanted in (coming, _extra(app, "wanted")):
        if isinstance(wanted, int):
            return wanted
    return sum(look_of(each)[0] in _ALIVE for each in instances)


def word_of(app: AppView, instances: Sequence[InstanceView]) -> tuple[Word, str]:
    """The app's word and why. What holds it up comes before what it is at."""
    waiting = [each for each in instances if each.waiting and look_of(each)[0] == "waiting"]
    if waiting:
        return Word.WAITING, _not_placed(waiting)
    failing = [each for each in instances if _is_failing(each)]
    deployment = _deployment_state(app)
    if failing and deployment not in IN_PROGRESS:
        why = _extra(failing[0], "last_exit")
        told = f"{len(failing)} {look_of(failing[0])[1]}"
        return Word.DELAYED, f"{told}: {why}" if why else told
    if deployment in IN_PROGRESS:
        return Word.DEPLOYING, deployment.replace("_", " ")
    alive = [each for each in instances if look_of(each)[0] in _ALIVE]
    if not alive and _wanted(app, instances) == 0:
        return Word.SUSPENDED, "no instances wanted"
    missing = _wanted(app, instances) - sum(look_of(each)[0] == "ok" for each in instances)
    if missing > 0:
        return Word.DEPLOYING, f"{missing} on their way"
    return Word.RUNNING, ""


def _not_placed(waiting: Sequence[InstanceView]) -> str:
    """How many of an app wait, and why: releases and addresses of their own may make it several reasons."""
    reasons = Counter(map(_why, waiting)).most_common()
    if len(reasons) == 1:
        return f"{len(waiting)} not placed: {reasons[0][0]}"
    told = "; ".join(f"{count}: {why}" for why, count in reasons[:REASONS])
    others = len(reasons) - REASONS
    more = f"; and {others} more {'reason' if others == 1 else 'reasons'}" if others > 0 else ""
    return f"{len(waiting)} not placed: {told}{more}"


def _why(instance: InstanceView) -> str:
    """Why one waits: in words, and how many agents fail what."""
    why = instance.waiting.removeprefix("not placed: ")
    failed = instance.why.counts if instance.why is not None else ""
    return f"{why} (agents that failed: {failed})" if failed else why


def _is_failing(instance: InstanceView) -> bool:
    """Down, or on its way up again after it was down."""
    look = look_of(instance)[0]
    again = look in ("starting", "waiting") and bool(_extra(instance, "last_exit"))
    return look in ("bad", "lost") or again


def _deployment_state(app: AppView) -> str:
    deployment = _extra(app, "deployment")
    if isinstance(deployment, Mapping):
        return str(deployment.get("state", ""))
    return str(_extra(app, "deployment_state") or "")


def _extra(view: AppView | InstanceView | NodeView, name: str) -> Any:
    return (view.model_extra or {}).get(name)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
