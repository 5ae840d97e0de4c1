"""`gantry breaker`: tasks that nobody knows, and what to do with them."""

from __future__ import annotations

import typer

from libs.cli.context import Context, context_of
from libs.client.model import Breaker

breaker = typer.Typer(help="Unknown tasks held back by the scheduler.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(breaker, name="breaker")


@breaker.command()
def show(ctx: typer.Context) -> None:
    """Is it open, and which tasks does it hold back."""
    context = context_of(ctx)
    _say(context, context.ask(lambda client: client.breaker()))


@breaker.command()
def release(ctx: typer.Context) -> None:
    """Have the unknown tasks killed. Look first: after a restore they may be your whole fleet."""
    context = context_of(ctx)
    _say(context, context.ask(lambda client: client.release_breaker()))


def _say(context: Context, seen: Breaker) -> None:
    printer = context.printer
    if printer.is_json:
        printer.json(seen)
        return
    state = "open" if seen.open else "closed"
    printer.say(f"the breaker is {state}; {len(seen.unknown_tasks)} unknown tasks")
    for task in seen.unknown_tasks:
        printer.say(f"  {task}")
