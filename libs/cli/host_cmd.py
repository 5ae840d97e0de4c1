"""`gantry host`: hosts get their secrets by a one-time token, renew them, and are removed."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from libs.cli.context import Context, context_of
from libs.cli.output import Column, time_of
from libs.client.enrolment import Outcome, enrol, enrolled_as, renew
from libs.client.hostfiles import HostFiles
from libs.client.hosts import Hosts, NewHostToken
from libs.client.hosts_api import HostCalls
from libs.common.clock import SystemClock
from libs.common.errors import InvalidInput
from libs.common.problems import invalid

host = typer.Typer(help="Hosts: enrolment, keys, removal.", no_args_is_help=True)
SECRETS = Path("/etc/gantry/secrets/host")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_TOKEN_BYTES = 1000

Out = Annotated[Path, typer.Option("--out", help="the directory of this host's secrets")]
Name = Annotated[str, typer.Option(help="this host, as in its `hostd.host`; else the machine's")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(host, name="host")


# -- an admin's ------------------------------------------------------------------------------------


@host.command()
def token(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the host's `hostd.host`")],
    ttl: Annotated[str, typer.Option(help="how long it is good for: 30m, 1h, 2d")] = "1h",
) -> None:
    """Make a one-time token for a host. It is shown once."""
    context = context_of(ctx)
    try:
        wanted = NewHostToken(host=name, ttl_s=seconds(ttl, "--ttl"))
    except ValidationError as error:
        raise invalid(error) from None
    made = context.ask(lambda client: client.hosts.make_token(wanted))
    if context.printer.is_json:
        context.printer.json(made)
    until = time_of(made.expires_at)
    context.printer.note(f"for {made.host}, once, until {until}; it is not shown again")
    context.printer.say(made.token)


def seconds(text: str, option: str) -> float:
    """A duration such as 30m. Raises InvalidInput, which names the option."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise InvalidInput.of(option, f"{text!r} is no duration", "such as 30m, 1h or 2d")
    return float(found[1]) * UNITS_S[found[2]]


@dataclass(frozen=True)
class _Row:
    host: str
    token: str
    state: str
    generation: int | None
    since: float | None
    until: float | None
    by: str


@host.command("ls")
def list_hosts(ctx: typer.Context) -> None:
    """Hosts that enrolled, renewed or were removed; and their tokens."""
    context = context_of(ctx)
    answer = context.ask(lambda client: client.hosts.list())
    columns = (
        Column("HOST", lambda r: r.host),
        Column("TOKEN", lambda r: r.token),
        Column("STATE", lambda r: r.state),
        Column("GENERATION", lambda r: r.generation, right=True),
        Column("SINCE", lambda r: time_of(r.since)),
        Column("UNTIL", lambda r: time_of(r.until)),
        Column("BY", lambda r: r.by, wide=True),
    )
    context.printer.rows(answer, _rows(answer), columns, "no hosts")


def _rows(answer: Hosts) -> list[_Row]:
    """Each host, its tokens below it."""
    rows = []
    for each in answer.hosts:
        latest = [at for at in (each.enrolled_at, each.renewed_at) if at is not None]
        since = each.removed_at or max(latest, default=None)
        rows.append(_Row(each.host, "", each.state, each.generation, since, None, ""))
    for one in answer.tokens:
        since = one.revoked_at or one.used_at or one.created_at
        rows.append(_Row(one.host, one.id, one.state, None, since, one.expires_at, one.created_by))
    return sorted(rows, key=lambda row: (row.host, bool(row.token)))


@host.command()
def revoke(
    ctx: typer.Context, token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="its id")]
) -> None:
    """Revoke a token that was not used yet."""
    context = context_of(ctx)
    gone = context.ask(lambda client: client.hosts.revoke_token(token_id))
    context.printer.tell(gone, f"{gone.id}: {gone.state}")


@host.command()
def remove(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    force: Annotated[bool, typer.Option(help="also a host that has never enrolled here")] = False,
) -> None:
    """Void a host's key and tokens; a new token lets it come back, with another key."""
    context = context_of(ctx)
    gone = context.ask(lambda client: client.hosts.remove(name, force=force))
    context.printer.tell(gone, f"{gone.host}: removed")


# -- on a host -------------------------------------------------------------------------------------


@host.command("enrol")
def enrol_host(
    ctx: typer.Context,
    out: Out = SECRETS,
    name: Name = "",
    token_file: Annotated[
        Path | None, typer.Option(help="file with the token; default: standard input")
    ] = None,
) -> None:
    """Have this host's secrets, for a token. Cut off, it may be repeated with the same token."""
    text = _token(token_file)
    called = name or socket.gethostname()

    async def work(calls: HostCalls) -> Outcome:
        return await enrol(calls, text, called, HostFiles(out))

    _show(context_of(ctx), _on_host(ctx, out, work))


@host.command("renew")
def renew_host(ctx: typer.Context, out: Out = SECRETS, name: Name = "") -> None:
    """Have this host's secrets of today, by its present key: after the cluster's secret was replaced."""

    async def work(calls: HostCalls) -> Outcome:
        files = HostFiles(out)
        called = name or enrolled_as(files) or socket.gethostname()
        return await renew(calls, called, files, SystemClock())

    _show(context_of(ctx), _on_host(ctx, out, work))


def _token(file: Path | None) -> str:
    """From a file or standard input: `ps` shows arguments, and /proc the environment."""
    try:
        if file is not None:
            return file.read_text()[:MAX_TOKEN_BYTES].strip()
        return sys.stdin.readline(MAX_TOKEN_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput.of("token", f"can't be read: {type(error).__name__}") from None


def _on_host(
    ctx: typer.Context, out: Path, work: Callable[[HostCalls], Awaitable[Outcome]]
) -> Outcome:
    try:
        # A host proves itself in what it sends; nobody's API key has to lie here.
        return context_of(ctx).ask(lambda client: work(client.hosts), key="")
    except OSError as error:
        raise InvalidInput.of(str(out), f"can't be used: {error.strerror}") from None


def _show(context: Context, done: Outcome) -> None:
    changed = [str(each) for each in done.changed]
    context.printer.tell(
        {"host": done.host, "keys": done.keys, "changed": changed},
        f"{done.host}: {', '.join(changed) or 'all as it was'}",
    )
