"""`gantry scheduler`: how it stands with Mesos, and the way back after Mesos has removed its framework."""

from __future__ import annotations

import typer

from libs.cli.context import Context, context_of
from libs.cli.exits import Exit
from libs.client.scheduling import SchedulerStatus

scheduler = typer.Typer(help="The scheduler and Mesos.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(scheduler, name="scheduler")


@scheduler.command()
def show(ctx: typer.Context) -> None:
    """Is it subscribed, and as which framework. Ends with 1 when it is not."""
    context = context_of(ctx)
    seen = context.ask(lambda client: client.scheduling.status())
    _say(context, seen)
    if not seen.subscribed:
        raise typer.Exit(Exit.FAILED)


@scheduler.command()
def reregister(ctx: typer.Context) -> None:
    """Begin as a new framework, once Mesos has removed the old one and killed its tasks: all is placed anew."""
    context = context_of(ctx)
    _say(context, context.ask(lambda client: client.scheduling.reregister()))


def _say(context: Context, seen: SchedulerStatus) -> None:
    printer = context.printer
    if printer.is_json:
        printer.json(seen)
        return
    state = "subscribed" if seen.subscribed else "not subscribed"
    printer.say(f"{state}, framework {seen.framework or 'to be given by Mesos'}")
    if seen.alarm:
        printer.say(f"alarm: {seen.alarm}")
    if seen.removed:
        printer.say(
            "Mesos has killed all its tasks; `gantry scheduler reregister` places them anew"
        )
