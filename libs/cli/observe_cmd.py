"""Commands that look on: events, logs and stats."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated, Any

import typer
from rich.text import Text

from libs.cli.context import Context, context_of
from libs.cli.output import Column, number, time_of
from libs.client import GantryClient
from libs.client.model import EventView, InstanceView, View
from libs.client.stats import InstanceStats, cpus_between
from libs.common.errors import GantryError, InvalidInput, NotFound
from libs.common.waiting import TaskGroup

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")
MAX_FOLLOWED = 50
MAX_ASKED = 8  # at a time
MIB = 2**20


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(events)
    app.command()(logs)
    app.command()(stats)


def events(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on for ever")] = False,
    topic: Annotated[
        list[str] | None, typer.Option("--topic", "-t", help="such as deploy.*; may be repeated")
    ] = None,
    subject: Annotated[str, typer.Option(help="about this app or instance only")] = "",
    since: Annotated[
        str, typer.Option(metavar="CURSOR", help="after this event (its `cursor` in -o json)")
    ] = "",
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, help="stop after so many seconds")
    ] = None,
) -> None:
    """What happens, as it happens. Without --follow: until the first event has been shown."""
    context = context_of(ctx)

    async def run(client: GantryClient) -> None:
        async with aclosing(client.events(topic or (), subject, since)) as stream:
            async for event in stream:
                _show_event(context, event)
                if not follow:
                    return

    async def bounded(client: GantryClient) -> None:
        try:
            async with asyncio.timeout(timeout):
                await run(client)
        except TimeoutError:
            pass

    context.ask(bounded)


def _show_event(context: Context, event: EventView) -> None:
    if context.printer.is_json:
        context.printer.line(event)
        return
    data = event.data
    told = [
        f"{name}={data[name]}"
        for name in ("state", "release", "hostname", "address", "reason", "message", "summary")
        if data.get(name) not in (None, "")
    ]
    context.printer.out.print(
        Text.assemble(
            (time_of(event.time), "dim"), "  ", (event.topic, "bold"), "  ", event.subject, "  ",
            (" ".join(told), "dim"),
        ),
        soft_wrap=True,
    )  # fmt: skip


def logs(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(metavar="APP|INSTANCE")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="go on as more is written")
    ] = False,
    tail: Annotated[int, typer.Option(min=0, max=10_000, help="last lines of each instance")] = 100,
    since: Annotated[int, typer.Option(min=0, help="not before this time, Unix seconds")] = 0,
) -> None:
    """What an instance, or every instance of an app, writes."""
    context = context_of(ctx)

    async def run(client: GantryClient) -> None:
        found = await _instances(context, client, what)
        async with TaskGroup() as group:
            for n, each in enumerate(found):
                prefix = each.instance if len(found) > 1 else ""
                group.create_task(
                    _print_log(
                        context, client, each.instance, prefix, COLOURS[n % len(COLOURS)],
                        {"follow": follow, "tail": tail, "since": since},
                    )
                )  # fmt: skip

    try:
        context.ask(run)
    except BaseExceptionGroup as group:  # one instance's trouble is told as itself
        raise group.exceptions[0] from None


async def _instances(context: Context, client: GantryClient, what: str) -> list[InstanceView]:
    if "/" not in what:
        known = await client.instances()
        same = [each for each in known.instances if each.instance == what]
        if same:
            return same
        if not context.settings.bu:
            raise NotFound(f"there is no instance {what!r}; an app is named bu/app, or with --bu")
    app = context.settings.app(what)
    found = [each for each in (await client.instances(app)).instances if each.container]
    if not found:
        raise NotFound(f"{app} has no instance with a container")
    if len(found) > MAX_FOLLOWED:
        raise InvalidInput.of(
            "APP", f"{app} has {len(found)} instances", f"at most {MAX_FOLLOWED}, or one instance"
        )
    return found


async def _print_log(
    context: Context,
    client: GantryClient,
    instance: str,
    prefix: str,
    colour: str,
    options: dict[str, Any],
) -> None:
    printer = context.printer
    async with aclosing(client.logs(instance, **options)) as lines:
        async for line in lines:
            if printer.is_json:
                printer.line({"instance": instance, **line})
                continue
            head = Text(f"{prefix}  ", style=colour) if prefix else Text()
            style = "red" if line.get("stream") == "stderr" else ""
            printer.out.print(head + Text(str(line.get("line", "")), style=style), soft_wrap=True)


def stats(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(metavar="APP|INSTANCE")],
    interval: Annotated[
        float, typer.Option(min=0.1, max=60, help="seconds over which processors are counted")
    ] = 1.0,
) -> None:
    """What an instance, or every instance of an app, uses now."""
    context = context_of(ctx)

    async def run(client: GantryClient) -> list[Use]:
        found = await _instances(context, client, what)
        at_once = asyncio.Semaphore(MAX_ASKED)

        async def of(instance: str) -> InstanceStats:
            async with at_once:
                return await client.stats(instance)

        async def use(instance: str) -> Use:
            try:
                before = await of(instance)
                await asyncio.sleep(interval)
                after = await of(instance)
            except GantryError as error:  # an app's instances come and go; one alone must be there
                if len(found) == 1:
                    raise
                return Use(instance=instance, error=str(error))
            return Use(instance=instance, cpus=cpus_between(before, after), stats=after)

        return list(await asyncio.gather(*(use(each.instance) for each in found)))

    answer = Uses(instances=tuple(context.ask(run)))
    context.printer.rows(answer, answer.instances, USE_COLUMNS, "no instances")


class Use(View):
    """A row of `stats`: processors in use and the newest numbers, or why there are none."""

    instance: str
    cpus: float | None = None
    stats: InstanceStats | None = None
    error: str = ""


class Uses(View):
    """All of them."""

    instances: tuple[Use, ...]


def _memory(use: Use) -> str:
    if use.stats is None:
        return ""
    most = number(use.stats.mem_limit_bytes / MIB, 0) if use.stats.mem_limit_bytes else "?"
    return f"{use.stats.mem_bytes / MIB:.1f}/{most}"


def _traffic(use: Use) -> str:
    network = use.stats.network if use.stats else None
    return f"{network.rx_bytes / MIB:.2f}/{network.tx_bytes / MIB:.2f}" if network else ""


USE_COLUMNS = (
    Column("INSTANCE", lambda u: u.instance),
    Column("CPUS", lambda u: number(u.cpus, 2), right=True),
    Column("MEM MIB", _memory, right=True),
    Column("RX/TX MIB", _traffic, right=True),
    Column("PIDS", lambda u: u.stats.pids if u.stats else None, right=True),
    Column("", lambda u: u.error or " "),
)
