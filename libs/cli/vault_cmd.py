"""`gantry bu-secret` and `gantry bu-registry`: what a business unit's instances are given, and its registry logins.

Values are read from a file or from standard input, never from the command line, which others can see.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from libs.cli.context import Context, context_of
from libs.cli.output import Column, time_of
from libs.client.vault import MAX_VALUE_BYTES, RegistryLogin
from libs.common.errors import InvalidInput
from libs.common.problems import invalid

secret = typer.Typer(help="Secrets of the business unit of --bu.", no_args_is_help=True)
registry = typer.Typer(help="Registry logins of the business unit of --bu.", no_args_is_help=True)
STDIN = Path("-")
Source = Annotated[
    Path,
    typer.Argument(metavar="[FILE]", help="has the value, as it is; - or none: standard input"),
]
Name = Annotated[str, typer.Argument(metavar="NAME")]
Host = Annotated[str, typer.Argument(metavar="HOST", help="as images name it: host[:port]")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(secret, name="bu-secret")
    app.add_typer(registry, name="bu-registry")


@secret.command("put")
def put_secret(ctx: typer.Context, name: Name, file: Source = STDIN) -> None:
    """Write a secret's value. Instances that start from now on get it; `gantry restart` makes all of an app's new."""
    context, bu = _context(ctx)
    value = _read(file)
    if value.endswith(b"\n") and value.count(b"\n") == 1:
        context.printer.note("the value ends with a line break, which is kept")
    made = context.ask(lambda client: client.vault.put_secret(bu, name, value))
    context.printer.tell(made, f"{made.bu}/{made.name}: version {made.version}")


@secret.command("ls")
def list_secrets(ctx: typer.Context) -> None:
    """All secrets, without their values."""
    context, bu = _context(ctx)
    answer = context.ask(lambda client: client.vault.secrets(bu))
    columns = (
        Column("NAME", lambda s: s.name),
        Column("VERSION", lambda s: str(s.version)),
        Column("UPDATED", lambda s: time_of(s.updated_at)),
        Column("BY", lambda s: s.updated_by, wide=True),
    )
    context.printer.rows(answer, answer.secrets, columns, "no secrets")


@secret.command("rm")
def remove_secret(
    ctx: typer.Context,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="even while apps name it")] = False,
) -> None:
    """Forget a secret. What runs keeps its value; what names it can't start any more."""
    context, bu = _context(ctx)
    gone = context.ask(lambda client: client.vault.remove_secret(bu, name, force=force))
    context.printer.tell(gone, f"{gone.bu}/{gone.name}: removed")


@registry.command("put")
def put_registry(
    ctx: typer.Context,
    host: Host,
    user: Annotated[str, typer.Argument(metavar="USER")],
    file: Source = STDIN,
) -> None:
    """Write the login at a registry; the password's last line break is not part of it."""
    context, bu = _context(ctx)
    try:
        password = _read(file).decode().removesuffix("\n").removesuffix("\r")
        login = RegistryLogin(user=user, password=password)
    except UnicodeDecodeError:
        raise InvalidInput.of("password", "is not text") from None
    except ValidationError as error:
        raise invalid(error) from None
    made = context.ask(lambda client: client.vault.put_registry(bu, host, login))
    context.printer.tell(made, f"{made.bu}: {made.user} at {made.registry}, version {made.version}")


@registry.command("ls")
def list_registries(ctx: typer.Context) -> None:
    """All logins, without their passwords."""
    context, bu = _context(ctx)
    answer = context.ask(lambda client: client.vault.registries(bu))
    columns = (
        Column("REGISTRY", lambda r: r.registry),
        Column("USER", lambda r: r.user),
        Column("VERSION", lambda r: str(r.version)),
        Column("UPDATED", lambda r: time_of(r.updated_at)),
        Column("BY", lambda r: r.updated_by, wide=True),
    )
    context.printer.rows(answer, answer.registries, columns, "no logins")


@registry.command("rm")
def remove_registry(ctx: typer.Context, host: Host) -> None:
    """Forget the login at a registry."""
    context, bu = _context(ctx)
    gone = context.ask(lambda client: client.vault.remove_registry(bu, host))
    context.printer.tell(gone, f"{gone.bu}: login at {gone.registry} removed")


def _context(ctx: typer.Context) -> tuple[Context, str]:
    context = context_of(ctx)
    if not context.settings.bu:
        raise InvalidInput.of("--bu", "is missing", "the business unit")
    return context, context.settings.bu


def _read(file: Path) -> bytes:
    """The value. Raises InvalidInput when there is none, or too much."""
    if file == STDIN and sys.stdin.isatty():
        value = getpass.getpass("value: ").encode()
    elif file == STDIN:
        value = sys.stdin.buffer.read(MAX_VALUE_BYTES + 1)
    else:
        try:
            with file.open("rb") as opened:
                value = opened.read(MAX_VALUE_BYTES + 1)
        except OSError as error:
            raise InvalidInput.of(str(file), f"can't be read: {error.strerror}") from None
    if not 1 <= len(value) <= MAX_VALUE_BYTES:
        raise InvalidInput.of(str(file), "can't be a value", f"1 to {MAX_VALUE_BYTES} bytes")
    return value
