"""`gantry network` and `gantry pool`: which addresses there are, for whom, and how much of them is used."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from pydantic import ValidationError

from libs.cli.address_map import draw
from libs.cli.context import context_of
from libs.cli.output import Column, Printer
from libs.client import GantryClient
from libs.client.addressmap import MAX_CELLS, MOST, block_size, distance, extent, moved
from libs.client.networks import (
    AddressMap,
    NetworkBody,
    NetworkView,
    PoolBody,
    PoolView,
)
from libs.common.errors import InvalidInput, NotFound
from libs.common.problems import invalid
from libs.common.spec import Strict

BodyT = TypeVar("BodyT", bound=Strict)
network = typer.Typer(help="Networks (VLANs) and their use.", no_args_is_help=True)
pool = typer.Typer(help="Pools of addresses in networks.", no_args_is_help=True)
MAX_BYTES = 1_000_000
MAX_ANSWERS = 50  # of a map that is told in parts

Network = Annotated[str, typer.Argument(metavar="NETWORK")]
Pool = Annotated[str, typer.Argument(metavar="POOL")]
IfMatch = Annotated[str, typer.Option("--if-match", help="only over what has this ETag")]
Gateway = Annotated[str | None, typer.Option(help="the routers' address in it")]
Excluded = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="never give out: an address, or FIRST-LAST; repeat it for more"),
]
Unit = Annotated[
    list[str] | None, typer.Option("--unit", help="for this business unit only; repeat it for more")
]
Environment = Annotated[
    list[str] | None, typer.Option("--environment", help="for this environment only; repeatable")
]
Zone = Annotated[str | None, typer.Option(help="for this zone only")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(network, name="network")
    app.add_typer(pool, name="pool")
    app.command("networks")(networks)


# -- networks --------------------------------------------------------------------------------------


def networks(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[NETWORK]", help="this one only")] = "",
) -> None:
    """Networks and their addresses; the same as `network ls` and `network show`."""
    if name:
        show_network(ctx, name)
    else:
        list_networks(ctx)


@network.command("ls")
def list_networks(ctx: typer.Context) -> None:
    """All networks that your business unit may use; of one with both families, what the scarcer one has."""
    context = context_of(ctx)
    answer = context.ask(lambda client: client.addressing.networks())
    columns = (
        Column("NETWORK", lambda n: n.network),
        Column("VLAN", lambda n: n.vlan, right=True),
        Column("POOLS", lambda n: ", ".join(each.cidr for each in n.pools)),
        Column("ZONE", lambda n: n.zone, wide=True),
        Column("USABLE", lambda n: _count(scarcest(n).usable), right=True),
        Column("ALLOCATED", lambda n: _count(scarcest(n).allocated), right=True),
        Column("FREE", lambda n: _count(scarcest(n).free), right=True),
        Column("USED", lambda n: used(scarcest(n)), right=True),
        Column("OTHERS", lambda n: others(scarcest(n)), wide=True),
        Column("UNITS", lambda n: ", ".join(n.bus) or "all"),
    )
    context.printer.rows(answer, answer.networks, columns, "no networks")


@network.command("show")
def show_network(ctx: typer.Context, name: Network) -> None:
    """One network and its pools."""
    context = context_of(ctx)
    view, etag = context.ask(lambda client: client.addressing.network(name))
    if context.printer.is_json:
        context.printer.json(view)
        return
    _show(context.printer, view, etag)


def _show(printer: Printer, view: NetworkView, etag: str) -> None:
    lines: dict[str, Any] = {
        "network": view.network,
        "vlan": view.vlan,
        "mtu": view.mtu,
        "zone": view.zone or "all",
        "units": ", ".join(view.bus) or "all",
        "environments": ", ".join(view.environments) or "all",
        "defined by": "the configuration" if view.fixed else "the API",
        "etag": etag,
    }
    for name, value in lines.items():
        if value not in (None, ""):
            printer.say(f"{name:<14}{value}")
    printer.rows(view, view.pools, _POOL_COLUMNS, "no pools")


_POOL_COLUMNS = (
    Column("POOL", lambda p: p.pool),
    Column("CIDR", lambda p: p.cidr),
    Column("GATEWAY", lambda p: p.gateway),
    Column("PRIORITY", lambda p: p.priority, right=True, wide=True),
    Column("ZONE", lambda p: p.zone, wide=True),
    Column("UNITS", lambda p: ", ".join(p.bus), wide=True),
    Column("USABLE", lambda p: _count(p.usable), right=True),
    Column("ALLOCATED", lambda p: _count(p.allocated), right=True),
    Column("FREE", lambda p: _count(p.free), right=True),
    Column("USED", lambda p: used(p), right=True),
    Column("OTHERS", lambda p: others(p)),
)


@network.command("put")
def put_network(
    ctx: typer.Context,
    name: Network,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="the network in YAML, instead of options")
    ] = None,
    vlan: Annotated[int | None, typer.Option(help="1 to 4094; of no other network")] = None,
    cidr: Annotated[str | None, typer.Option(help="IPv4 addresses, the pool `default`")] = None,
    gateway: Gateway = None,
    cidr6: Annotated[str | None, typer.Option(help="IPv6 addresses, the pool `default6`")] = None,
    gateway6: Annotated[str | None, typer.Option(help="the same for IPv6")] = None,
    exclude: Excluded = None,
    mtu: Annotated[int | None, typer.Option()] = None,
    unit: Unit = None,
    environment: Environment = None,
    zone: Zone = None,
    if_match: IfMatch = "",
) -> None:
    """Make a network, or write it anew as a whole: what is not given is not kept. Change single pools by `pool put`."""
    context = context_of(ctx)
    options = {
        "vlan": vlan,
        "cidr": cidr,
        "gateway": gateway,
        "cidr6": cidr6,
        "gateway6": gateway6,
        "mtu": mtu,
        "zone": zone,
        "excluded": exclude,
        "bus": unit,
        "environments": environment,
    }
    given = {key: value for key, value in options.items() if value}
    if file is not None and given:
        raise InvalidInput.of("--file", "has it all", "no other options about the network")
    body = checked(NetworkBody, given if file is None else _read(file))
    made = context.ask(lambda c: c.addressing.put_network(name, body, if_match=if_match))
    context.printer.tell(made, f"{name}: version {made.version}")


@network.command("rm")
def remove_network(ctx: typer.Context, name: Network, if_match: IfMatch = "") -> None:
    """Remove a network that nobody uses."""
    context = context_of(ctx)
    gone = context.ask(lambda c: c.addressing.remove_network(name, if_match=if_match))
    context.printer.tell(gone, f"{name}: removed")


# -- pools -----------------------------------------------------------------------------------------


@pool.command("put")
def put_pool(
    ctx: typer.Context,
    network_name: Network,
    name: Pool,
    cidr: Annotated[str, typer.Option(help="its addresses, of one family")],
    gateway: Gateway = None,
    exclude: Excluded = None,
    priority: Annotated[int | None, typer.Option(help="the highest is used up first")] = None,
    unit: Unit = None,
    environment: Environment = None,
    zone: Zone = None,
    if_match: IfMatch = "",
) -> None:
    """Make a pool, or write it anew as a whole: what is not given is not kept."""
    context = context_of(ctx)
    options = {
        "cidr": cidr,
        "gateway": gateway,
        "priority": priority,
        "zone": zone,
        "excluded": exclude,
        "bus": unit,
        "environments": environment,
    }
    body = checked(PoolBody, {key: value for key, value in options.items() if value is not None})
    made = context.ask(lambda c: c.addressing.put_pool(network_name, name, body, if_match=if_match))
    context.printer.tell(made, f"{network_name}/{name}: {cidr}")


@pool.command("rm")
def remove_pool(
    ctx: typer.Context, network_name: Network, name: Pool, if_match: IfMatch = ""
) -> None:
    """Remove a pool that nobody uses."""
    context = context_of(ctx)
    gone = context.ask(lambda c: c.addressing.remove_pool(network_name, name, if_match=if_match))
    context.printer.tell(gone, f"{network_name}/{name}: removed")


@pool.command("map")
def map_pool(
    ctx: typer.Context,
    network_name: Network,
    name: Annotated[str, typer.Argument(metavar="[POOL]", help="by default the first one")] = "",
    first: Annotated[str, typer.Option("--from", help="the first address")] = "",
    count: Annotated[int | None, typer.Option(min=1, help="so many addresses; else all")] = None,
) -> None:
    """A pool's addresses as a map: a character an address, or a block of them when there are many."""
    context = context_of(ctx)

    async def ask(client: GantryClient) -> tuple[PoolView, AddressMap]:
        view, _ = await client.addressing.network(network_name)
        found = _pool_of(view, name)
        names = context.printer.is_json
        return found, await whole_map(client, network_name, found, first, count, names=names)

    found, told = context.ask(ask)
    if context.printer.is_json:
        context.printer.json(told)
        return
    for line in draw(told, found.gateway or ""):
        context.printer.out.print(line)


def _pool_of(view: NetworkView, name: str) -> PoolView:
    for each in view.pools:
        if name in ("", each.pool):
            return each
    known = ", ".join(each.pool for each in view.pools) or "none"
    raise NotFound(f"there is no pool {name!r} in {view.network}; there are: {known}")


async def whole_map(
    client: GantryClient,
    network_name: str,
    found: PoolView,
    first: str,
    count: int | None,
    *,
    names: bool,
) -> AddressMap:
    """A range of a pool, however many answers it takes (but MAX_ANSWERS); by default all of it, or its beginning.

    Without `names` whose the addresses are is told only as far as each has a character of its own.
    """
    begin, size = extent(found.cidr)
    begin, count = first or begin, count or (size if size <= MOST else MAX_CELLS)
    states = not names and block_size(count) > 1
    ask = partial(client.addressing.map, network_name, found.pool, states=states)
    told = await ask(first=begin, count=count)
    spans, rest, last = list(told.spans), told.next, moved(told.first, told.count - 1)
    for _ in range(MAX_ANSWERS):
        if not rest:
            break
        more = await ask(first=rest, count=distance(rest, last) + 1)
        spans += more.spans
        rest = more.next
    return told.model_copy(update={"spans": tuple(spans), "next": rest})


# -- parts -----------------------------------------------------------------------------------------


def checked(kind: type[BodyT], given: Any) -> BodyT:
    """What is sent. Raises InvalidInput naming the field, as the server would."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise invalid(error) from None


def _read(file: Path) -> Any:
    try:
        with file.open() as opened:
            content = yaml.safe_load(opened.read(MAX_BYTES))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput.of(str(file), f"can't be read: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput.of(str(file), "is not a mapping", "a network's fields, such as `vlan`")
    return content


def _count(value: int) -> str:
    """A number of addresses; those of IPv6 are beyond what anybody counts."""
    return f"{value:,}" if value < 10**9 else f"{value:.1e}"


def scarcest(view: NetworkView) -> PoolView:
    """What all pools of a family have together; of the family that has fewer free, as each instance needs both."""
    families: dict[bool, list[PoolView]] = {}
    for each in view.pools:
        families.setdefault(":" in each.cidr, []).append(each)
    names = ("usable", "free", "allocated", "held", "cooling", "quarantined", "reserved")
    sums = [
        PoolView(pool="", **{name: sum(getattr(each, name) for each in pools) for name in names})
        for pools in families.values()
    ]
    return min(sums, key=lambda each: each.free, default=PoolView(pool=""))


def used(view: PoolView) -> str:
    """The share that nobody could get."""
    return f"{100 * (view.usable - view.free) / view.usable:.0f} %" if view.usable else "-"


def others(view: PoolView) -> str:
    """What is neither free nor allocated."""
    names = ("held", "cooling", "quarantined", "reserved")
    counts = {name: getattr(view, name) for name in names}
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
