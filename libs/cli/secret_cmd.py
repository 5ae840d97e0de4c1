"""`gantry secret`: files of secrets and host keys, replaced without stopping anybody. They need no server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from libs.cli.context import context_of
from libs.common.errors import InvalidInput
from libs.common.http import Kind
from libs.common.keys import (
    fingerprint,
    prepend_secret,
    read_secrets,
    retire_secret,
    write_secrets,
)
from libs.common.tokens import derive_key

secret = typer.Typer(
    help="The cluster's secret and the hosts' keys, on this machine.", no_args_is_help=True
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="the file of secrets, newest first")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(secret, name="secret")


@secret.command("add")
def add(ctx: typer.Context, file: File) -> None:
    """Put a new secret before those of the file; it is made when there is none."""
    _show(ctx, file, _run(file, lambda: prepend_secret(file)))


@secret.command("retire")
def retire(ctx: typer.Context, file: File) -> None:
    """Remove the oldest secret, once every party has the new one."""
    _show(ctx, file, _run(file, lambda: retire_secret(file)))


@secret.command("ls")
def list_secrets(ctx: typer.Context, file: File) -> None:
    """Fingerprints, as services log them when they take the file up."""
    _show(ctx, file, _run(file, lambda: read_secrets(file)))


@secret.command("host-key")
def host_key(
    ctx: typer.Context,
    file: File,
    host: Annotated[str, typer.Argument(metavar="HOST", help="as in the host's `hostd.host`")],
    to: Annotated[Path, typer.Argument(metavar="OUT", help="the host's `hostd.host_key_file`")],
) -> None:
    """Write the host's own keys, one a secret of the cluster."""

    def write() -> tuple[bytes, ...]:
        return write_secrets(to, [derive_key(each, Kind.HOST, host) for each in read_secrets(file)])

    _show(ctx, to, _run(to, write))


def _run(file: Path, what: Callable[[], tuple[bytes, ...]]) -> tuple[bytes, ...]:
    try:
        return what()
    except OSError as error:
        raise InvalidInput.of(str(file), f"can't be used: {error.strerror}") from None


def _show(ctx: typer.Context, file: Path, secrets: tuple[bytes, ...]) -> None:
    printer = context_of(ctx).printer
    prints = [fingerprint(each) for each in secrets]
    if printer.is_json:
        printer.json({"file": str(file), "fingerprints": prints})
    printer.say(f"{file}: {', '.join(prints)}")
