"""`gantry dead`: what consumer groups could not handle, and publishing it again."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError
from rich.text import Text

from libs.cli.context import Context, context_of
from libs.cli.output import Column, time_of
from libs.client import GantryClient
from libs.client.dead import MAX_PLACES, DeadLetter, NotReplayed, Replayed
from libs.common.errors import InvalidInput
from libs.common.problems import invalid

dead = typer.Typer(help="Events that could not be handled.", no_args_is_help=True)
Group = Annotated[str, typer.Argument(metavar="GROUP", help="the consumer group, as `ls` shows it")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(dead, name="dead")


@dead.command("ls")
def list_dead(
    ctx: typer.Context,
    group: Annotated[str, typer.Option(help="of this consumer group only")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
) -> None:
    """Dead letters, newest first."""
    context = context_of(ctx)
    answer = context.ask(lambda client: client.dead_letters(group, limit=limit))
    columns = (
        Column("GROUP", lambda d: d.group),
        Column("PLACE", lambda d: d.place),
        Column("TIME", lambda d: time_of(d.time)),
        Column("TOPIC", lambda d: d.topic),
        Column("KEY", lambda d: d.key),
        Column("BYTES", lambda d: d.cut_from or d.size, wide=True, right=True),
        Column("EVENT", lambda d: d.id, wide=True),
        Column("REPLAYED", lambda d: "cut" if d.cut_from else time_of(d.replayed_at)),
        Column("BY", lambda d: d.replayed_by, wide=True),
        Column("REASON", lambda d: d.reason),
    )
    context.printer.rows(answer, answer.letters, columns, "no dead letters")
    if answer.more:
        context.printer.note(f"older ones are left out; --limit is {limit}")


@dead.command()
def show(
    ctx: typer.Context,
    group: Group,
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET")],
) -> None:
    """One dead letter with its headers and value, which may hold secrets."""
    context = context_of(ctx)
    found = context.ask(lambda client: client.dead_letter(group, place))
    if context.printer.is_json:
        context.printer.json(found)
        return
    for name, value in _lines(found):
        context.printer.out.print(Text.assemble((f"{name:<10}", "bold"), value), soft_wrap=True)
    for name, value in found.headers.items():
        context.printer.out.print(Text.assemble((f"  {name}: ", "dim"), value), soft_wrap=True)
    context.printer.out.print(Text(found.value), soft_wrap=True)
    if found.truncated:
        context.printer.note("only the beginning of the value is shown")


def _lines(found: DeadLetter) -> list[tuple[str, str]]:
    replayed = f"{time_of(found.replayed_at)} by {found.replayed_by}" if found.replays else "no"
    if found.cut_from:
        replayed = f"can't be: only {found.size} of its {found.cut_from} bytes were kept"
    return [
        ("group", f"{found.group} {found.place}"),
        ("reason", found.reason),
        ("time", time_of(found.time)),
        ("topic", f"{found.topic} {found.origin}"),
        ("key", found.key),
        ("replayed", replayed),
        ("value", f"{found.size} bytes, {found.encoding}"),
    ]


@dead.command()
def replay(
    ctx: typer.Context,
    group: Group,
    places: Annotated[
        list[str] | None, typer.Argument(metavar="[PARTITION:OFFSET]…", help="as `ls` shows them")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="all that were not replayed yet")
    ] = False,
) -> None:
    """Publish dead letters again, each to the topic it came from."""
    context = context_of(ctx)
    if everything == bool(places):
        raise InvalidInput.of("PARTITION:OFFSET", "name some, or ask for --all", "one of both")
    if len(places or ()) > MAX_PLACES:
        raise InvalidInput.of("PARTITION:OFFSET", "too many at once", f"at most {MAX_PLACES}")
    try:
        done = context.ask(
            lambda client: _all(client, group) if everything else client.replay(group, places or [])
        )
    except ValidationError as error:
        raise invalid(error) from None
    _tell(context, done)


async def _all(client: GantryClient, group: str) -> Replayed:
    """Page by page; what comes of it in one."""
    replayed: list[str] = []
    left: list[NotReplayed] = []
    after = ""
    while True:
        page = await client.replay_all(group, after)
        replayed += page.replayed
        left += page.left
        after = page.next
        if not after:
            return Replayed(group=group, replayed=tuple(replayed), left=tuple(left))


def _tell(context: Context, done: Replayed) -> None:
    if context.printer.is_json:
        context.printer.json(done)
        return
    for each in done.left:
        context.printer.note(f"{done.group} {each.place}: left: {each.reason}")
    places = f": {' '.join(done.replayed)}" if 0 < len(done.replayed) <= 20 else ""
    context.printer.say(f"{done.group}: {len(done.replayed)} replayed{places}")
