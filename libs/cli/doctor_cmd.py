"""`gantry network doctor`: what is wrong with hosts' networks, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from pydantic import BaseModel

from libs.cli.context import Context, context_of
from libs.cli.exits import Exit
from libs.cli.output import Column
from libs.client import GantryClient
from libs.client.doctor import NetworkDiagnosis, NetworkFinding
from libs.common.errors import NotFound, Unavailable

GROUP = "network"


class Diagnoses(BaseModel):
    """The answer of all hosts that were asked, and those that did not answer, with why."""

    hosts: tuple[NetworkDiagnosis, ...]
    away: dict[str, str]


@dataclass(frozen=True)
class _Row:
    host: str
    finding: NetworkFinding


def register(app: typer.Typer) -> None:
    """Add the command to the group `network`, which is made when no other module has."""
    known = [each.typer_instance for each in app.registered_groups if each.name == GROUP]
    group = known[0] if known else None
    if group is None:
        group = typer.Typer(help="Networks.", no_args_is_help=True)
        app.add_typer(group, name=GROUP)
    if doctor not in [each.callback for each in group.registered_commands]:
        group.command()(doctor)
        if len(group.registered_commands) == 1 and group.registered_callback is None:
            group.callback()(_group)  # a group of one command would be that command


def _group() -> None:
    """Networks."""


def doctor(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="this host only; default: all that are up")] = "",
) -> None:
    """Look at hosts' networks now. Exits with 1 when something is wrong, or a host does not answer."""
    context = context_of(ctx)
    found = context.ask(lambda client: _ask(client, host))
    _show(context, found)
    if found.away or any(each.findings for each in found.hosts):
        raise typer.Exit(Exit.FAILED)


async def _ask(client: GantryClient, host: str) -> Diagnoses:
    if host:
        return Diagnoses(hosts=(await client.hosts.diagnose(host),), away={})
    nodes = await client.nodes()
    names = sorted(
        {each.hostname for each in nodes.nodes if each.hostname and each.state != "lost"}
    )
    hosts, away = [], {}
    for name in names:
        try:
            hosts.append(await client.hosts.diagnose(name))
        except (NotFound, Unavailable) as error:
            away[name] = str(error)
    return Diagnoses(hosts=tuple(hosts), away=away)


def _show(context: Context, found: Diagnoses) -> None:
    rows = [_Row(each.host, finding) for each in found.hosts for finding in each.findings]
    columns = (
        Column("HOST", lambda row: row.host),
        Column("CHECK", lambda row: row.finding.check),
        Column("INSTANCE", lambda row: row.finding.instance or row.finding.container or "-"),
        Column("ATTACHMENT", lambda row: row.finding.attachment, wide=True),
        Column("WHAT", lambda row: sentence(row.finding)),
    )
    looked = sum(each.attachments for each in found.hosts)
    well = f"{len(found.hosts)} hosts and {looked} attachments looked at: nothing is wrong"
    context.printer.rows(found, rows, columns, "no findings" if found.away else well)
    for name, why in found.away.items():
        context.printer.note(f"{name} could not be asked: {why}")


def sentence(finding: NetworkFinding) -> str:
    """What is wrong, by what one sees it, and what to do."""
    evidence = f" ({finding.evidence})" if finding.evidence else ""
    return f"{finding.what}{evidence}. {finding.advice}".strip()
