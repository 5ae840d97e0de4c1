"""`gantry secret`: files of secrets and host keys, replaced without stopping anybody. They need no server."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from libs.cli.context import context_of
from libs.cli.output import time_of
from libs.common.clock import SystemClock
from libs.common.errors import InvalidInput
from libs.common.http import Kind
from libs.common.keys import (
    fingerprint,
    prepend_secret,
    read_secrets,
    retire_secret,
    write_private,
    write_secrets,
)
from libs.common.tokens import derive_key, scraper_token

secret = typer.Typer(
    help="The cluster's secret and the hosts' keys, on this machine.", no_args_is_help=True
)
T = TypeVar("T")
File = Annotated[Path, typer.Argument(metavar="FILE", help="the file of secrets, newest first")]
Generation = Annotated[
    int, typer.Option(min=0, help="of the host's key, as `gantry host ls` shows it")
]
DAY_S = 86_400.0
SCRAPER_DAYS, MAX_SCRAPER_DAYS = 90.0, 730.0
SCRAPER = re.compile(r"[A-Za-z0-9._-]{1,60}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(secret, name="secret")


def _scraper_name(name: str) -> str:
    if not SCRAPER.fullmatch(name):
        raise InvalidInput.of("NAME", f"{name!r} is none", "letters, digits, '.', '_' and '-'")
    return name


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
    generation: Generation = 0,
) -> None:
    """Write the host's own keys, one a secret of the cluster."""

    def write() -> tuple[bytes, ...]:
        secrets = read_secrets(file)
        return write_secrets(to, [derive_key(s, Kind.HOST, host, generation) for s in secrets])

    _show(ctx, to, _run(to, write))


@secret.command("scraper-token")
def make_scraper_token(
    ctx: typer.Context,
    file: File,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="who scrapes", callback=_scraper_name)
    ],
    to: Annotated[Path, typer.Argument(metavar="OUT", help="where the scraper reads it")],
    days: Annotated[float, typer.Option(min=0.01, max=MAX_SCRAPER_DAYS)] = SCRAPER_DAYS,
    host: Annotated[str, typer.Option(help="for the hostd of this host; else for services")] = "",
    generation: Generation = 0,
) -> None:
    """Write a token that may GET /metrics and nothing else, until a date. Nothing but a new secret ends it earlier."""
    now = SystemClock().now()
    until = now + days * DAY_S

    def write() -> None:
        newest = read_secrets(file)[0]
        key = derive_key(newest, Kind.HOST, host, generation) if host else newest
        write_private(to, scraper_token(key, name, now, until) + "\n")

    _run(to, write)
    printer = context_of(ctx).printer
    printer.tell({"file": str(to), "expires_at": until}, f"{to}: good until {time_of(until)}")


def _run(file: Path, what: Callable[[], T]) -> T:
    try:
        return what()
    except OSError as error:
        raise InvalidInput.of(str(file), f"can't be used: {error.strerror}") from None


def _show(ctx: typer.Context, file: Path, secrets: tuple[bytes, ...]) -> None:
    printer = context_of(ctx).printer
    prints = [fingerprint(each) for each in secrets]
    printer.tell({"file": str(file), "fingerprints": prints}, f"{file}: {', '.join(prints)}")
