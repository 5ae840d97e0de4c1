"""Commands that need no server: validate, version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Annotated

import typer

from libs.cli import spec_file
from libs.cli.context import context_of


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(validate)
    app.command()(version)


def validate(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="an app file, or '-'")],
) -> None:
    """Check an app file, without a server. -o json prints the spec with its defaults."""
    context = context_of(ctx)
    found = spec_file.read(file, context.settings.bu)
    if context.printer.is_json:
        spec = found.spec.model_dump(mode="json", by_alias=True)
        context.printer.json({"app": found.app, "spec": spec})
    context.printer.say(f"{found.app}: good")


def version(ctx: typer.Context) -> None:
    """This command's version."""
    context = context_of(ctx)
    try:
        number = installed("gantry")
    except PackageNotFoundError:
        number = "unknown"
    context.printer.tell({"version": number}, f"gantry {number}")
