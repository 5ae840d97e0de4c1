"""`gantry up` and `gantry down`: Gantry on this machine, from its checkout.

The local cluster itself is the business of `infra/local`, which comes with the checkout, not with the wheel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from infra.local.stack import Stack

DEFAULT_ROOT = Path("/var/lib/gantry/local")
CONSOLE = Console(highlight=False)

Root = Annotated[Path, typer.Option(help="where the cluster keeps everything; keep it short")]
Cluster = Annotated[str, typer.Option(help="its name; two of different names don't collide")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)


def up(root: Root = DEFAULT_ROOT, cluster: Cluster = "local", samples: bool = True) -> None:
    """Start Gantry on this machine: Docker engine, Open vSwitch, registry, hostd and the control plane."""

    async def start(stack: Stack) -> None:
        await stack.start()
        layout = stack.layout
        CONSOLE.print(f"[bold green]Gantry runs.[/] Console and API: {layout.url}/")
        CONSOLE.print(f"Admin key: {stack.admin_key()}")
        CONSOLE.print(f"  export GANTRY_URL={layout.url} GANTRY_KEY_FILE={layout.admin_key_file}")
        if samples:
            for image in (await stack.push_samples()).values():
                CONSOLE.print(f"  sample image {image.name}: {image.reference}")
        CONSOLE.print(
            f"Networks: {', '.join(vlan.name for vlan in layout.vlans)}. Stop it: gantry down"
        )

    _with_stack(root, cluster, start)


def down(root: Root = DEFAULT_ROOT, cluster: Cluster = "local") -> None:
    """Stop what `gantry up` started, and remove every trace of it."""

    async def stop(stack: Stack) -> None:
        await stack.destroy()
        left = stack.leftovers()
        if left:
            CONSOLE.print(f"[red]left behind:[/] {', '.join(left)}")
            raise typer.Exit(1)
        CONSOLE.print("Gantry is gone.")

    _with_stack(root, cluster, stop)


def _with_stack(root: Path, cluster: str, work: Callable[[Stack], Awaitable[None]]) -> None:
    try:
        from infra.local.layout import Layout
        from infra.local.processes import LocalError
        from infra.local.stack import Stack
    except ImportError:
        CONSOLE.print("[red]This needs a checkout of Gantry, not only its client.[/]")
        raise typer.Exit(2) from None

    async def run() -> None:
        await work(Stack(Layout(cluster, root), lambda text: CONSOLE.print(f"[dim]{text}…[/]")))

    try:
        asyncio.run(run())
    except* LocalError as group:
        CONSOLE.print(f"[red]{group.exceptions[0]}[/]", markup=True)
        raise typer.Exit(1) from None
