"""`gantry address` and `gantry quota`: who has and had which address, what is kept for whom, how many one may have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from libs.cli.context import context_of
from libs.cli.network_cmd import IfMatch, Network, checked
from libs.cli.output import Column, time_of
from libs.client.networks import STATES, AddressView, QuotaBody, QuotaView, ReservationBody
from libs.common.errors import InvalidInput

address = typer.Typer(help="Addresses: who has them, who had them.", no_args_is_help=True)
quota = typer.Typer(help="How many addresses business units may have.", no_args_is_help=True)

Address = Annotated[str, typer.Argument(metavar="ADDRESS")]
Name = Annotated[str, typer.Argument(metavar="NAME")]
Unit = Annotated[str, typer.Argument(metavar="BU")]
OfPool = Annotated[str, typer.Option("--pool", help="of this pool")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(address, name="address")
    app.add_typer(quota, name="quota")


# -- addresses -------------------------------------------------------------------------------------


@address.command("ls")
def list_addresses(
    ctx: typer.Context,
    network: Network,
    pool: OfPool = "",
    state: Annotated[str, typer.Option(help=f"one of {', '.join(STATES)}")] = "",
    unit: Annotated[str, typer.Option(help="of this business unit")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="at most so many")] = 100,
    after: Annotated[str, typer.Option(help="go on after this address")] = "",
) -> None:
    """Addresses that are in use or kept, a page of them."""
    context = context_of(ctx)
    if state not in ("", *STATES):
        raise InvalidInput.of("--state", f"{state!r} is none", ", ".join(STATES))
    answer = context.ask(
        lambda c: c.addressing.addresses(
            network, pool=pool, state=state, bu=unit, limit=limit, after=after
        )
    )
    columns = (
        Column("ADDRESS", lambda a: a.address),
        Column("POOL", lambda a: a.pool, wide=True),
        Column("STATE", lambda a: a.state),
        Column("SINCE", lambda a: time_of(a.since)),
        Column("UNTIL", lambda a: time_of(a.free_at), wide=True),
        Column("HOST", lambda a: a.host),
        Column("GENERATION", lambda a: a.generation or "", right=True, wide=True),
        Column("FOR", lambda a: whose(a)),
    )
    context.printer.rows(answer, answer.addresses, columns, "no addresses")
    if answer.next and not context.printer.is_json:
        context.printer.note(f"more: --after {answer.next}")


def whose(view: AddressView) -> str:
    """Who has it, or for whom it is kept."""
    return view.instance or view.reservation or view.bu


@address.command("show")
def show_address(ctx: typer.Context, network: Network, which: Address) -> None:
    """One address, and who had it when."""
    context = context_of(ctx)
    view = context.ask(lambda c: c.addressing.address(network, which))
    if context.printer.is_json:
        context.printer.json(view)
        return
    lines: dict[str, Any] = {
        "address": view.address,
        "state": view.state,
        "pool": view.pool,
        "for": whose(view),
        "other MAC": view.seen_mac,
        "host": view.host,
        "since": time_of(view.since),
        "until": time_of(view.free_at),
        "generation": view.generation or "",
    }
    for name, value in lines.items():
        if value:
            context.printer.say(f"{name:<12}{value}")
    columns = (
        Column("FROM", lambda t: time_of(t.since)),
        Column("UNTIL", lambda t: time_of(t.until)),
        Column("INSTANCE", lambda t: t.instance),
        Column("ATTEMPT", lambda t: t.attempt, wide=True),
        Column("HOST", lambda t: t.host),
        Column("GENERATION", lambda t: t.generation or "", right=True, wide=True),
        Column("ENDED BY", lambda t: t.why),
    )
    context.printer.rows(view, view.history, columns, "nobody that you may see has had it")


@address.command("release")
def release_address(
    ctx: typer.Context,
    network: Network,
    which: Annotated[str, typer.Argument(metavar="[ADDRESS]", show_default=False)] = "",
    gone: Annotated[str, typer.Option(help="this host is gone for good: what it has")] = "",
) -> None:
    """Free an address that is held or in quarantine, before its time; or what a host has that is gone for good."""
    context = context_of(ctx)
    if which:
        view = context.ask(lambda c: c.addressing.release_address(network, which, gone))
        context.printer.tell(view, f"{view.address}: {view.state}")
        return
    if not gone:
        raise InvalidInput.of(
            "ADDRESS", "is missing", "an address, or --gone HOST for all of that host's"
        )
    freed = context.ask(lambda c: c.addressing.release_all(network, gone))
    columns = (Column("ADDRESS", lambda a: a.address), Column("STATE", lambda a: a.state))
    context.printer.rows(freed, freed.addresses, columns, f"{gone} has none there")


@address.command("reserve")
def reserve(
    ctx: typer.Context,
    network: Network,
    name: Name,
    which: Annotated[str, typer.Option("--address", help="this one; else any")] = "",
    pool: OfPool = "",
    app: Annotated[str, typer.Option(help="of the unit of --bu this app only")] = "",
    note: Annotated[str, typer.Option(help="what for")] = "",
    if_match: IfMatch = "",
) -> None:
    """Keep an address, for the unit of --bu if there is one: specs name it by `address: {reservation: NAME}`."""
    context = context_of(ctx)
    bu = context.settings.bu
    given = {"bu": bu, "address": which, "pool": pool, "app": app, "note": note}
    body = checked(ReservationBody, {key: value for key, value in given.items() if value})
    made = context.ask(lambda c: c.addressing.reserve(network, name, body, if_match=if_match))
    context.printer.tell(made, f"{network}/{made.name}: {made.address}")


@address.command("unreserve")
def unreserve(ctx: typer.Context, network: Network, name: Name) -> None:
    """Give a reserved address back. An instance that has it keeps it."""
    context = context_of(ctx)
    gone = context.ask(lambda c: c.addressing.unreserve(network, name))
    context.printer.tell(gone, f"{network}/{name}: given back")


@address.command("reservations")
def list_reservations(ctx: typer.Context, network: Network) -> None:
    """What is kept for whom."""
    context = context_of(ctx)
    answer = context.ask(lambda c: c.addressing.reservations(network))
    columns = (
        Column("NAME", lambda r: r.name),
        Column("ADDRESS", lambda r: r.address),
        Column("STATE", lambda r: r.state),
        Column("FOR", lambda r: f"{r.bu}/{r.app}" if r.app else r.bu or "all"),
        Column("INSTANCE", lambda r: r.instance, wide=True),
        Column("NOTE", lambda r: r.note),
    )
    context.printer.rows(answer, answer.reservations, columns, "no reservations")


# -- quotas ----------------------------------------------------------------------------------------


@quota.command("ls")
def list_quotas(ctx: typer.Context) -> None:
    """Quotas and what is used of them."""
    context = context_of(ctx)
    answer = context.ask(lambda c: c.addressing.quotas())
    columns = (
        Column("BU", lambda r: r[0]),
        Column("NETWORK", lambda r: r[1]),
        Column("USED", lambda r: r[2], right=True),
        Column("LIMIT", lambda r: r[3], right=True),
    )
    rows = [row for each in answer.quotas for row in quota_rows(each)]
    context.printer.rows(answer, rows, columns, "no quotas")


def quota_rows(view: QuotaView) -> list[tuple[str, str, int, int]]:
    """A row a limit: unit, network, used, limit."""
    return [(view.bu, each.network or "all", each.used, each.limit) for each in view.limits]


@quota.command("set")
def set_quota(
    ctx: typer.Context,
    bu: Unit,
    limit: Annotated[
        int | None, typer.Argument(metavar="[LIMIT]", min=0, help="addresses over all networks")
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option("--network", help="NETWORK=LIMIT, besides; repeat it for more"),
    ] = None,
    if_match: IfMatch = "",
) -> None:
    """Write a business unit's quota as a whole: allocated, held and reserved addresses count."""
    context = context_of(ctx)
    networks: dict[str, int] = {}
    for each in network or ():
        name, found, number = each.partition("=")
        if not found or not number.isdecimal():
            raise InvalidInput.of("--network", f"{each!r} has no limit", "NETWORK=LIMIT")
        networks[name] = int(number)
    body = checked(QuotaBody, {"limit": limit, "networks": networks})
    made = context.ask(lambda c: c.addressing.put_quota(bu, body, if_match=if_match))
    shown = [f"{used} of {most} in {name}" for _, name, used, most in quota_rows(made)]
    context.printer.tell(made, f"{bu}: {', '.join(shown) or 'no limit'}")


@quota.command("rm")
def remove_quota(ctx: typer.Context, bu: Unit) -> None:
    """Let a business unit have as many addresses as there are."""
    context = context_of(ctx)
    gone = context.ask(lambda c: c.addressing.remove_quota(bu))
    context.printer.tell(gone, f"{bu}: no quota")
