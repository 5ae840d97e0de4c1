"""`gantry node`: hosts are closed for maintenance, emptied, and opened again."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError

from libs.cli.context import Context, context_of
from libs.cli.host_cmd import seconds
from libs.cli.output import time_of
from libs.client.maintenance import Cordon, Drain, NodeDoor
from libs.common.problems import invalid

node = typer.Typer(help="Hosts: cordon, drain, open again.", no_args_is_help=True)

Host = Annotated[str, typer.Argument(metavar="HOST", help="as `gantry nodes` shows it")]
Reason = Annotated[str, typer.Option(help="why, for those who look at the host")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(node, name="node")


@node.command()
def drain(
    ctx: typer.Context,
    host: Host,
    deadline: Annotated[str, typer.Option(help="when it should be empty: 30m, 2h, 1d")] = "",
    force: Annotated[
        bool, typer.Option(help="at the deadline, stop what is left without regard to budgets")
    ] = False,
    reason: Reason = "",
) -> None:
    """Place nothing new there, and move its instances as their apps can spare them; see `gantry nodes`."""
    context = context_of(ctx)
    try:
        after_s = seconds(deadline, "--deadline") if deadline else 0.0
        wanted = Drain(reason=reason, deadline_s=after_s, force=force)
    except ValidationError as error:
        raise invalid(error) from None
    _tell(context, context.ask(lambda client: client.maintenance.drain(host, wanted)))


@node.command()
def cordon(ctx: typer.Context, host: Host, reason: Reason = "") -> None:
    """Place nothing new there; who is there stays."""
    context = context_of(ctx)
    wanted = Cordon(reason=reason)
    _tell(context, context.ask(lambda client: client.maintenance.cordon(host, wanted)))


@node.command()
def undrain(ctx: typer.Context, host: Host) -> None:
    """Open it again, cordoned or drained; who has yet to move stays."""
    context = context_of(ctx)
    _tell(context, context.ask(lambda client: client.maintenance.undrain(host)))


def _tell(context: Context, door: NodeDoor) -> None:
    left = ", ".join(f"{count} of {app}" for app, count in door.left.items())
    text = f"{door.hostname}: {door.door}"
    if door.deadline_at is not None:
        text += f", until {time_of(door.deadline_at)}" + (", then by force" if door.force else "")
    if door.door == "draining":
        text += f"; left: {left}" if left else "; nothing is left"
    context.printer.tell(door, text)
