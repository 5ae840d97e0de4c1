"""`gantry keys`: API keys; and `gantry audit`, who asked what."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError

from libs.cli.context import context_of
from libs.cli.output import Column, time_of
from libs.client.model import NewKey, Role
from libs.common.errors import InvalidInput
from libs.common.problems import invalid

keys = typer.Typer(help="API keys.", no_args_is_help=True)
DAY_S = 86_400.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(keys, name="keys")
    app.command()(audit)


@keys.command()
def create(
    ctx: typer.Context,
    role: Annotated[Role, typer.Option(help="what it may do")] = Role.VIEWER,
    label: Annotated[str, typer.Option(help="who or what holds it")] = "",
    days: Annotated[float | None, typer.Option(min=0.001, help="how long it is good for")] = None,
) -> None:
    """Make a key for the business unit of --bu ('*': for all). It is shown once."""
    context = context_of(ctx)
    if not context.settings.bu:
        raise InvalidInput.of("--bu", "is missing", "the business unit the key is for, or '*'")
    try:
        wanted = NewKey(
            bu=context.settings.bu,
            role=role,
            label=label,
            ttl_s=None if days is None else days * DAY_S,
        )
    except ValidationError as error:
        raise invalid(error) from None
    made = context.ask(lambda client: client.create_key(wanted))
    if context.printer.is_json:
        context.printer.json(made)
    context.printer.note(f"a key for {made.bu}, {made.role}; it is not shown again")
    context.printer.say(made.key)


@keys.command("ls")
def list_keys(ctx: typer.Context) -> None:
    """All keys, without their secrets."""
    context = context_of(ctx)
    answer = context.ask(lambda client: client.keys())
    columns = (
        Column("ID", lambda k: k.id),
        Column("BU", lambda k: k.bu),
        Column("ROLE", lambda k: k.role),
        Column("LABEL", lambda k: k.label),
        Column("CREATED", lambda k: time_of(k.created_at)),
        Column("BY", lambda k: k.created_by, wide=True),
        Column("EXPIRES", lambda k: time_of(k.expires_at)),
        Column("REVOKED", lambda k: time_of(k.revoked_at)),
    )
    context.printer.rows(answer, answer.keys, columns, "no keys")


@keys.command()
def revoke(ctx: typer.Context, key: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Revoke a key."""
    context = context_of(ctx)
    gone = context.ask(lambda client: client.revoke_key(key))
    context.printer.tell(gone, f"{gone.id}: revoked")


def audit(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    before: Annotated[str, typer.Option(help="`next` of the page before, in -o json")] = "",
) -> None:
    """Who asked what, newest first."""
    context = context_of(ctx)
    answer = context.ask(lambda client: client.audit(limit=limit, before=before))
    columns = (
        Column("TIME", lambda e: time_of(e.time)),
        Column("ACTOR", lambda e: e.actor),
        Column("ACTION", lambda e: e.action),
        Column("TARGET", lambda e: e.target),
        Column("ALLOWED", lambda e: "yes" if e.allowed else "no"),
        Column("REQUEST", lambda e: e.request_id, wide=True),
        Column("DETAIL", lambda e: e.detail),
    )
    context.printer.rows(answer, answer.entries, columns, "nothing recorded")
