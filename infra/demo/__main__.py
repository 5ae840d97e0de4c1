"""`make demo`: Gantry's main job, done for real on this machine, and nothing left behind.

Ends with exit 0 and a table of what was done, or with 1 and what did not hold. `--instances` changes the size.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.demo.crashes import Crashes
from infra.demo.story import DemoFailed, Step, Story
from infra.local.layout import SHARED_OVS, Layout
from infra.local.processes import LocalError
from infra.local.stack import Stack
from libs.client.api import GantryClient
from libs.common.errors import GantryError

CONSOLE = Console()


async def tell(story: Crashes) -> None:
    """All steps in order."""
    await releases(story)
    async with story.step("a job each second, in a container that its runs share") as step:
        step.detail = await story.job("sample-web:v1")
    async with story.step("kill a container behind Gantry's back") as step:
        step.detail = await story.kill_container()
    for name in ("control plane", "executor worker", "hostd"):
        async with story.step(f"kill -9 the {name}") as step:
            step.detail = await story.kill_process(name)
    await finish(story)


async def releases(story: Story) -> None:
    """An app's life on any cluster, under load from the first roll on."""
    size = story.size
    async with story.step(f"deploy v1 × {size}, with health checks") as step:
        await story.release("sample-web:v1")
        step.detail = await story.expect_versions("v1", size)
    story.start_load()
    async with story.step("roll to v2 under load through HAProxy") as step:
        await story.release("sample-web:v2")
        step.detail = await story.expect_versions("v2", size)
    async with story.step("roll back to the release before") as step:
        await story.gantry("rollback", "acme/web")
        step.detail = await story.expect_versions("v1", size)
    async with story.step("deploy a broken v3: rolled back automatically") as step:
        await story.release("sample-web:v3-broken", expect=1)
        step.detail = await story.expect_versions("v1", size)
    async with story.step(f"scale to {2 * size}") as step:
        await story.gantry("scale", "acme/web", str(2 * size))
        step.detail = await story.expect_versions("v1", 2 * size)
    async with story.step(f"scale back to {size}") as step:
        await story.gantry("scale", "acme/web", str(size))
        step.detail = await story.expect_versions("v1", size)


async def finish(story: Story) -> None:
    """Nothing lost: every request but those of the killed container was answered."""
    counts = await story.stop_load()
    forgiven = sum(s.failed for s in story.steps if s.name.startswith("kill a container"))
    if counts["requests"] == 0 or counts["failed"] > forgiven:
        errors = "\n".join(counts["errors"][:10])
        raise DemoFailed(f"{counts['failed']} of {counts['requests']} requests failed:\n{errors}")
    async with story.step("stop the app") as step:
        await story.gantry("stop", "acme/web")
        left = await story.containers()
        if left:
            raise DemoFailed(f"containers are left: {sorted(left)}")
        step.detail = "no container is left"


def table(steps: list[Step]) -> Table:
    """What was done."""
    shown = Table(title="Gantry demo", title_style="bold")
    for name in ("step", "seconds", "requests", "failed", "what holds"):
        shown.add_column(
            name, justify="right" if name in ("seconds", "requests", "failed") else "left"
        )
    for step in steps:
        load = (str(step.requests), str(step.failed)) if step.requests else ("", "")
        shown.add_row(step.name, f"{step.seconds:.1f}", *load, step.detail)
    return shown


async def why_not(work: Coroutine[Any, Any, None]) -> str:
    """What kept the work from coming out; "" when it did. What is no known kind of trouble is raised: a bug."""
    said = ""
    try:
        await work
    except* (DemoFailed, LocalError, GantryError) as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        said = str(first) or type(first).__name__
    return said


async def main(size: int, keep: bool, ovs_dir: Path = SHARED_OVS) -> int:
    """Run it; 0 when everything held."""
    root = Path(tempfile.mkdtemp(prefix="gd-", dir="/tmp"))
    cluster = f"demo-{root.name[-4:].lower().replace('_', 'x')}"
    stack = Stack(
        Layout(cluster, root, ovs_dir=ovs_dir), lambda text: CONSOLE.print(f"  [dim]{text}…[/]")
    )
    started = time.monotonic()
    steps: list[Step] = []

    async def whole() -> None:
        CONSOLE.print("[bold cyan]▶ start everything[/]")
        await stack.start()
        images = await stack.push_samples()
        CONSOLE.print(
            f"  [green]✓[/] console: {stack.layout.url}/ [dim](key in {stack.layout.admin_key_file})[/]"
        )
        async with GantryClient.open(stack.layout.url, stack.admin_key()) as client:
            story = Crashes(stack, client, images, size, CONSOLE.print, steps)
            steps.append(Step("start everything", time.monotonic() - started, "ready"))
            try:
                await tell(story)
            finally:
                await story.stop_load()

    failure = ""
    try:
        failure = await why_not(whole())
    finally:
        if failure and keep:
            CONSOLE.print(f"left running in {root}")
        else:
            if failure:
                shutil.copytree(stack.layout.logs, "build/demo-logs", dirs_exist_ok=True)
            await stack.destroy()
    CONSOLE.print(table(steps))
    if not failure and (left := stack.leftovers()):
        failure = f"left behind: {', '.join(left)}"
    if failure:
        CONSOLE.print(f"[bold red]✗ {failure}[/]")
        return 1
    CONSOLE.print(
        f"[bold green]✓ everything held, nothing is left behind[/] [dim]({time.monotonic() - started:.0f} s)[/]"
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=30)
    parser.add_argument("--keep", action="store_true", help="leave a failed demo running")
    parser.add_argument("--ovs-dir", type=Path, default=SHARED_OVS, help="an Open vSwitch to share")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.instances, given.keep, given.ovs_dir)))
