"""Commands of the cluster: nodes, alerts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from libs.cli.context import context_of
from libs.cli.output import Column, number, time_of


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (nodes, alerts):
        app.command()(command)


def nodes(ctx: typer.Context) -> None:
    """Hosts: what they have, and what is reserved."""
    context = context_of(ctx)
    answer = context.ask(lambda client: client.nodes())
    columns = (
        Column("HOST", lambda n: n.hostname or n.agent),
        Column("STATE", lambda n: n.state),
        Column("ZONE", lambda n: n.attributes.get("zone")),
        Column("CLASS", lambda n: n.attributes.get("class")),
        Column("INSTANCES", lambda n: n.instances, right=True),
        Column("CPUS", lambda n: _share(n.reserved_cpus, n.used_cpus, n.cpus, 1), right=True),
        Column(
            "MEM MIB",
            lambda n: _share(n.reserved_mem_mib, n.used_mem_mib, n.mem_mib, 0),
            right=True,
        ),
        Column("MAINTENANCE", lambda n: n.maintenance),
        Column("AGENT", lambda n: n.agent, wide=True),
    )
    context.printer.rows(answer, answer.nodes, columns, "no hosts")


def _share(reserved: float | None, used: float | None, total: float | None, digits: int) -> str:
    taken = reserved if reserved is not None else used
    return f"{number(taken, digits) or '?'}/{number(total, digits) or '?'}"


def alerts(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", "-a", help="resolved ones too")] = False,
) -> None:
    """What is wrong."""
    context = context_of(ctx)
    answer = context.ask(lambda client: client.alerts("" if everything else "firing"))
    columns = (
        Column("ALERT", lambda a: a.alert),
        Column("SEVERITY", lambda a: a.severity),
        Column("STATE", lambda a: a.state),
        Column("SINCE", lambda a: time_of(_extra(a, "since"))),
        Column("SUMMARY", lambda a: a.summary),
    )
    context.printer.rows(answer, answer.alerts, columns, "no alerts")


def _extra(view: Any, name: str) -> Any:
    return (view.model_extra or {}).get(name)
