"""`gantry rollout`: the deployment of an app that is, or was last, in progress."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from libs.cli.apps_cmd import AppArgument, TimeOut, place_now
from libs.cli.context import Context, context_of
from libs.cli.output import Column, Printer, time_of
from libs.cli.watch import verdict, watch
from libs.client import GantryClient
from libs.client.api import ENDED
from libs.client.model import DeploymentView
from libs.common.errors import NotFound, Unavailable

rollout = typer.Typer(
    help="An app's deployments: how they go, and holding them.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(rollout, name="rollout")


async def newest(client: GantryClient, app: str) -> DeploymentView:
    """The app's newest deployment. Raises NotFound, Unavailable where its owner does not say how it stands."""
    answer = await client.deployments(app, limit=1)
    known = answer.deployments[0] if answer.deployments else None
    if answer.incomplete and (known is None or known.state == "accepted"):
        raise Unavailable(
            f"how {app} stands is not known: no answer from {', '.join(answer.incomplete)}"
        )
    if known is None:
        raise NotFound(f"{app} has no deployments")
    return known


@rollout.command()
def status(
    ctx: typer.Context,
    app: AppArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="until it has ended")] = False,
    timeout: TimeOut = None,
) -> None:
    """How the newest deployment goes; with --follow, exit 1 if it ends badly."""
    context = context_of(ctx)
    name = context.settings.app(app)

    async def run(client: GantryClient) -> DeploymentView:
        place = await place_now(client, context.printer, name) if follow else None
        view = await newest(client, name)
        if not follow or view.state in ENDED:
            return view
        return await watch(client, context.printer, name, view.deployment, place, timeout)

    view = context.ask(run)
    show(context.printer, view)
    if follow:
        verdict(view)


@rollout.command()
def history(ctx: typer.Context, app: AppArgument) -> None:
    """All deployments, newest first."""
    context = context_of(ctx)
    name = context.settings.app(app)
    answer = context.ask(lambda client: client.deployments(name))
    columns = (
        Column("DEPLOYMENT", lambda d: d.deployment),
        Column("ACTION", lambda d: d.action),
        Column("RELEASE", lambda d: d.release, right=True),
        Column("STATE", lambda d: d.state),
        Column("CREATED", lambda d: time_of((d.model_extra or {}).get("created_at"))),
        Column("BY", lambda d: (d.model_extra or {}).get("actor")),
        Column("REASON", lambda d: d.reason),
    )
    context.printer.rows(answer, answer.deployments, columns, "no deployments")


@rollout.command()
def pause(ctx: typer.Context, app: AppArgument) -> None:
    """Hold it where it stands."""
    _change(context_of(ctx), app, lambda client, deployment: client.pause(deployment))


@rollout.command()
def resume(ctx: typer.Context, app: AppArgument) -> None:
    """Let it go on."""
    _change(context_of(ctx), app, lambda client, deployment: client.resume(deployment))


@rollout.command()
def abort(ctx: typer.Context, app: AppArgument) -> None:
    """Go back to what was there before; one that is on its way back already ends as it stands."""
    _change(context_of(ctx), app, lambda client, deployment: client.abort(deployment))


def _change(
    context: Context, app: str, verb: Callable[[GantryClient, str], Awaitable[DeploymentView]]
) -> None:
    name = context.settings.app(app)

    async def run(client: GantryClient) -> DeploymentView:
        return await verb(client, (await newest(client, name)).deployment)

    show(context.printer, context.ask(run))


def show(printer: Printer, view: DeploymentView) -> None:
    """A deployment in a few lines."""
    if printer.is_json:
        printer.json(view)
        return
    printer.say(f"deployment  {view.deployment}")
    printer.say(f"app         {view.app}")
    printer.say(f"action      {view.action}")
    printer.say(f"state       {view.state}")
    if view.release is not None:
        printer.say(f"release     {view.release}")
    if view.counts:
        counts = ", ".join(f"{value} {name}" for name, value in view.counts.items() if value)
        printer.say(f"instances   {counts or 'none'}")
    if view.break_glass:
        printer.say(f"break glass {view.break_glass}")
    if view.reason:
        printer.say(f"reason      {view.reason}")
