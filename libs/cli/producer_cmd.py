"""`gantry producer`: public keys of programs that ask for deployments by event."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from libs.cli.context import context_of
from libs.cli.output import Column, time_of
from libs.client.model import NewProducerKey
from libs.common.errors import InvalidInput
from libs.common.problems import invalid

producer = typer.Typer(help="Producers of signed requests.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(producer, name="producer")


@producer.command()
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="who signs, such as ci")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="its public Ed25519 key, PEM")],
) -> None:
    """Register a public key for the business unit of --bu. One of several: replace them one by one."""
    context = context_of(ctx)
    if not context.settings.bu:
        raise InvalidInput.of("--bu", "is missing", "the business unit the producer belongs to")
    try:
        text = file.read_text()
        wanted = NewProducerKey(bu=context.settings.bu, producer=name, public_key=text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput.of(str(file), f"can't be read: {type(error).__name__}") from None
    except ValidationError as error:
        raise invalid(error) from None
    made = context.ask(lambda client: client.add_producer_key(wanted))
    if context.printer.is_json:
        context.printer.json(made)
    context.printer.note(f"a key of {made.producer} in {made.bu}; it signs with kid")
    context.printer.say(made.id)


@producer.command("ls")
def list_keys(ctx: typer.Context) -> None:
    """All producers' keys."""
    context = context_of(ctx)
    answer = context.ask(lambda client: client.producer_keys())
    columns = (
        Column("ID", lambda k: k.id),
        Column("BU", lambda k: k.bu),
        Column("PRODUCER", lambda k: k.producer),
        Column("CREATED", lambda k: time_of(k.created_at)),
        Column("BY", lambda k: k.created_by, wide=True),
    )
    context.printer.rows(answer, answer.keys, columns, "no producers")


@producer.command("rm")
def remove(ctx: typer.Context, key: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Remove a key; what it signs is refused from then on."""
    context = context_of(ctx)
    gone = context.ask(lambda client: client.remove_producer_key(key))
    context.printer.tell(gone, f"{gone.id}: removed")
