"""`gantry up` and `gantry down`: Gantry on this machine, from its checkout.

The local cluster itself is the business of `infra/local`, which comes with the checkout, not with the wheel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.console import Console

if TYPE_CHECKING:
    from infra.local.account import Account
    from infra.local.layout import Layout

HOME = Path("/var/lib/gantry")
CONSOLE = Console(highlight=False)

Root = Annotated[
    Path | None, typer.Option(help="where the cluster keeps everything; keep it short")
]
Cluster = Annotated[str, typer.Option(help="its name; two of different names don't collide")]
Distributed = Annotated[
    bool, typer.Option("--distributed", help="a process a service, on Kafka and MongoDB's wire")
]


class LocalStack(Protocol):
    """A cluster on this machine, of one process or of many."""

    layout: Layout
    account: Account

    @property
    def registry(self) -> str: ...
    async def start(self) -> None: ...
    async def destroy(self) -> None: ...
    def leftovers(self) -> list[str]: ...
    def admin_key(self) -> str: ...
    async def push_samples(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Where:
    """Which cluster is meant."""

    root: Path | None
    cluster: str
    distributed: bool
    replicas: int = 2

    @property
    def name(self) -> str:
        """Its name; the default tells the two forms apart, so that both can run."""
        return self.cluster or ("distributed" if self.distributed else "local")

    @property
    def directory(self) -> Path:
        """Its directory."""
        return self.root or HOME / self.name


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)


def up(
    root: Root = None,
    cluster: Cluster = "",
    samples: bool = True,
    distributed: Distributed = False,
    replicas: Annotated[int, typer.Option(help="of each service, with --distributed")] = 2,
) -> None:
    """Start Gantry on this machine: Docker engine, Open vSwitch, registry, hostd and the control plane."""

    async def start(stack: LocalStack) -> None:
        await stack.start()
        layout = stack.layout
        CONSOLE.print(f"[bold green]Gantry runs.[/] Console and API: {layout.url}/")
        CONSOLE.print(f"Admin key: {stack.admin_key()}")
        CONSOLE.print(f"  export GANTRY_URL={layout.url} GANTRY_KEY_FILE={layout.admin_key_file}")
        user, _ = stack.account.login
        units = ", ".join(layout.units)
        CONSOLE.print(f"Registry: {stack.registry}, user {user}; {units} pulls from it")
        CONSOLE.print(f"  its password: {stack.account.password_file}")
        if samples:
            for image in (await stack.push_samples()).values():
                CONSOLE.print(f"  sample image {image.name}: {image.reference}")
        stop = "gantry down --distributed" if distributed else "gantry down"
        names = ", ".join(vlan.name for vlan in layout.vlans)
        CONSOLE.print(f"Networks: {names}. Stop it: {stop}")

    _with_stack(Where(root, cluster, distributed, replicas), start)


def down(root: Root = None, cluster: Cluster = "", distributed: Distributed = False) -> None:
    """Stop what `gantry up` started, and remove every trace of it."""

    async def stop(stack: LocalStack) -> None:
        await stack.destroy()
        left = stack.leftovers()
        if left:
            CONSOLE.print(f"[red]left behind:[/] {', '.join(left)}")
            raise typer.Exit(1)
        CONSOLE.print("Gantry is gone.")

    _with_stack(Where(root, cluster, distributed), stop)


def _with_stack(where: Where, work: Callable[[LocalStack], Awaitable[None]]) -> None:
    try:
        from infra.local.distributed import DistributedStack, replicas_at
        from infra.local.layout import Layout
        from infra.local.processes import LocalError
        from infra.local.stack import Stack
        from infra.provision.errors import ProvisionError
    except ImportError:
        CONSOLE.print("[red]This needs a checkout of Gantry, not only its client.[/]")
        raise typer.Exit(2) from None

    def say(text: str) -> None:
        CONSOLE.print(f"[dim]{text}…[/]")

    async def run() -> None:
        layout = Layout(where.name, where.directory)
        if where.distributed:
            count = replicas_at(layout.root) or where.replicas
            await work(DistributedStack(layout, replicas=count, say=say))
        else:
            await work(Stack(layout, say))

    try:
        asyncio.run(run())
    except* (LocalError, ProvisionError) as group:
        CONSOLE.print(f"[red]{group.exceptions[0]}[/]", markup=True)
        raise typer.Exit(1) from None
